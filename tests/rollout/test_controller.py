"""Whole rollouts on fakes and a fake clock: what users meet, what the registry says, what survives a crash."""

from dataclasses import replace
from pathlib import Path

import pytest

from deploy_targets.endpoint import Endpoint
from deploy_targets.rollout.controller import Controller, Store, Unit
from deploy_targets.rollout.state import Override
from deploy_targets.rollout.store import SqliteStore
from deploy_targets.routing.traffic import Traffic
from registry.errors import EndpointFileInvalid, StateConflict, TargetUnavailable
from registry.promotion import RegistryChange, RegistryFacts, Trigger
from registry.release import Release
from tests.builders import FakeClock, a_release, a_version, an_endpoint
from tests.fakes import (
    FakeInspector,
    FakeRecord,
    FakeRegistry,
    FakeSmoke,
    FakeTarget,
    FakeTrail,
    FakeUsers,
    FakeWatcher,
)


class World:
    """One endpoint with everything around it."""

    def __init__(
        self, folder: Path, endpoint: Endpoint | None = None, *, store: Store | None = None
    ) -> None:
        self.endpoint = endpoint or an_endpoint()
        self.clock = FakeClock()
        self.registry = FakeRegistry(*(a_version(str(n)) for n in range(5, 9)))
        self.target = FakeTarget()
        self.users = FakeUsers(self.target, self.clock)
        self.smoke = FakeSmoke()
        self.record = FakeRecord()
        self.trail = FakeTrail()
        self.inspector = FakeInspector()
        self.leads = True
        self.watcher = FakeWatcher()
        self.store = store or SqliteStore(folder / "state.db")
        self.unit = Unit(
            endpoint=self.endpoint,
            target=self.target,
            counters=self.users,
            smoke=self.smoke,
            record=self.record,
            trail=self.trail,
            inspector=self.inspector,
        )
        self.restart()

    def restart(self) -> None:
        """The controller's process is another one from here on."""
        self.controller = Controller(
            (self.unit,),
            registry=self.registry,
            store=self.store,
            clock=self.clock,
            leads=lambda: self.leads,
            watcher=self.watcher,
        )

    def tick(self, times: int = 1, *, requests: int = 100) -> None:
        for _ in range(times):
            self.clock.advance(10)
            self.users.send(requests)
            self.controller.tick(self.unit.endpoint.name)

    def release(self, version: str) -> None:
        """Asks for `version` and lets the loop run until nothing is under way."""
        self.registry.aliases["challenger"] = version
        self.tick(30)
        assert self.state.rollout is None

    def go_back(self, *, to: Release | None, reason: str = "operator: back") -> None:
        """Saves an operator's rollback, as the command line does."""
        saved = self.store.load("chat")
        override = Override(to=to, reason=reason)
        self.store.save(replace(saved.state, override=override), expected=saved.revision)

    @property
    def state(self):
        return self.store.load("chat").state

    @property
    def outcomes(self) -> list[str]:
        return list(self.record.outcomes.values())


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def serving(world: World) -> World:
    """v6 serves."""
    world.release("6")
    return world


def test_a_first_release_serves_everything_and_becomes_champion(world: World) -> None:
    world.release("6")
    assert world.target.traffic == Traffic.all_to("6")
    assert world.registry.aliases == {"champion": "6"}
    assert world.outcomes == ["promoted"]


def test_a_good_challenger_walks_the_steps_and_becomes_champion(serving: World) -> None:
    serving.target.shifts.clear()
    serving.release("7")
    assert [shift.percent("7") for shift in serving.target.shifts] == [5, 25, 50, 100]
    assert serving.registry.aliases == {"champion": "7"}
    assert set(serving.target.revisions) == {"7"}
    assert serving.outcomes == ["promoted", "promoted"]


def test_a_bad_challenger_is_rolled_back_and_told_why(serving: World) -> None:
    serving.users.failure_rates["7"] = 0.3
    serving.release("7")
    assert serving.target.traffic == Traffic.all_to("6")
    assert serving.registry.aliases == {"champion": "6"}
    assert "e-value" in serving.registry.versions["7"].tags["shipway.reason"]
    assert set(serving.target.revisions) == {"6"}
    assert serving.outcomes[-1] == "rolled_back"


