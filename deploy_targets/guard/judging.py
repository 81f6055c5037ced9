"""What becomes of an answer's signals: they are counted, and where the policy says what is bad, the answer is judged.

An answer is judged once: when it has ended, or, where its user's word is waited for, when that time is over. Judged is
what a version said in full; what failed or was stopped by a filter is not. Of those that their clients have left only the
ones that were going round in a loop are: a client may well leave these first, and without them a version that loops would
look the better for it. Two versions that behave alike are judged alike all the same.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from deploy_targets import metrics
from deploy_targets.guard.access_control import ANYBODY
from deploy_targets.guard.answered import Answered, Answers
from deploy_targets.guard.counters import Counters
from deploy_targets.guard.errors import PolicyUnusable, RequestInvalid
from deploy_targets.guard.exchange import Exchange
from deploy_targets.guard.json_answers import JsonCheck, json_check
from deploy_targets.guard.outcome import Outcome
from deploy_targets.guard.quality import AnswerWatch, Signs, signs_of
from deploy_targets.guard.wire import Asked
from deploy_targets.pattern_reach import PatternInvalid
from deploy_targets.quality_policy import QualityPolicy, Signal

_MOST_WAITING = 100_000
"""Answers that wait for their users' word; past it the oldest waits no longer."""
_BATCH = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    request_id: str
    version: str | None
    route: str
    is_bad: bool
    until: float


class Judging:
    """The judge of one endpoint's answers."""

    def __init__(
        self,
        policy: QualityPolicy | None,
        signs: Signs,
        counters: Counters,
        answers: Answers,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`signs` are `signs_for` this policy. Without one signals are counted and nothing is judged."""
        self._policy = policy
        self._bad = frozenset(() if policy is None else policy.bad)
        self._signs = signs
        self._counters = counters
        self.answers = answers
        self._clock = clock
        self._waiting: deque[_Waiting] = deque()
        self._settling: asyncio.Task[None] | None = None

    def watch(self, asked: Asked, exchange: Exchange) -> AnswerWatch:
        """What looks on at the answer to this request."""

        def begun(answer_id: str) -> None:
            answered = Answered(
                request_id=exchange.request_id,
                key=(exchange.caller or ANYBODY).name,
                version=exchange.version,
            )
            self.answers.keep(answered, answer_id=answer_id)

        return AnswerWatch(self._signs, json_check=_json_asked(asked), begun=begun)

    def ended(self, exchange: Exchange) -> None:
        """The request is over."""
        watch = exchange.watch
        if watch is None:
            return
        is_whole = exchange.outcome is Outcome.ANSWERED and watch.has_ended
        if not is_whole and exchange.outcome is not Outcome.CANCELLED:
            return
        signals = watch.signals() if is_whole else watch.signals() & {Signal.LOOP}
        self._counters.signalled(exchange.version, signals)
        is_bad = not self._bad.isdisjoint(signals)
        if self._policy is None or not (is_whole or is_bad):
            return
        wait_s = self._policy.feedback_wait_s
        if wait_s is None:
            self._counters.judged(exchange.version, route=exchange.route, is_bad=is_bad)
            return
        waiting = _Waiting(
            request_id=exchange.request_id,
            version=exchange.version,
            route=exchange.route,
            is_bad=is_bad,
            until=self._clock() + wait_s,
        )
        self._waiting.append(waiting)
        if self._settling is None or self._settling.done():
            self._settling = asyncio.get_running_loop().create_task(self._settle())

    async def aclose(self) -> None:
        """Stops waiting; what waits is judged no more, and a reader learns nothing from a guard's last moments anyway."""
        if self._settling is not None:
            self._settling.cancel()
            await asyncio.wait({self._settling})

    async def _settle(self) -> None:
        """Judges what has waited, until nothing waits."""
        while self._waiting:
            over = len(self._waiting) - _MOST_WAITING
            left_s = self._waiting[0].until - self._clock()
            if over <= 0 and left_s > 0:
                await asyncio.sleep(min(left_s, 1.0))
                continue
            due = self._due(over)
            verdicts = await self.answers.said([one.request_id for one in due])
            for one, verdict in zip(due, verdicts, strict=True):
                is_bad = one.is_bad or verdict == metrics.BAD
                self._counters.judged(one.version, route=one.route, is_bad=is_bad)

    def _due(self, over: int) -> list[_Waiting]:
        now, due = self._clock(), list[_Waiting]()
        while self._waiting and len(due) < _BATCH:
            if self._waiting[0].until > now and len(due) >= over:
                break
            due.append(self._waiting.popleft())
        return due


def signs_for(policy: QualityPolicy | None) -> Signs:
    """What is looked for: by the defaults where there is no policy.

    Raises:
        PolicyUnusable: a pattern cannot be matched.
    """
    try:
        return signs_of(policy or QualityPolicy())
    except PatternInvalid as error:
        raise PolicyUnusable(str(error)) from error


def _json_asked(asked: Asked) -> JsonCheck | None:
    """What the answer has to be. A schema that is none is refused elsewhere, or by the engine, or by nobody."""
    if b"response_format" not in asked.body:
        return None
    try:
        return json_check(asked.document())
    except RequestInvalid:
        return None
