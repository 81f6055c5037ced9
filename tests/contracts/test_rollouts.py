"""Whole rollouts on every Kubernetes target: the real plan and controller, the real adapter, a stand-in for the API server.

The operators are simulated by what they write into statuses. The flows only know `Stage`, so that any other target can
be walked through them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploy_targets.cluster import Cluster
from deploy_targets.endpoint import Endpoint
from deploy_targets.ray_serve.adapter import ray_target
from deploy_targets.rollout.controller import Controller, Unit
from deploy_targets.rollout.store import SqliteStore
from deploy_targets.routing.traffic import Traffic
from deploy_targets.target import Target
from deploy_targets.triton.adapter import triton_target
from registry.errors import TargetUnavailable
from registry.release import Release
from tests.builders import (
    GATEWAY,
    FakeClock,
    a_knative_endpoint,
    a_ray_endpoint,
    a_triton_endpoint,
    a_version,
)
from tests.contracts.operators import Operators
from tests.fakes import FakeRecord, FakeRegistry, FakeSmoke, FakeTrail, FakeUsers
from tests.install.rights import committed, controller_client

POLICY = {
    "steps": [{"weight": weight, "dwell_s": 0} for weight in (5, 25, 50)],
    "promote": {"by": "exposure", "requests": 30},
    "drain_s": 0,
}
Maker = Callable[[Endpoint, Cluster], Target]


def repository(release: Release) -> str:
    return f"s3://models/{release.digest}"


def triton(endpoint: Endpoint, cluster: Cluster) -> Target:
    return triton_target(endpoint, cluster, repository=repository)


WAYS: dict[str, tuple[Callable[..., Endpoint], Maker]] = {
    "ray-serve": (a_ray_endpoint, ray_target),
    "standard": (a_triton_endpoint, triton),
    "knative": (a_knative_endpoint, triton),
}

RIGHTS = {"standard": "triton", "knative": "triton-knative"}
"""How the installation names the rights of a way."""


class Stage:
    """One endpoint on one cluster, with users, a registry and a clock."""

    def __init__(self, way: str, server: Any, folder: Path) -> None:
        self.way = way
        self.server = server
        self.namespace = server.a_namespace()
        self.api = controller_client(server, self.namespace, self.rights())
        make_endpoint, self._make = WAYS[way]
        kubernetes: dict[str, Any] = {"namespace": self.namespace}
        if way != "knative":
            kubernetes["gateway"] = GATEWAY
        if way == "ray-serve":
            kubernetes["image"] = "engine:1"
        self.endpoint = make_endpoint(kubernetes=kubernetes, rollout=POLICY)
        self.operators = Operators(server.admin, self.namespace)
        self.clock = FakeClock()
        self.registry = FakeRegistry(*(a_version(str(n)) for n in range(5, 9)))
        self.smoke = FakeSmoke()
        self.record = FakeRecord()
        self.store = SqliteStore(folder / "state.db")
        self.users = FakeUsers(self, self.clock)  # pyright: ignore[reportArgumentType] - it asks for `traffic` alone
        self.shifts: list[Traffic] = []
        self.restart()

    def rights(self) -> list[Any]:
        """What the controller may do: no more than the installation gives it."""
        return committed(RIGHTS.get(self.way, self.way))

    @property
    def traffic(self) -> Traffic:
        """Where users' requests go."""
        return self.target.observe().traffic

    @property
    def state(self) -> Any:
        return self.store.load("chat").state

    @property
    def outcomes(self) -> list[str]:
        return list(self.record.outcomes.values())

    def fresh_target(self) -> Target:
        """An adapter that has seen nothing yet."""
        cluster = Cluster(self.api, sleep=lambda _: None, jitter=lambda: 0.0)
        return self._make(self.endpoint, cluster)

    def restart(self) -> None:
        """The controller's process is another one from here on."""
        self.target = self.fresh_target()
        self.unit = Unit(
            endpoint=self.endpoint,
            target=self.target,
            counters=self.users,
            smoke=self.smoke,
            record=self.record,
            trail=FakeTrail(),
        )
        self.controller = Controller(
            (self.unit,),
            registry=self.registry,
            store=self.store,
            clock=self.clock,
            leads=lambda: True,
        )

    def tick(self, times: int = 1) -> None:
        for _ in range(times):
            self.clock.advance(10)
            self.operators.reconcile()
            traffic = self.traffic
            if not self.shifts or self.shifts[-1] != traffic:
                self.shifts.append(traffic)
            self.users.send(100)
            self.controller.tick(self.unit.endpoint.name)

    def release(self, version: str) -> None:
        self.registry.aliases["challenger"] = version
        self.finish()
        assert self.record.outcomes, "nothing was rolled out"

    def finish(self) -> None:
        """Lets the loop run until nothing is under way, and a little longer, for what comes after."""
        for _ in range(25):
            self.tick()
            if self.state.rollout is None:
                return self.tick(4)
        return pytest.fail(f"it never came to an end: {self.state.rollout}")

    def reach(self, version: str, percent: int) -> None:
        """Rolls `version` out until it has that share."""
        self.registry.aliases["challenger"] = version
        for _ in range(25):
            self.tick()
            if self.traffic.percent(version) >= percent:
                return
        pytest.fail(f"v{version} never got {percent} %: {self.traffic}")


@pytest.fixture(params=list(WAYS))
def stage(request: pytest.FixtureRequest, cluster: Any, tmp_path: Path) -> Stage:
    return Stage(request.param, cluster, tmp_path)


@pytest.fixture
def serving(stage: Stage) -> Stage:
    """v6 serves."""
    stage.release("6")
    stage.shifts.clear()
    return stage