def test_a_rolled_back_version_is_not_served_again_until_it_is_asked_for_anew(
    serving: World,
) -> None:
    serving.users.failure_rates["7"] = 0.3
    serving.release("7")
    serving.target.shifts.clear()
    serving.tick(5)
    assert serving.target.shifts == []
    serving.users.failure_rates["7"] = 0.0
    serving.release("7")
    assert serving.registry.aliases == {"champion": "7"}


def test_a_rolled_back_version_whose_alias_cannot_be_cleared_stays_rolled_back(
    serving: World,
) -> None:
    serving.users.failure_rates["7"] = 0.5
    serving.registry.aliases["challenger"] = "7"
    serving.tick(4)
    assert serving.target.traffic.percent("7")
    serving.registry.is_away = True
    serving.tick(20)
    assert serving.target.traffic == Traffic.all_to("6")
    serving.registry.is_away = False
    serving.target.shifts.clear()
    serving.tick(5)
    assert serving.target.shifts == []
    assert serving.registry.aliases == {"champion": "6"}


def test_a_version_that_did_not_pass_its_gate_is_refused_before_anything_is_deployed(
    serving: World,
) -> None:
    serving.registry.versions["7"] = a_version("7", passed=False, reasons=("perplexity",))
    serving.release("7")
    assert set(serving.target.revisions) == {"6"}
    assert "perplexity" in serving.registry.versions["7"].tags["shipway.reason"]
    assert serving.registry.aliases == {"champion": "6"}


def test_a_newer_challenger_supersedes_and_starts_over(serving: World) -> None:
    serving.registry.aliases["challenger"] = "7"
    serving.tick(4, requests=10)
    assert serving.target.traffic.percent("7")
    serving.registry.aliases["challenger"] = "8"
    serving.tick(1, requests=10)
    assert serving.target.traffic == Traffic.all_to("6")
    serving.tick(30)
    assert serving.registry.aliases == {"champion": "8"}
    assert serving.outcomes[-2:] == ["superseded", "promoted"]


def test_a_withdrawn_challenger_leaves_at_once(serving: World) -> None:
    serving.registry.aliases["challenger"] = "7"
    serving.tick(4, requests=10)
    del serving.registry.aliases["challenger"]
    serving.tick(2)
    assert serving.target.traffic == Traffic.all_to("6")
    assert serving.outcomes[-1] == "withdrawn"


def test_a_champion_moved_by_hand_is_rolled_out_like_any_challenger(serving: World) -> None:
    serving.registry.aliases["champion"] = "7"
    serving.tick(1)
    assert serving.registry.aliases == {"champion": "6", "challenger": "7"}
    serving.tick(30)
    assert serving.registry.aliases == {"champion": "7"}


def test_a_gap_in_metrics_holds_the_step(serving: World) -> None:
    serving.registry.aliases["challenger"] = "7"
    serving.tick(3)
    assert serving.target.traffic.percent("7") == 5
    serving.users.is_away = True
    seen = serving.state.rollout.evidence.challenger.requests
    serving.tick(10)
    assert serving.state.rollout.evidence.challenger.requests == seen
    assert serving.target.traffic.percent("7") == 5
    serving.users.is_away = False
    serving.tick(30)
    assert serving.registry.aliases == {"champion": "7"}


def test_without_traffic_the_weight_never_rises(serving: World) -> None:
    serving.registry.aliases["challenger"] = "7"
    serving.tick(50, requests=0)
    assert serving.registry.aliases == {"champion": "6", "challenger": "7"}
    assert serving.target.traffic.percent("7") == 5


def test_a_restarted_guard_costs_one_interval_and_no_false_numbers(serving: World) -> None:
    serving.registry.aliases["challenger"] = "7"
    serving.tick(3, requests=20)
    seen = serving.state.rollout.evidence.challenger.requests
    serving.users.restart_guard()
    serving.tick(1, requests=20)
    assert serving.state.rollout.evidence.challenger.requests == seen
    serving.tick(30)
    assert serving.registry.aliases == {"champion": "7"}


def test_a_challenger_that_dies_under_traffic_gets_weight_zero_at_once(serving: World) -> None:
    serving.registry.aliases["challenger"] = "7"
    serving.tick(4, requests=10)
    serving.target.crash("7")
    serving.tick(1, requests=10)
    assert serving.target.traffic == Traffic.all_to("6")
    serving.tick(30)
    assert serving.registry.aliases == {"champion": "7"}


