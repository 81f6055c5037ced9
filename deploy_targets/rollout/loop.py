"""When is each endpoint looked at? Several at once, each at its own time, so that a slow one delays no other.

An endpoint is due at once when the loop starts and when a hint came in; soon while something is under way there; and
after the poll period when it is at rest. One whose ticks fail is looked at ever more rarely, down to the poll period.

A hint may name a model, which decides the order alone: that model's endpoints first, all others within `tick_s`, spread out,
so that many hints do not become many times as many readings.

There are `workers` places. A look that takes longer than `_SLOW_S` gives its place up and goes on beside the others: however
many targets hang, the rest is looked at in time. One endpoint has one look at a time, so threads are bounded by endpoints.
"""

import math
import random
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum

import structlog

from deploy_targets.rollout.settings import ControllerSettings
from registry.errors import ShipwayError, StateConflict
from registry.events import Event

_ALIVE_PERIODS = 10
"""Poll periods in which nothing came to its end after which the health check says that the loop hangs."""
_JITTER = 0.1
"""The part of a pause by which it is varied, so that endpoints do not ask MLflow all at the same moment."""
_SLOW_S = 1.0
"""A look at rest takes hundredths of a second. A guess, well below any pause and any time limit of a target."""
_log = structlog.get_logger()


class LookResult(StrEnum):
    """How a look ended; a label of the metric."""

    DONE = "done"
    CONFLICT = "conflict"
    """Somebody else saved, or leads by now: nothing was done, and the next look reads everything anew."""
    FAILED = "failed"


@dataclass(slots=True)
class _Turn:
    """Where one endpoint stands in the loop."""

    model: str
    due: float
    """During a look: when a hint that came meanwhile wants the next, for what is being read may be older than the hint."""
    began: float | None = None
    """When the look in progress began; None between two."""
    hinted: float | None = None
    """When the oldest hint came for which no look has begun."""
    answering: float | None = None
    """The same of the look in progress, which answers it unless it fails."""
    failures: int = 0
    """In a row."""


class Loop:
    """Calls `tick` for each endpoint, until it is stopped."""

    def __init__(
        self,
        models: Mapping[str, str],
        tick: Callable[[str], bool],
        *,
        settings: ControllerSettings,
        looked: Callable[[str, LookResult, float], None],
    ) -> None:
        """`models` is the model of each endpoint. `tick` says whether another look is due soon; no error of it ends the loop.

        `looked` is told of each look: the endpoint, how it ended, and how many seconds it took.
        """
        self._tick = tick
        self._settings = settings
        self._looked = looked
        self._changed = threading.Condition()
        self._stopped = False
        self._progress = now = time.monotonic()
        self._turns = {name: _Turn(model=model, due=now) for name, model in models.items()}

    def wake(self, model: str | None = None) -> None:
        """Has every endpoint looked at now instead of at the end of its pause; with a `model` its endpoints, the others soon."""
        with self._changed:
            now = time.monotonic()
            for turn in self._turns.values():
                if model is not None and turn.model != model:
                    spread = 1 - random.random() / 2  # noqa: S311 - spreads load, guards nothing
                    turn.due = min(turn.due, now + self._settings.tick_s * spread)
                    continue
                # Who is named goes before all that have not waited for so long already, and starves nobody.
                head_start_s = 0 if model is None else self._settings.tick_s
                turn.due = min(turn.due, now - head_start_s)
                turn.hinted = now if turn.hinted is None else turn.hinted
            self._changed.notify_all()

    def wake_endpoint(self, name: str) -> None:
        """Has this one looked at now."""
        with self._changed:
            turn = self._turns[name]
            turn.due = min(turn.due, time.monotonic())
            self._changed.notify_all()

    def stop(self) -> None:
        """Has the loop end after the ticks in progress. Safe in a signal handler's thread, which may hold the lock."""
        self._stopped = True
        threading.Thread(target=self._notify, daemon=True).start()

    def is_alive(self) -> bool:
        """Whether any tick has come to its end lately."""
        limit = _ALIVE_PERIODS * max(self._settings.poll_s, self._settings.tick_s)
        return time.monotonic() - self._progress < limit

    def unanswered_s(self) -> float:
        """The age of the oldest hint that no look has answered yet; 0 when all are."""
        with self._changed:
            turns = self._turns.values()
            hints = [at for turn in turns for at in (turn.hinted, turn.answering) if at is not None]
        return time.monotonic() - min(hints) if hints else 0.0

    def run(self) -> None:
        """Blocks until `stop`, and until the ticks in progress have ended."""
        with ThreadPoolExecutor(max(1, len(self._turns)), thread_name_prefix="tick") as pool:
            while not self._stopped:
                with self._changed:
                    now = time.monotonic()
                    for name in self._next(now):
                        turn = self._turns[name]
                        turn.began, turn.due = now, math.inf
                        turn.answering, turn.hinted = turn.hinted, None
                        pool.submit(self._take_turn, name)
                    self._changed.wait(self._pause(now))

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _next(self, now: float) -> list[str]:
        """Who is looked at now: of those that are due as many as there are free places.

        The one that has waited longest goes first: nobody starves where there are few workers.
        """
        due = [name for name, turn in self._turns.items() if turn.began is None and turn.due <= now]
        due.sort(key=lambda name: self._turns[name].due)
        return due[: max(0, self._settings.workers - len(self._places(now)))]

    def _places(self, now: float) -> list[float]:
        """When the looks began that have a place."""
        began = [turn.began for turn in self._turns.values() if turn.began is not None]
        return [one for one in began if now - one < _SLOW_S]

    def _pause(self, now: float) -> float:
        places = self._places(now)
        if len(places) >= self._settings.workers:
            # Until one gives its place up; one that ends before will say so.
            return min(places) + _SLOW_S - now
        waiting = [turn.due for turn in self._turns.values() if turn.began is None]
        return max(0.0, min(waiting, default=now + self._settings.poll_s) - now)

    def _take_turn(self, name: str) -> None:
        began = time.monotonic()
        is_busy, result = self._safe_tick(name)
        ended = time.monotonic()
        self._looked(name, result, ended - began)
        went_well = result is LookResult.DONE
        with self._changed:
            turn = self._turns[name]
            turn.failures = 0 if went_well else turn.failures + 1
            pause_s = self._settings.tick_s if is_busy else self._settings.poll_s
            if not went_well:
                pause_s *= 2 ** min(turn.failures - 1, 16)
            jitter = 1 - _JITTER * random.random()  # noqa: S311 - spreads load, guards nothing
            pause_s = min(pause_s, self._settings.poll_s) * jitter
            self._progress = ended
            turn.due = min(turn.due, ended + pause_s)
            if not went_well and turn.answering is not None:
                turn.hinted = turn.answering
            turn.began = turn.answering = None
            self._changed.notify_all()

    def _safe_tick(self, name: str) -> tuple[bool, LookResult]:
        """Whether another look is due soon, and how this one ended."""
        try:
            return self._tick(name), LookResult.DONE
        except StateConflict as error:
            _log.warning(Event.TICK_FAILED, endpoint=name, error=str(error))
            return True, LookResult.CONFLICT
        except ShipwayError as error:
            _log.error(Event.TICK_FAILED, endpoint=name, error=str(error))
        except Exception:  # noqa: BLE001 - the top of the loop: one endpoint's bug must not stop the others
            _log.exception(Event.TICK_FAILED, endpoint=name)
        return True, LookResult.FAILED
