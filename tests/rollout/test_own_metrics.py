"""What the controller tells of itself: every series from the start, and the leader's alone."""

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from deploy_targets import metrics
from deploy_targets.rollout.loop import LookResult
from deploy_targets.rollout.own_metrics import OwnMetrics
from deploy_targets.rollout.state import Phase
from tests.rollout.test_controller import World


class Page:
    """The metrics of a controller with endpoints a and b."""

    def __init__(self) -> None:
        self.leads = True
        self.registry = CollectorRegistry()
        self.own = OwnMetrics(self.registry, endpoints=("a", "b"), leads=lambda: self.leads)

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)


@pytest.fixture
def page() -> Page:
    return Page()


def test_all_series_are_there_at_zero_before_anything_happened(page: Page) -> None:
    for result in LookResult:
        assert page.value("shipway_reconcile_seconds_count", result=result) == 0
    for endpoint in ("a", "b"):
        assert page.value("shipway_reconcile_failures_total", endpoint=endpoint) == 0
    for phase in Phase:
        assert page.value("shipway_rollouts", phase=phase) == 0
    assert page.value("shipway_oldest_unserved_change_seconds") == 0
    assert page.value("shipway_leader") == 1


def test_the_names_are_those_that_are_declared(page: Page) -> None:
    found = {family.name for family in page.registry.collect()}
    series = (
        metrics.LOOKS,
        metrics.FAILED_LOOKS,
        metrics.UNSERVED_AGE,
        metrics.LEADER,
        metrics.UNDER_WAY,
    )
    assert {one.name.removesuffix("_total") for one in series} <= found


def test_a_look_is_counted_by_its_end_and_a_failure_by_its_endpoint(page: Page) -> None:
    page.own.looked("a", LookResult.DONE, 0.02)
    page.own.looked("b", LookResult.FAILED, 10.0)
    assert page.value("shipway_reconcile_seconds_sum", result="done") == 0.02
    assert page.value("shipway_reconcile_seconds_bucket", result="failed", le="10.0") == 1
    assert page.value("shipway_reconcile_failures_total", endpoint="a") == 0
    assert page.value("shipway_reconcile_failures_total", endpoint="b") == 1


def test_a_follower_counts_nothing_and_shows_nothing(page: Page) -> None:
    page.own.watch_hints(lambda: 7.0)
    page.own.saw("a", phase=Phase.STEPPING, is_unserved=True)
    page.leads = False
    page.own.looked("a", LookResult.FAILED, 1.0)
    assert page.value("shipway_reconcile_seconds_count", result="failed") == 0
    assert page.value("shipway_reconcile_failures_total", endpoint="a") == 0
    assert page.value("shipway_rollouts", phase="stepping") == 0
    assert page.value("shipway_oldest_unserved_change_seconds") == 0
    assert page.value("shipway_leader") == 0


def test_rollouts_are_counted_by_the_phase_in_which_they_were_seen_last(page: Page) -> None:
    page.own.saw("a", phase=Phase.WARMING, is_unserved=False)
    page.own.saw("b", phase=Phase.STEPPING, is_unserved=False)
    page.own.saw("a", phase=Phase.STEPPING, is_unserved=False)
    assert page.value("shipway_rollouts", phase="stepping") == 2
    page.own.saw("a", phase=None, is_unserved=False)
    assert page.value("shipway_rollouts", phase="stepping") == 1
    assert page.value("shipway_rollouts", phase="warming") == 0


def test_the_oldest_of_what_waits_is_told_be_it_a_hint_or_a_request(page: Page) -> None:
    page.own.saw("a", phase=None, is_unserved=True)
    first = page.own.oldest_unserved_s()
    page.own.saw("a", phase=None, is_unserved=True)
    assert page.own.oldest_unserved_s() >= first > 0
    page.own.watch_hints(lambda: 50.0)
    assert page.own.oldest_unserved_s() == 50
    page.own.watch_hints(lambda: 0.0)
    page.own.saw("a", phase=None, is_unserved=False)
    assert page.own.oldest_unserved_s() == 0


def test_a_request_waits_while_its_version_cannot_be_inspected_and_no_longer(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    world.inspector.is_away = True
    world.registry.aliases["challenger"] = "6"
    world.tick()
    assert world.watcher.unserved == {"chat"}
    world.inspector.is_away = False
    world.tick()
    assert world.watcher.unserved == set()
    assert world.watcher.phases["chat"] is Phase.WARMING


def test_a_refused_request_does_not_wait(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.inspector.faults["6"] = "its bytes are gone"
    world.registry.aliases["challenger"] = "6"
    world.tick()
    assert world.watcher.unserved == set()
    assert world.registry.versions["6"].tags["shipway.reason"] == "refused: its bytes are gone"


def test_one_that_no_longer_leads_forgets_what_it_saw(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.inspector.is_away = True
    world.registry.aliases["challenger"] = "6"
    world.tick()
    world.leads = False
    world.tick()
    assert (world.watcher.unserved, world.watcher.phases["chat"]) == (set(), None)