def percents(stage: Stage, version: str) -> list[int]:
    return [traffic.percent(version) for traffic in stage.shifts]


def test_a_first_release_serves_everything_and_becomes_champion(stage: Stage) -> None:
    stage.release("6")

    assert stage.traffic == Traffic.all_to("6")
    assert stage.registry.aliases == {"champion": "6"}
    assert stage.outcomes == ["promoted"]


def test_a_first_release_that_fails_its_smoke_test_is_taken_away(stage: Stage) -> None:
    stage.smoke.failing.add("6")
    stage.release("6")

    seen = stage.target.observe()
    assert (dict(seen.revisions), seen.traffic) == ({}, Traffic())
    assert stage.outcomes == ["rolled_back"]


def test_a_good_challenger_walks_the_steps_and_only_it_is_left(serving: Stage) -> None:
    serving.release("7")

    assert percents(serving, "7") == [0, 5, 25, 50, 100]
    assert serving.registry.aliases == {"champion": "7"}
    assert set(serving.target.observe().revisions) == {"7"}


def test_a_bad_challenger_is_rolled_back_and_only_the_champion_is_left(serving: Stage) -> None:
    serving.users.failure_rates["7"] = 0.5
    serving.release("7")
    serving.tick(5)

    assert serving.traffic == Traffic.all_to("6")
    assert serving.registry.aliases == {"champion": "6"}
    assert set(serving.target.observe().revisions) == {"6"}
    assert serving.outcomes[-1] == "rolled_back"
    shares = percents(serving, "7")
    assert (shares[0], max(shares) > 0, shares[-1]) == (0, True, 0)
    assert shares == [0, *sorted({one for one in shares if one}), 0], "it got requests again"


def test_what_was_rolled_back_can_be_asked_for_again(serving: Stage) -> None:
    serving.users.failure_rates["7"] = 0.5
    serving.release("7")
    serving.tick(5)
    serving.users.failure_rates["7"] = 0.0

    serving.release("7")

    assert serving.traffic == Traffic.all_to("7")
    assert set(serving.target.observe().revisions) == {"7"}


def test_a_challenger_that_cannot_load_never_gets_a_request_and_says_why(serving: Stage) -> None:
    serving.operators.broken["7"] = "no such tensor"
    serving.release("7")

    assert set(percents(serving, "7")) == {0}
    assert {sum(one.weights.values()) for one in serving.shifts} == {100}
    assert "no such tensor" in serving.registry.versions["7"].tags["shipway.reason"]
    assert serving.traffic == Traffic.all_to("6")


def test_a_challenger_that_fails_its_smoke_test_never_gets_a_request(serving: Stage) -> None:
    serving.smoke.failing.add("7")
    serving.release("7")

    assert set(percents(serving, "7")) == {0}
    assert serving.traffic == Traffic.all_to("6")


def test_users_stay_with_the_champion_while_a_challenger_that_fell_over_is_replaced(
    serving: Stage,
) -> None:
    serving.reach("7", 5)
    serving.operators.kill_pods("7")
    serving.tick()
    serving.operators.reconcile()

    assert serving.traffic == Traffic.all_to("6")
    assert serving.state.rollout.setbacks == 1


@pytest.mark.parametrize("percent", [0, 5, 50, 100])
def test_a_controller_that_starts_anew_in_the_middle_goes_on(serving: Stage, percent: int) -> None:
    serving.reach("7", percent)
    serving.restart()
    serving.finish()

    assert serving.traffic == Traffic.all_to("7")
    assert serving.registry.aliases == {"champion": "7"}
    assert serving.outcomes == ["promoted", "promoted"]


def test_a_new_challenger_takes_the_place_of_the_one_under_way(serving: Stage) -> None:
    serving.reach("7", 25)
    serving.shifts.clear()

    serving.release("8")

    assert percents(serving, "8") == [0, 0, 5, 25, 50, 100]
    assert serving.shifts[1] == Traffic.all_to("6")
    assert set(serving.target.observe().revisions) == {"8"}
    assert serving.outcomes == ["promoted", "superseded", "promoted"]


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
            serving.controller.tick(serving.unit.endpoint.name)

    assert written(serving, ticks, monkeypatch) == []


def test_doing_everything_again_writes_nothing(
    serving: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving.reach("7", 25)
    serving.operators.reconcile()
    release, traffic = serving.state.rollout.challenger, serving.traffic

    def again() -> None:
        serving.target.apply(release)
        serving.target.shift(traffic)
        serving.target.retire("5")

    assert written(serving, again, monkeypatch) == []
    assert written(serving, lambda: serving.target.shift(Traffic.all_to("6")), monkeypatch) != []


def test_what_was_deleted_by_hand_is_made_again(serving: Stage) -> None:
    kinds = {"ray-serve": ("ray.io", "v1", "rayservices")}
    group, version, plural = kinds.get(
        serving.way, ("serving.kserve.io", "v1beta1", "inferenceservices")
    )
    serving.operators._custom.delete_collection_namespaced_custom_object(
        group, version, serving.namespace, plural
    )
    serving.tick(6)

    assert serving.traffic == Traffic.all_to("6")
    assert serving.target.observe().is_ready("6")


def test_an_api_server_that_is_away_for_a_while_changes_nothing(serving: Stage) -> None:
    serving.reach("7", 25)
    serving.server.server.go_away()
    with pytest.raises(TargetUnavailable):
        serving.controller.tick(serving.unit.endpoint.name)
    serving.server.server.come_back()

    serving.finish()

    assert serving.traffic == Traffic.all_to("7")
    assert serving.outcomes == ["promoted", "promoted"]
