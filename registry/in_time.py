"""Calls that end in time, whatever the other side does.

A timeout for reading begins anew with each byte, so a server that sends one now and then is waited for as long as it likes.
What is not back in time is left alone in a thread of its own, and its answer is dropped; it ends when the connection does.
The threads are bounded: where all of them are taken, a call waits for one no longer than for its answer.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from functools import partial
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class InTime:
    """So many places for calls of one kind."""

    def __init__(self, *, limit_s: float, places: int) -> None:
        """`limit_s` is the longest that a call may take, and the longest wait for a place."""
        self._limit_s = limit_s
        self._places = threading.BoundedSemaphore(places)

    def call(self, call: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        """What `call` returns or raises.

        Raises:
            TimeoutError: it did neither in time; it may still come to its end.
        """
        if not self._places.acquire(timeout=self._limit_s):
            message = f"all calls under way wait for an answer, and none had one within {self._limit_s:g} s"
            raise TimeoutError(message)
        done: Future[T] = Future()
        work = partial(copy_context().run, call, *args, **named)
        threading.Thread(target=self._work, args=(work, done), daemon=True).start()
        try:
            return done.result(self._limit_s)
        except TimeoutError as error:
            if done.done():
                raise
            message = f"no whole answer within {self._limit_s:g} s"
            raise TimeoutError(message) from error

    def _work(self, work: Callable[[], Any], done: Future[Any]) -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001 - it is the caller's, in whose thread it is raised again
            done.set_exception(error)
        finally:
            self._places.release()


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