def test_a_challenger_that_keeps_dying_is_rolled_back(serving: World) -> None:
    serving.registry.aliases["challenger"] = "7"
    for _ in range(12):
        serving.tick(1, requests=5)
        if serving.target.traffic.percent("7"):
            serving.target.crash("7")
    serving.tick(3)
    assert serving.outcomes[-1] == "rolled_back"
    assert serving.target.traffic == Traffic.all_to("6")


def test_a_challenger_that_never_gets_ready_is_rolled_back_without_traffic(serving: World) -> None:
    serving.target.never_ready.add("7")
    serving.target.shifts.clear()
    serving.registry.aliases["challenger"] = "7"
    serving.tick(100)
    assert serving.target.shifts == []
    assert "not ready within 900 s" in serving.registry.versions["7"].tags["shipway.reason"]


def test_a_challenger_that_its_platform_gave_up_on_is_rolled_back_at_once(serving: World) -> None:
    serving.target.fail("7", "CUDA out of memory")
    serving.registry.aliases["challenger"] = "7"
    serving.tick(4)
    assert serving.outcomes[-1] == "rolled_back"
    assert "CUDA out of memory" in serving.registry.versions["7"].tags["shipway.reason"]


def test_a_challenger_that_fails_its_smoke_test_gets_no_traffic(serving: World) -> None:
    serving.smoke.failing.add("7")
    serving.target.shifts.clear()
    serving.release("7")
    assert serving.target.shifts == []
    assert serving.outcomes[-1] == "rolled_back"


def test_at_the_time_limit_too_little_data_is_rolled_back_not_passed(tmp_path: Path) -> None:
    world = World(tmp_path, an_endpoint(time_limit_s=200))
    world.release("6")
    world.registry.aliases["challenger"] = "7"
    world.tick(40, requests=1)
    assert world.outcomes[-1] == "rolled_back"
    assert "inconclusive" in world.registry.versions["7"].tags["shipway.reason"]


@pytest.mark.promise("no promotion without its requests", about="clocks")
@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("days", [1, 400])
def test_a_clock_that_jumps_ahead_may_end_a_rollout_and_never_passes_it(
    serving: World, at: int, days: int
) -> None:
    serving.registry.aliases["challenger"] = "7"
    while serving.state.rollout is None or serving.state.rollout.step < at:
        serving.tick()
    before = serving.target.traffic.percent("7")
    serving.clock.advance(days * 86_400)
    for _ in range(20):
        serving.tick(requests=0)
        assert serving.target.traffic.percent("7") in {before, 0}
    assert serving.target.traffic == Traffic.all_to("6")
    assert serving.registry.aliases == {"champion": "6"}
    assert serving.outcomes[-1] == "rolled_back"


def test_a_version_that_was_promoted_and_rolled_back_is_judged_from_nothing_when_it_is_asked_for_again(
    serving: World,
) -> None:
    serving.release("7")
    serving.go_back(to=serving.state.previous)
    serving.tick(10)
    assert serving.target.traffic == Traffic.all_to("6")
    assert serving.registry.aliases == {"champion": "6"}
    serving.target.shifts.clear()
    serving.release("7")
    assert [shift.percent("7") for shift in serving.target.shifts] == [5, 25, 50, 100]
    assert serving.registry.aliases == {"champion": "7"}


@pytest.mark.promise("nothing is decided while nothing is seen")
def test_a_lost_platform_decides_nothing_and_recovers(serving: World) -> None:
    serving.target.is_away = True
    serving.registry.aliases["challenger"] = "7"
    with pytest.raises(TargetUnavailable):
        serving.tick(1)
    assert serving.state.rollout is None
    serving.target.is_away = False
    serving.tick(30)
    assert serving.registry.aliases == {"champion": "7"}


@pytest.mark.promise("what serves comes back by itself")
def test_what_serves_is_deployed_again_when_the_platform_lost_it(serving: World) -> None:
    serving.target.revisions.clear()
    serving.target.traffic = Traffic()
    serving.tick(4)
    assert serving.target.traffic == Traffic.all_to("6")


def test_an_operators_rollback_goes_back_at_once_without_mlflow(serving: World) -> None:
    serving.release("7")
    serving.registry.is_away = True
    serving.go_back(to=serving.state.previous, reason="operator: it talks nonsense")
    serving.tick(5)
    assert serving.target.traffic == Traffic.all_to("6")
    serving.registry.is_away = False
    serving.tick(3)
    assert serving.registry.aliases == {"champion": "6"}
    assert serving.state.serving == a_release("6")


