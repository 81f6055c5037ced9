"""Twenty endpoints in one controller on real threads, some of whose targets hang: the others' looks keep their time."""

import itertools
import threading
import time
from pathlib import Path

import pytest

from deploy_targets.rollout.controller import Controller, Unit
from deploy_targets.rollout.loop import Loop
from deploy_targets.rollout.settings import ControllerSettings
from deploy_targets.rollout.store import SqliteStore
from deploy_targets.target import Observed
from tests.builders import FakeClock, a_version, an_endpoint
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

ENDPOINTS = 20
POLL_S = 2.0
RUNS_S = 10.0


class TimedTarget(FakeTarget):
    """Remembers when it was looked at; one that hangs answers at the end of the test alone."""

    def __init__(self, *, released: threading.Event | None) -> None:
        super().__init__()
        self._released = released
        self.looks: list[float] = []

    def observe(self) -> Observed:
        self.looks.append(time.monotonic())
        if self._released is not None:
            assert self._released.wait(60)
        return super().observe()

    def longest_pause_s(self, *, until: float) -> float:
        times = [*self.looks, until]
        return max(b - a for a, b in itertools.pairwise(times))


@pytest.mark.parametrize(
    ("hanging", "workers", "limit_s"),
    [
        # The rest has five places and waits for nobody.
        (3, 8, 2 * POLL_S),
        # Those that hang take all places, and each gives its own up after a second: twice two, at the start alone.
        (9, 4, 2 * POLL_S + 3.0),
    ],
)
def test_targets_that_hang_delay_no_other(
    tmp_path: Path, hanging: int, workers: int, limit_s: float
) -> None:
    clock, released = FakeClock(), threading.Event()
    targets = [
        TimedTarget(released=released if number < hanging else None) for number in range(ENDPOINTS)
    ]
    units = tuple(
        Unit(
            endpoint=an_endpoint().model_copy(update={"name": f"e{number}"}),
            target=target,
            counters=FakeUsers(target, clock),
            smoke=FakeSmoke(),
            record=FakeRecord(),
            trail=FakeTrail(),
            inspector=FakeInspector(),
        )
        for number, target in enumerate(targets)
    )
    controller = Controller(
        units,
        registry=FakeRegistry(a_version("6")),
        store=SqliteStore(tmp_path / "state.db"),
        clock=clock,
        leads=lambda: True,
        watcher=FakeWatcher(),
    )
    settings = ControllerSettings(poll_s=POLL_S, tick_s=POLL_S, workers=workers)
    loop = Loop(controller.models, controller.tick, settings=settings, looked=lambda *_: None)
    thread = threading.Thread(target=loop.run)
    thread.start()
    began = time.monotonic()
    time.sleep(RUNS_S)  # what is asserted is what happens in so much time
    until = time.monotonic()
    loop.stop()
    released.set()
    thread.join(60)
    assert not thread.is_alive()

    for target in targets[:hanging]:
        assert len([at for at in target.looks if at < until]) == 1
    for target in targets[hanging:]:
        target.looks.insert(0, began)
        assert target.longest_pause_s(until=until) < limit_s
