"""When endpoints are looked at: real threads, short times, and no sleeping where an event can be waited for."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from deploy_targets.rollout.loop import LookResult, Loop
from deploy_targets.rollout.settings import ControllerSettings
from registry.errors import StateConflict, TargetUnavailable

_LONG_S = 60.0


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


def a_loop(
    names: tuple[str, ...],
    tick: Callable[[str], bool],
    *,
    settings: ControllerSettings,
    looked: Callable[[str, LookResult, float], None] = lambda *_: None,
) -> Loop:
    """Each endpoint has the model of its own name."""
    return Loop({name: name for name in names}, tick, settings=settings, looked=looked)


def test_every_endpoint_is_looked_at_when_the_loop_starts(ticks: Ticks, running) -> None:
    def tick(name: str) -> bool:
        ticks.add(name)
        return False

    running(a_loop(("a", "b", "c"), tick, settings=some_settings()))
    ticks.wait_for(lambda seen: set(seen) == {"a", "b", "c"})


def test_a_slow_endpoint_delays_no_other(ticks: Ticks, running) -> None:
    release = threading.Event()

    def tick(name: str) -> bool:
        ticks.add(name)
        if name == "slow":
            assert release.wait(_LONG_S)
        return name != "slow"

    running(a_loop(("slow", "quick"), tick, settings=some_settings()))
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
    loop = running(a_loop(("a", "b"), tick, settings=some_settings(tick_s=0.001)))
    for _ in range(20):
        loop.wake()
    ticks.wait_for(lambda seen: min(seen["a"], seen["b"]) >= 20)
    assert most == [1]


def test_a_hint_brings_an_endpoint_at_rest_to_the_front(ticks: Ticks, running) -> None:
    def tick(name: str) -> bool:
        ticks.add(name)
        return False

    loop = running(a_loop(("a",), tick, settings=some_settings()))
    ticks.wait_for(lambda seen: seen["a"] == 1)
    loop.wake()
    ticks.wait_for(lambda seen: seen["a"] >= 2)


@pytest.mark.promise("no click is overlooked", about="hints")
def test_a_hint_that_comes_during_a_look_leads_to_another_one(ticks: Ticks, running) -> None:
    is_inside, may_end = threading.Event(), threading.Event()

    def tick(name: str) -> bool:
        is_inside.set()
        assert may_end.wait(_LONG_S)
        ticks.add(name)
        return False

    loop = running(a_loop(("a",), tick, settings=some_settings()))
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

    running(a_loop(("broken", "well"), tick, settings=some_settings(tick_s=0.005)))
    ticks.wait_for(lambda seen: seen["well"] >= 100)
    assert 1 < ticks.seen["broken"] < 20


def test_a_loop_whose_only_look_hangs_is_not_alive(ticks: Ticks, running) -> None:
    may_end = threading.Event()

    def tick(name: str) -> bool:
        ticks.add(name)
        assert may_end.wait(_LONG_S)
        return False

    loop = a_loop(("a",), tick, settings=some_settings(poll_s=0.1, tick_s=0.1))
    assert loop.is_alive()
    running(loop)
    ticks.wait_for(lambda seen: seen["a"] == 1)
    deadline = time.monotonic() + _LONG_S
    while loop.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    may_end.set()
    while not loop.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# Hints that name a model.


def test_an_endpoint_that_a_hint_names_goes_before_all_that_are_due(ticks: Ticks, running) -> None:
    """One worker, and a hundred endpoints that a first hint has made due."""
    order: list[str] = []
    may_go = threading.Event()

    def tick(name: str) -> bool:
        if ticks.seen[name]:
            assert may_go.wait(_LONG_S)
            order.append(name)
        ticks.add(name)
        return False

    names = tuple(f"e{number}" for number in range(100))
    loop = running(a_loop(names, tick, settings=some_settings(workers=1, tick_s=60)))
    ticks.wait_for(lambda seen: len(seen) == len(names))
    loop.wake()
    loop.wake("e99")
    may_go.set()
    ticks.wait_for(lambda seen: min(seen.values()) == 2)
    # One look, or the two of an abandoned place, may have begun before the second hint.
    assert order.index("e99") <= 2


def test_a_hint_that_names_a_model_has_all_others_looked_at_soon(ticks: Ticks, running) -> None:
    def tick(name: str) -> bool:
        ticks.add(name)
        return False

    loop = running(a_loop(("a", "b"), tick, settings=some_settings(tick_s=0.05)))
    ticks.wait_for(lambda seen: seen["b"] == 1)
    loop.wake("nobody's")
    ticks.wait_for(lambda seen: (seen["a"], seen["b"]) == (2, 2))


@pytest.mark.promise("hints cost others nothing", about="hints")
def test_a_hundred_hints_for_one_model_are_not_a_hundred_looks_at_another(
    ticks: Ticks, running
) -> None:
    def tick(name: str) -> bool:
        ticks.add(name)
        return False

    loop = running(a_loop(("a", "b"), tick, settings=some_settings(tick_s=600)))
    ticks.wait_for(lambda seen: seen["b"] == 1)
    for _ in range(100):
        before = ticks.seen["a"]
        loop.wake("a")
        ticks.wait_for(lambda seen, before=before: seen["a"] > before)
    assert ticks.seen["b"] == 1


@pytest.mark.promise("hints cost others nothing", about="hints")
def test_hints_for_one_model_without_end_starve_no_other(ticks: Ticks, running) -> None:
    def tick(name: str) -> bool:
        ticks.add(name)
        loop.wake("a")
        return False

    loop = a_loop(("a", "b"), tick, settings=some_settings(workers=1, tick_s=0.01))
    running(loop)
    ticks.wait_for(lambda seen: seen["b"] >= 10)


def test_a_hint_is_unanswered_until_a_look_that_began_after_it_went_well(
    ticks: Ticks, running
) -> None:
    is_inside, may_end, may_go_well = threading.Event(), threading.Event(), threading.Event()

    def tick(name: str) -> bool:
        is_inside.set()
        assert may_end.wait(_LONG_S)
        if ticks.seen[name] == 2:
            assert may_go_well.wait(_LONG_S)
        ticks.add(name)
        if ticks.seen[name] == 2:
            message = "away"
            raise TargetUnavailable(message)
        return False

    loop = a_loop(("a",), tick, settings=some_settings(tick_s=0.1, poll_s=0.1))
    assert loop.unanswered_s() == 0
    running(loop)
    assert is_inside.wait(_LONG_S)
    loop.wake("a")
    may_end.set()
    ticks.wait_for(lambda seen: seen["a"] == 2)
    assert loop.unanswered_s() > 0
    may_go_well.set()
    deadline = time.monotonic() + _LONG_S
    while loop.unanswered_s():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_every_look_is_told_with_its_end_and_its_seconds(ticks: Ticks, running) -> None:
    ends: dict[str, Exception | None] = {
        "well": None,
        "late": StateConflict("saved by another"),
        "away": TargetUnavailable("away"),
        "bug": RuntimeError("a bug"),
    }
    told: dict[str, tuple[LookResult, float]] = {}

    def tick(name: str) -> bool:
        time.sleep(0.01)
        if error := ends[name]:
            raise error
        return False

    def looked(name: str, result: LookResult, seconds: float) -> None:
        told.setdefault(name, (result, seconds))
        ticks.add(name)

    running(a_loop(tuple(ends), tick, settings=some_settings(), looked=looked))
    ticks.wait_for(lambda seen: len(seen) == len(ends))
    assert {name: result for name, (result, _) in told.items()} == {
        "well": LookResult.DONE,
        "late": LookResult.CONFLICT,
        "away": LookResult.FAILED,
        "bug": LookResult.FAILED,
    }
    assert all(0.01 <= seconds < _LONG_S for _, seconds in told.values())


# More that hang than there are places.


@pytest.mark.promise("others are looked at in time")
def test_a_look_that_hangs_gives_its_place_up(ticks: Ticks, running) -> None:
    release = threading.Event()

    def tick(name: str) -> bool:
        ticks.add(name)
        if name.startswith("hangs"):
            assert release.wait(_LONG_S)
        return True

    names = (*(f"hangs{number}" for number in range(7)), "quick")
    running(a_loop(names, tick, settings=some_settings(workers=2)))
    ticks.wait_for(lambda seen: seen["quick"] >= 20)
    assert [ticks.seen[name] for name in names[:-1]] == [1] * 7
    release.set()
