"""Whole rollouts on every target, by the real plan and controller: first release, canary, rollback, crash, supersede.

The local targets are real, with a guard, an Envoy and clients that ask through them; on Kubernetes the API server may be the
stand-in, the operators are simulated, and so are the users. What only a cluster can do is asked of the clusters alone. On the local ones v6 goes on
serving from test to test, so those that leave it in place stand first.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy_targets.routing.traffic import Traffic
from registry.errors import TargetUnavailable
from tests.contracts import local_stage
from tests.contracts.cluster_stage import WAYS, ClusterStage
from tests.contracts.stage import Stage
from tests.local.platform import Platform, a_platform, needs_triton
from tests.servers import Servers


@pytest.fixture(scope="module")
def ray(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with a_platform(tmp_path_factory.mktemp("ray")) as platform:
        platform.start_ray(servers.environment)
        platform.start_front(local_stage.ENDPOINT)
        yield platform


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with a_platform(tmp_path_factory.mktemp("triton")) as platform:
        platform.start_front(local_stage.TRITON_ENDPOINT)
        yield platform


@pytest.fixture(scope="module")
def models(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> local_stage.Models:
    return local_stage.Models(servers, tmp_path_factory.mktemp("models"))


LOCAL = [
    pytest.param("local-ray", marks=pytest.mark.real),
    pytest.param("local-triton", marks=[pytest.mark.real, needs_triton]),
]
on_every_target = pytest.mark.parametrize("stage", [*WAYS, *LOCAL], indirect=True)


@pytest.fixture(params=list(WAYS))
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Stage:
    find = request.getfixturevalue
    if request.param == "local-ray":
        return local_stage.ray_stage(find("ray"), find("models"), tmp_path)
    if request.param == "local-triton":
        where = find("servers").environment
        return local_stage.triton_stage(find("triton"), find("models"), tmp_path, where)
    return ClusterStage(request.param, find("cluster"), tmp_path)


@pytest.fixture
def serving(stage: Stage) -> Stage:
    """v6 serves."""
    stage.serve("6")
    stage.shifts.clear()
    stage.record.outcomes.clear()
    return stage


@on_every_target
def test_a_first_release_that_fails_its_smoke_test_is_taken_away(stage: Stage) -> None:
    stage.clear()
    stage.fail_smoke_of("6")

    stage.release("6")

    seen = stage.target.observe()
    assert (dict(seen.revisions), seen.traffic) == ({}, Traffic())
    assert stage.outcomes == ["rolled_back"]


@on_every_target
def test_a_first_release_serves_everything_and_becomes_champion(stage: Stage) -> None:
    stage.clear()

    stage.release("6")

    assert stage.traffic == Traffic.all_to("6")
    assert stage.registry.aliases == {"champion": "6"}
    assert stage.outcomes == ["promoted"]


@on_every_target
def test_a_bad_challenger_is_rolled_back_and_only_the_champion_is_left(serving: Stage) -> None:
    serving.fail_users_of("7")
    serving.release("7")
    serving.tick(5)

    assert serving.traffic == Traffic.all_to("6")
    assert serving.registry.aliases == {"champion": "6"}
    assert set(serving.target.observe().revisions) == {"6"}
    assert serving.outcomes[-1] == "rolled_back"
    shares = serving.percents("7")
    assert (shares[0], max(shares) > 0, shares[-1]) == (0, True, 0)
    assert shares == [0, *sorted({one for one in shares if one}), 0], "it got requests again"
    assert serving.client_failures("7") == 0


@on_every_target
def test_a_challenger_that_cannot_load_never_gets_a_request_and_says_why(serving: Stage) -> None:
    why = serving.fail_loading_of("7")
    serving.release("7")

    assert set(serving.percents("7")) == {0}
    assert {sum(one.weights.values()) for one in serving.shifts} == {100}
    assert why in serving.registry.versions["7"].tags["shipway.reason"]
    assert serving.traffic == Traffic.all_to("6")


@pytest.mark.promise("no user meets it before it is well again")
@on_every_target
def test_users_stay_with_the_champion_while_a_challenger_that_fell_over_is_replaced(
    serving: Stage,
) -> None:
    serving.reach("7", 5)
    serving.kill("7")
    serving.tick()
    serving.settle()

    assert serving.traffic == Traffic.all_to("6")
    assert serving.state.rollout.setbacks == 1


@on_every_target
def test_a_good_challenger_walks_the_steps_and_only_it_is_left(serving: Stage) -> None:
    serving.release("7")

    assert serving.percents("7") == [0, 5, 25, 50, 100]
    assert serving.client_failures() == 0
    assert serving.registry.aliases == {"champion": "7"}
    assert set(serving.target.observe().revisions) == {"7"}


def test_what_was_rolled_back_can_be_asked_for_again(serving: Stage) -> None:
    serving.fail_users_of("7")
    serving.release("7")
    serving.tick(5)
    serving.users.failure_rates["7"] = 0.0

    serving.release("7")

    assert serving.traffic == Traffic.all_to("7")
    assert set(serving.target.observe().revisions) == {"7"}


def test_a_challenger_that_fails_its_smoke_test_never_gets_a_request(serving: Stage) -> None:
    serving.fail_smoke_of("7")
    serving.release("7")

    assert set(serving.percents("7")) == {0}
    assert serving.traffic == Traffic.all_to("6")


@on_every_target
def test_a_controller_that_starts_anew_in_the_middle_goes_on(serving: Stage) -> None:
    goes_on_from(serving, 25)


@pytest.mark.parametrize("percent", [0, 5, 50, 100])
def test_a_controller_that_starts_anew_anywhere_goes_on(serving: Stage, percent: int) -> None:
    goes_on_from(serving, percent)


def goes_on_from(serving: Stage, percent: int) -> None:
    serving.reach("7", percent)
    serving.restart()
    serving.finish()

    assert serving.traffic == Traffic.all_to("7")
    assert serving.registry.aliases == {"champion": "7"}
    assert serving.outcomes == ["promoted"]


@on_every_target
def test_a_new_challenger_takes_the_place_of_the_one_under_way(serving: Stage) -> None:
    serving.reach("7", 25)
    serving.shifts.clear()

    serving.release("8")

    assert serving.percents("8") == [0, 0, 5, 25, 50, 100]
    assert serving.shifts[1] == Traffic.all_to("6")
    assert set(serving.target.observe().revisions) == {"8"}
    assert serving.outcomes == ["superseded", "promoted"]


def test_going_back_to_the_version_before_brings_it_back(serving: Stage) -> None:
    serving.release("7")
    serving.release("6")

    assert serving.traffic == Traffic.all_to("6")
    assert set(serving.target.observe().revisions) == {"6"}


def written(stage: Stage, act: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The requests that `act` makes, but reads and dry runs."""
    asked: list[str] = []
    call = stage.api.call_api

    def record(method: str, url: str, *rest: Any, **more: Any) -> Any:
        asked.append(f"{method} {url}")
        return call(method, url, *rest, **more)

    monkeypatch.setattr(stage.api, "call_api", record)
    act()
    monkeypatch.undo()
    assert asked, "nothing was asked at all"
    return [one for one in asked if not one.startswith("GET") and "dryRun=All" not in one]


