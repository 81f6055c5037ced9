"""Takes things out of somebody's way: handing over takes microseconds, one thread does the rest. What it is, others say."""

import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

_Thing = TypeVar("_Thing")


class Outbox(Generic[_Thing]):
    """One bounded queue and one thread, which starts with the first thing: servers fork before that."""

    def __init__(self, carry: Callable[[list[_Thing]], None], *, capacity: int) -> None:
        """`carry` gets whatever waits, in order. It may take its time, and must not raise."""
        self._carry = carry
        self._queue: queue.Queue[_Thing] = queue.Queue(capacity)
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def put(self, thing: _Thing) -> bool:
        """Takes it along, or says that there is no room. Never waits."""
        try:
            self._queue.put_nowait(thing)
        except queue.Full:
            return False
        with self._starting:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="shipway", daemon=True)
                self._thread.start()
        return True

    def settle(self, patience_s: float) -> bool:
        """Waits for so long until all is carried; whether it is."""
        done = self._queue.all_tasks_done
        with done:
            return done.wait_for(lambda: not self._queue.unfinished_tasks, patience_s)

    def _run(self) -> None:
        while True:
            batch = [self._queue.get()]
            while not self._queue.empty():
                batch.append(self._queue.get())
            self._carry(batch)
            for _ in batch:
                self._queue.task_done()
