"""When is each endpoint looked at? Several at once, each at its own time, so that a slow one delays no other.

An endpoint is due at once when the loop starts and when a hint came in; soon while something is under way there; and
after the poll period when it is at rest. One whose ticks fail is looked at ever more rarely, down to the poll period.
"""

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import structlog

from deploy_targets.rollout.settings import ControllerSettings
from registry.errors import ShipwayError, StateConflict
from registry.events import Event

_ALIVE_PERIODS = 10
"""Poll periods in which nothing came to its end after which the health check says that the loop hangs."""
_JITTER = 0.1
"""The part of a pause by which it is varied, so that endpoints do not ask MLflow all at the same moment."""
_log = structlog.get_logger()


@dataclass(slots=True)
class _Turn:
    """Where one endpoint stands in the loop."""

    due: float = 0.0
    is_running: bool = False
    is_woken: bool = False
    """A hint came while it was being looked at: what it read may be older than the hint."""
    failures: int = 0
    """In a row."""


class Loop:
    """Calls `tick` for each name, until it is stopped."""

    def __init__(
        self, names: tuple[str, ...], tick: Callable[[str], bool], *, settings: ControllerSettings
    ) -> None:
        """`tick` says whether another look is due soon; no error of it ends the loop."""
        self._tick = tick
        self._settings = settings
        self._turns = {name: _Turn() for name in names}
        self._changed = threading.Condition()
        self._stopped = False
        self._progress = time.monotonic()

    def wake(self) -> None:
        """Has every endpoint looked at now instead of at the end of its pause."""
        with self._changed:
            for turn in self._turns.values():
                turn.due, turn.is_woken = 0.0, turn.is_running
            self._changed.notify_all()

    def wake_endpoint(self, name: str) -> None:
        """Has this one looked at now."""
        with self._changed:
            turn = self._turns[name]
            turn.due, turn.is_woken = 0.0, turn.is_running
            self._changed.notify_all()

    def stop(self) -> None:
        """Has the loop end after the ticks in progress. Safe in a signal handler's thread, which may hold the lock."""
        self._stopped = True
        threading.Thread(target=self._notify, daemon=True).start()

    def is_alive(self) -> bool:
        """Whether any tick has come to its end lately."""
        limit = _ALIVE_PERIODS * max(self._settings.poll_s, self._settings.tick_s)
        return time.monotonic() - self._progress < limit

    def run(self) -> None:
        """Blocks until `stop`, and until the ticks in progress have ended."""
        with ThreadPoolExecutor(self._settings.workers, thread_name_prefix="tick") as pool:
            while not self._stopped:
                with self._changed:
                    now = time.monotonic()
                    ready = [
                        name
                        for name, turn in self._turns.items()
                        if not turn.is_running and turn.due <= now
                    ]
                    # The one that has waited longest goes first: nobody starves where there are few workers.
                    for name in sorted(ready, key=lambda one: self._turns[one].due):
                        self._turns[name].is_running = True
                        pool.submit(self._take_turn, name)
                    self._changed.wait(self._pause(now))

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _pause(self, now: float) -> float:
        waiting = [turn.due for turn in self._turns.values() if not turn.is_running]
        return max(0.0, min(waiting, default=now + self._settings.poll_s) - now)

    def _take_turn(self, name: str) -> None:
        is_busy, went_well = self._safe_tick(name)
        with self._changed:
            turn = self._turns[name]
            turn.failures = 0 if went_well else turn.failures + 1
            pause_s = self._settings.tick_s if is_busy else self._settings.poll_s
            if not went_well:
                pause_s *= 2 ** min(turn.failures - 1, 16)
            jitter = 1 - _JITTER * random.random()  # noqa: S311 - spreads load, guards nothing
            pause_s = min(pause_s, self._settings.poll_s) * jitter
            self._progress = time.monotonic()
            turn.due = 0.0 if turn.is_woken else self._progress + pause_s
            turn.is_running = turn.is_woken = False
            self._changed.notify_all()

    def _safe_tick(self, name: str) -> tuple[bool, bool]:
        """Whether another look is due soon, and whether this one went well."""
        try:
            return self._tick(name), True
        except StateConflict as error:
            _log.warning(Event.TICK_FAILED, endpoint=name, error=str(error))
        except ShipwayError as error:
            _log.error(Event.TICK_FAILED, endpoint=name, error=str(error))
        except Exception:  # noqa: BLE001 - the top of the loop: one endpoint's bug must not stop the others
            _log.exception(Event.TICK_FAILED, endpoint=name)
        return True, False
