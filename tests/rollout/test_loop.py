"""When endpoints are looked at: real threads, short times, and no sleeping where an event can be waited for."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from deploy_targets.rollout.loop import Loop
from deploy_targets.rollout.settings import ControllerSettings
from registry.errors import TargetUnavailable

_LONG_S = 20.0


class Ticks:
    """What the loop called, and a way to wait for it."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self._changed = threading.Condition()

    def add(self, name: str) -> None:
        with self._changed:
            self.seen[name] += 1
            self._changed.notify_all()

    def wait_for(self, condition: Callable[[Counter[str]], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self.seen), timeout=_LONG_S), self.seen


@pytest.fixture
def ticks() -> Ticks:
    return Ticks()


@pytest.fixture
def running() -> Iterator[Callable[[Loop], Loop]]:
    started: list[tuple[Loop, threading.Thread]] = []

    def start(loop: Loop) -> Loop:
        thread = threading.Thread(target=loop.run)
        thread.start()
        started.append((loop, thread))
        return loop

    yield start
    for loop, thread in started:
        loop.stop()
        thread.join(_LONG_S)
        assert not thread.is_alive()


def some_settings(**values: object) -> ControllerSettings:
    return ControllerSettings.model_validate({"poll_s": 600, "tick_s": 0.01, "workers": 2} | values)


def test_every_endpoint_is_looked_at_when_the_loop_starts(ticks: Ticks, running) -> None:
    def tick(name: str) -> bool:
        ticks.add(name)
        return False

    running(Loop(("a", "b", "c"), tick, settings=some_settings()))
    ticks.wait_for(lambda seen: set(seen) == {"a", "b", "c"})


def test_a_slow_endpoint_delays_no_other(ticks: Ticks, running) -> None:
    release = threading.Event()

    def tick(name: str) -> bool:
        ticks.add(name)
        if name == "slow":
            assert release.wait(_LONG_S)
        return name != "slow"

    running(Loop(("slow", "quick"), tick, settings=some_settings()))
    ticks.wait_for(lambda seen: seen["quick"] >= 20)
    assert ticks.seen["slow"] == 1
    release.set()


def test_an_endpoint_is_never_looked_at_twice_at_once(ticks: Ticks, running) -> None:
    inside: Counter[str] = Counter()

    def tick(name: str) -> bool:
        inside[name] += 1
        most[0] = max(most[0], inside[name])
        time.sleep(0.002)
        inside[name] -= 1
        ticks.add(name)
        return True

    most = [0]
    loop = running(Loop(("a", "b"), tick, settings=some_settings(tick_s=0.001)))
    for _ in range(20):
        loop.wake()
    ticks.wait_for(lambda seen: min(seen["a"], seen["b"]) >= 20)
    assert most == [1]


def test_a_hint_brings_an_endpoint_at_rest_to_the_front(ticks: Ticks, running) -> None:
    def tick(name: str) -> bool:
        ticks.add(name)
        return False

    loop = running(Loop(("a",), tick, settings=some_settings()))
    ticks.wait_for(lambda seen: seen["a"] == 1)
    loop.wake()
    ticks.wait_for(lambda seen: seen["a"] >= 2)


def test_a_hint_that_comes_during_a_look_leads_to_another_one(ticks: Ticks, running) -> None:
    is_inside, may_end = threading.Event(), threading.Event()

    def tick(name: str) -> bool:
        is_inside.set()
        assert may_end.wait(_LONG_S)
        ticks.add(name)
        return False

    loop = running(Loop(("a",), tick, settings=some_settings()))
    assert is_inside.wait(_LONG_S)
    loop.wake()
    may_end.set()
    ticks.wait_for(lambda seen: seen["a"] == 2)


@pytest.mark.parametrize("error", [TargetUnavailable("away"), RuntimeError("a bug")])
def test_an_endpoint_that_fails_is_looked_at_ever_more_rarely_and_harms_no_other(
    ticks: Ticks, running, error: Exception
) -> None:
    def tick(name: str) -> bool:
        ticks.add(name)
        if name == "broken":
            raise error
        return True

    running(Loop(("broken", "well"), tick, settings=some_settings(tick_s=0.005)))
    ticks.wait_for(lambda seen: seen["well"] >= 100)
    assert 1 < ticks.seen["broken"] < 20


def test_a_loop_whose_only_look_hangs_is_not_alive(ticks: Ticks, running) -> None:
    may_end = threading.Event()

    def tick(name: str) -> bool:
        ticks.add(name)
        assert may_end.wait(_LONG_S)
        return False

    loop = running(Loop(("a",), tick, settings=some_settings(poll_s=0.01, tick_s=0.01)))
    assert loop.is_alive()
    ticks.wait_for(lambda seen: seen["a"] == 1)
    deadline = time.monotonic() + _LONG_S
    while loop.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    may_end.set()
    while not loop.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.01)