def test_the_journal_is_closed_late_when_mlflow_was_away(serving: World) -> None:
    serving.record.is_away = True
    serving.release("7")
    assert serving.outcomes == ["promoted"]
    serving.record.is_away = False
    serving.tick(1)
    assert serving.outcomes == ["promoted", "promoted"]
    assert serving.state.unreported == ()


@pytest.mark.promise("of two one acts", about="controllers")
def test_a_second_controller_that_saved_first_stops_this_one_before_it_acts(
    serving: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving.registry.aliases["challenger"] = "7"
    observe = serving.target.observe

    def observe_while_another_ticks():
        monkeypatch.setattr(serving.target, "observe", observe)
        serving.controller.tick(serving.unit.endpoint.name)
        return observe()

    monkeypatch.setattr(serving.target, "observe", observe_while_another_ticks)
    with pytest.raises(StateConflict):
        serving.controller.tick(serving.unit.endpoint.name)


def test_at_rest_nothing_is_saved_and_nothing_is_written(serving: World) -> None:
    serving.tick(3)
    revision = serving.store.load("chat").revision
    writes = len(serving.registry.writes)
    serving.tick(10)
    assert serving.store.load("chat").revision == revision
    assert len(serving.registry.writes) == writes


def test_an_endpoint_that_is_given_another_model_is_left_alone(serving: World) -> None:
    unit = replace(
        serving.unit, endpoint=serving.unit.endpoint.model_copy(update={"model": "other"})
    )
    controller = Controller(
        (unit,),
        registry=serving.registry,
        store=serving.store,
        clock=serving.clock,
        leads=lambda: True,
        watcher=serving.watcher,
    )
    writes = len(serving.registry.writes)
    with pytest.raises(EndpointFileInvalid, match="smollm2 v6 serves on endpoint chat"):
        controller.tick(unit.endpoint.name)
    assert serving.target.traffic == Traffic.all_to("6")
    assert len(serving.registry.writes) == writes


@pytest.mark.parametrize("answer", ["a refusal", "a rollback"])
def test_a_version_that_is_clicked_again_right_after_its_answer_is_asked_for_anew(
    serving: World, answer: str
) -> None:
    if answer == "a refusal":
        serving.registry.versions["7"] = a_version("7", passed=False)
    else:
        serving.smoke.failing.add("7")
    serving.registry.aliases["challenger"] = "7"
    looks = 0
    while "challenger" in serving.registry.aliases:
        serving.tick(1)
        looks += 1
        assert looks < 10
    serving.smoke.failing.clear()
    serving.registry.versions["7"] = a_version("7")
    serving.registry.aliases["challenger"] = "7"
    serving.tick(1)
    assert serving.registry.aliases["challenger"] == "7"
    assert serving.state.rollout is not None


def test_a_controller_that_does_not_lead_does_nothing(serving: World) -> None:
    serving.leads = False
    serving.registry.aliases["challenger"] = "7"
    serving.tick(5)
    assert serving.state.rollout is None
    assert serving.registry.aliases == {"champion": "6", "challenger": "7"}


def test_a_controller_that_loses_the_lead_before_it_saves_neither_saves_nor_acts(
    serving: World,
) -> None:
    serving.registry.aliases["challenger"] = "7"
    before = serving.store.load("chat")
    world = serving

    def lose_it(model: str, trigger: Trigger, *, serving: str | None) -> RegistryFacts:
        world.leads = False
        return FakeRegistry.facts(world.registry, model, trigger, serving=serving)

    serving.registry.facts = lose_it  # type: ignore[method-assign]
    with pytest.raises(StateConflict, match="Another controller leads"):
        serving.tick(1)
    assert serving.store.load("chat") == before
    assert set(serving.target.revisions) == {"6"}


@pytest.mark.promise("of two one acts", about="controllers")
def test_a_controller_that_loses_the_lead_while_it_acts_leaves_the_rest_to_the_other(
    serving: World,
) -> None:
    serving.registry.aliases["challenger"] = "7"
    write = serving.registry.write

    def write_and_lose(model: str, change: RegistryChange) -> None:
        write(model, change)
        serving.leads = False

    serving.registry.write = write_and_lose  # type: ignore[method-assign]
    serving.registry.writes.clear()
    with pytest.raises(StateConflict, match="Another controller leads"):
        serving.tick(30)
    assert len(serving.registry.writes) == 1
    serving.registry.write = write  # type: ignore[method-assign]
    serving.leads = True
    serving.tick(5)
    assert serving.registry.aliases == {"champion": "7"}