def test_in_steady_state_nothing_is_written(
    serving: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving.tick(3)

    def ticks() -> None:
        for _ in range(3):
            serving.clock.advance(10)
            serving.look()

    assert written(serving, ticks, monkeypatch) == []


def test_doing_everything_again_writes_nothing(
    serving: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving.reach("7", 25)
    serving.settle()
    release, traffic = serving.state.rollout.challenger, serving.traffic

    def again() -> None:
        serving.target.apply(release)
        serving.target.shift(traffic)
        serving.target.retire("5")

    assert written(serving, again, monkeypatch) == []
    assert written(serving, lambda: serving.target.shift(Traffic.all_to("6")), monkeypatch) != []


def test_what_was_deleted_by_hand_is_made_again(serving: Stage) -> None:
    group, version, plural = serving.kind
    serving.custom.delete_collection_namespaced_custom_object(
        group, version, serving.namespace, plural
    )
    serving.tick(6)

    assert serving.traffic == Traffic.all_to("6")
    assert serving.target.observe().is_ready("6")


@pytest.mark.promise("traffic stays, and the rollout goes on")
@pytest.mark.stand_in("a server that goes away")
def test_an_api_server_that_is_away_for_a_while_changes_nothing(serving: Stage) -> None:
    serving.reach("7", 25)
    serving.server.server.go_away()
    with pytest.raises(TargetUnavailable):
        serving.look()
    serving.server.server.come_back()

    serving.finish()

    assert serving.traffic == Traffic.all_to("7")
    assert serving.outcomes == ["promoted"]
