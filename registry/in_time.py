"""Calls that end in time, whatever the other side does.

A timeout for reading begins anew with each byte, so a server that sends one now and then is waited for as long as it likes.
What is not back in time is left alone in its thread, and its answer is dropped; it ends when the connection does. The threads
are bounded: where all of them are taken, a call waits for one, no longer than for its answer, and is then never made.
"""

import threading
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class _Job:
    """One call, on its way to a thread and back."""

    __slots__ = ("answer", "is_given_up", "work")

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work = work
        self.answer: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        self.is_given_up = False


class InTime:
    """So many threads for calls of one kind, each started when it is first wanted.

    They are kept, and handed their calls by the queues of C: a thread for each call, with a future, took as long as the call.
    """

    def __init__(self, *, limit_s: float, places: int) -> None:
        """`limit_s` is the longest that a call may take, the wait for a place included."""
        self._limit_s = limit_s
        self._places = places
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._under_way = 0

    def call(self, call: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        """What `call` returns or raises.

        Raises:
            TimeoutError: it did neither in time. It may still come to its end, unless it had not begun.
        """
        job = _Job(partial(copy_context().run, call, *args, **named))
        with self._lock:
            self._under_way += 1
            if self._threads < min(self._under_way, self._places):
                self._threads += 1
                threading.Thread(target=self._run, name="in-time", daemon=True).start()
        self._jobs.put(job)
        try:
            value, error = job.answer.get(timeout=self._limit_s)
        except Empty:
            job.is_given_up = True
            message = f"no whole answer within {self._limit_s:g} s"
            raise TimeoutError(message) from None
        if error is not None:
            raise error
        return value

    def _run(self) -> None:
        while True:
            self._do(self._jobs.get())

    def _do(self, job: _Job) -> None:
        """Nothing of it is left in the thread afterwards."""
        try:
            # What nobody waits for any more must not change anything either.
            told = (None, None) if job.is_given_up else (job.work(), None)
        except BaseException as error:  # noqa: BLE001 - it is the caller's, in whose thread it is raised again
            told = (None, error)
        with self._lock:
            self._under_way -= 1
        job.answer.put(told)


class Timely:
    """Another object, each of whose methods is called in time."""

    def __init__(self, inner: object, in_time: InTime) -> None:
        """`inner` keeps all its other attributes."""
        self._inner = inner
        self._in_time = in_time

    def __getattr__(self, name: str) -> Any:
        """The other's; a method comes bounded."""
        found = getattr(self._inner, name)
        return partial(self._in_time.call, found) if callable(found) else found
