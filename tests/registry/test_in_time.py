"""A call that does not come back is left alone, and the next ones are made all the same."""

import threading
from contextvars import ContextVar
from time import monotonic

import pytest

from registry.in_time import InTime, Timely


def test_what_a_call_returns_or_raises_is_the_callers() -> None:
    in_time = InTime(limit_s=60, places=1)
    assert in_time.call(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        in_time.call(divmod, 7, 0)


def test_a_call_that_hangs_ends_in_time_and_the_others_go_on() -> None:
    in_time = InTime(limit_s=1.5, places=2)
    released = threading.Event()
    began = monotonic()
    with pytest.raises(TimeoutError, match=r"no whole answer within 1\.5 s"):
        in_time.call(released.wait, 60)
    assert monotonic() - began < 30
    assert in_time.call(int, "7") == 7
    released.set()


def test_a_call_that_found_no_place_in_time_is_never_made() -> None:
    in_time = InTime(limit_s=1.5, places=1)
    released, made = threading.Event(), []
    for call in (lambda: released.wait(60), lambda: made.append("late")):
        with pytest.raises(TimeoutError):
            in_time.call(call)
    released.set()
    in_time.call(int)
    assert made == []


def test_calls_beyond_the_places_wait_for_one_and_threads_are_bounded() -> None:
    in_time = InTime(limit_s=60, places=3)
    names, together = set[str](), []

    def note() -> None:
        names.add(str(threading.get_ident()))
        together.append(1)

    callers = [threading.Thread(target=in_time.call, args=(note,)) for _ in range(50)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert len(together) == 50
    assert len(names) <= 3


def test_the_callers_context_comes_along_and_attributes_are_attributes() -> None:
    place = ContextVar("place", default="nowhere")
    place.set("here")

    class Inner:
        name = "mlflow"

        def where(self) -> str:
            return place.get()

    timely = Timely(Inner(), InTime(limit_s=60, places=1))
    assert (timely.name, timely.where()) == ("mlflow", "here")
