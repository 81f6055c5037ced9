"""The real controller of a real local stack, killed with SIGKILL at every named point of a rollout, while users ask.

One rollout meets all its points, each in another life of the controller, and is brought to its end by the ordinary one.
`killed_controller` is the process, `kill_points` names the points. `tests/rollout/test_crashes.py` does the same in memory.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deploy_targets.load import LoadReport
from deploy_targets.local import parts, stack
from deploy_targets.local.demo import _BUG
from deploy_targets.local.home import Home
from deploy_targets.local.process import end_all, spawn
from deploy_targets.rollout.audit import Entry, read_chain
from deploy_targets.rollout.audit_trail import read_lines
from deploy_targets.rollout.replay import entries_of, replay
from deploy_targets.routing.traffic import Traffic
from registry.promotion import CHAMPION
from tests.flows.kill_points import GIVEN_BACK, PROMOTED, ROLLED_BACK
from tests.flows.test_the_stack import ENDPOINTS, Stack

pytestmark = [pytest.mark.real, pytest.mark.faults, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[2]
SLICE_S = 5
LIMIT_S = 600
"""For all lives of one rollout, on a machine that is busy with others."""


@dataclass
class Walk:
    """What came of one rollout."""

    version: str
    deaths: dict[str, int]
    """Point to the exit code, in the order in which they were met."""
    report: LoadReport
    began: float
    """When the clients began, by the monotonic clock, which all processes share."""
    times: dict[str, float]
    entries: tuple[Entry, ...]

    def requests_after(self, moment: float) -> dict[str, int]:
        """By version, in the slices that begin later than that by one slice: answers under way then are in before."""
        later = [one for one in self.report.timeline if self.began + one.from_s > moment + SLICE_S]
        return {
            version: sum(one.requests[version] for one in later) for version in self.report.versions
        }


class KilledStack(Stack):
    """The stack, with v1 serving; its controller can be another one."""

    def end_controller(self) -> None:
        os.kill(self.info.processes["controller"].pid, signal.SIGTERM)
        self.until(lambda: not self.info.alive()["controller"])

    def walk(self, version: str, points: tuple[str, ...], *, system_share: float) -> Walk:
        """`version` is asked for, and the controller dies at each of the points."""
        self.end_controller()
        with self.clients(system_share=system_share, clients=2) as clients:
            began = time.monotonic()
            clients.wait_for_answers(4)
            self.point("challenger", version)
            deaths = self.die_at(points)
            self.up()
            self.until(self.is_quiet)
            clients.wait_for_answers(clients.report.requests + 20)
            # Whoever was given back would be met here, if he were met again.
            last = time.monotonic() + 3 * SLICE_S
            self.until(lambda: time.monotonic() > last)
        state = self.composition.store().load("chat").state
        lines = read_lines(self.composition.records(), "chat")
        return Walk(
            version=version,
            deaths={one["point"]: one["code"] for one in deaths},
            times={one["point"]: one["at"] for one in deaths},
            report=clients.report,
            began=began,
            entries=read_chain(lines, endpoint="chat", tail=state.audit),
        )

    def die_at(self, points: tuple[str, ...]) -> list[dict[str, Any]]:
        """The deaths, until all points were met or the time is over."""
        part = parts.controller(self.home, self.home.secrets(), self.info.ports, self.file)
        told = self.home.log("deaths")
        told.unlink(missing_ok=True)
        record = spawn(
            ["sh", "-c", 'exec "$0" -m tests.flows.killed_controller "$@" >"$DEATHS"',
             sys.executable, self.file.resolve(), *points],
            log=self.home.log("killed"),
            environment={
                **stack.inherited_environment(),
                **part.environment,
                "PYTHONPATH": str(ROOT),
                "DEATHS": str(told),
            },
            folder=part.folder,
            mark=self.home.mark("killed"),
        )  # fmt: skip
        deadline = time.monotonic() + LIMIT_S
        while (running := record.find()) is not None and time.monotonic() < deadline:
            time.sleep(0.2)
        if running is not None:
            end_all([running], patience_s=5)
        return [json.loads(line) for line in told.read_text().splitlines()]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KilledStack]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHIPWAY_POLL_S", "2")
        patch.setenv("SHIPWAY_TICK_S", "0.3")
        folder = tmp_path_factory.mktemp("killed")
        try:
            running = KilledStack(folder, ENDPOINTS)
            running.point("challenger", running.register(write_model(folder, 1)))
            running.until(running.is_quiet)
            yield running
        finally:
            stack.down(Home(folder / "home"), announce=print)


def write_model(folder: Path, seed: int, prefix: str = "") -> Path:
    from tests.tiny_model import TEMPLATE, write_tiny_model

    return write_tiny_model(folder / f"model-{seed}", seed=seed, template=prefix + TEMPLATE)


@pytest.fixture(scope="module")
def promoted(running: KilledStack, tmp_path_factory: pytest.TempPathFactory) -> Walk:
    good = running.register(write_model(tmp_path_factory.mktemp("good"), 2))
    return running.walk(good, PROMOTED, system_share=0.3)


@pytest.fixture(scope="module")
def rolled_back(
    running: KilledStack, promoted: Walk, tmp_path_factory: pytest.TempPathFactory
) -> Walk:
    bug = "{%- if messages[0]['role'] == 'system' -%}" + _BUG + "{%- endif -%}"
    bad = running.register(write_model(tmp_path_factory.mktemp("bad"), 3, bug))
    return running.walk(bad, ROLLED_BACK, system_share=0.5)


@pytest.mark.parametrize("point", PROMOTED)
def test_a_controller_killed_at_any_point_of_a_promotion_is_followed_by_another(
    promoted: Walk, point: str
) -> None:
    assert promoted.deaths.get(point) == -signal.SIGKILL, list(promoted.deaths)


@pytest.mark.promise("no request fails", about="kills")
def test_the_good_version_serves_and_no_client_has_noticed(
    running: KilledStack, promoted: Walk
) -> None:
    assert running.past("2", "promoted").champion == "1"
    assert running.answered("2")[0] == "promoted"
    assert promoted.report.failures == 0, promoted.report.faults
    assert promoted.report.versions["2"].requests >= 30
    assert promoted.requests_after(promoted.times["after shift: v2 100"])["1"] == 0
    check_record(promoted)


@pytest.mark.parametrize("point", ROLLED_BACK)
def test_so_is_one_killed_at_any_point_of_a_rollback(rolled_back: Walk, point: str) -> None:
    assert rolled_back.deaths.get(point) == -signal.SIGKILL, list(rolled_back.deaths)


@pytest.mark.promise("no user meets it after its traffic was taken back", about="kills")
def test_the_bad_version_is_gone_and_no_user_has_met_it_again(
    running: KilledStack, rolled_back: Walk
) -> None:
    assert running.past("3", "rolled_back").champion == "2"
    assert running.answered("3")[0] == "turned_down"
    assert running.aliases == {CHAMPION: "2"}
    assert running.observed().traffic == Traffic.all_to("2")
    own = rolled_back.report.versions["3"].failures
    assert own > 0
    assert rolled_back.report.failures == own, rolled_back.report.faults
    later = rolled_back.requests_after(rolled_back.times[GIVEN_BACK])
    assert later["2"] > 0
    assert later["3"] == 0
    check_record(rolled_back)


def check_record(walk: Walk) -> None:
    """Whole to its end, and today's code decides as it did."""
    decided = replay(entries_of(walk.entries, f"chat-v{walk.version}"))
    assert decided.looks > 0
    assert (decided.missed, decided.difference) == (0, None)


def test_the_command_line_finds_the_whole_record(running: KilledStack, rolled_back: Walk) -> None:
    said = running.cli("history", "chat", "--verify", "--json")
    assert f"The audit record is whole: {len(rolled_back.entries)} lines." in said
