"""The second try: what a dying version failed before its first byte goes once more, to the version that serves.

A version is dying where it loses its connections, or where a 5xx comes in words that are not its own: those of the split
or of the engine's server about a replica that is gone. A 500 in the engine's own words (OpenAI's error) is its answer to
this request, a bug perhaps, and reaches the client. So does a full queue: too many requests are no death, and the
champion's queue is not there for them. A chat has no side effects, so it may be asked twice.

It goes to the champion. The guard is not told which one that is, but a challenger is never given more than half of the
requests (`Traffic`), so the champion is who has lately answered most. Where that is who failed, there is no second try:
the clients of a dying champion are not put on a version that few have tried, nor is its load put on the few replicas
there. Nor is there one without a version in the failure's head, for it was perhaps the split; or where the client has
named its version; or once half of the time is over.

The first try is counted for its version as every other failure is, a request and an error on route `chat`, so that its
error rate is what it would be without second tries. The second is counted for who answers it, on a route of its own: the
split has drawn the first by chance, but the champion gets the second because another has failed it. Prompts that are long,
or kill, are more frequent among those, so that in a comparison they would make the champion look worse than it is. What
is left is the load: a dying challenger's requests cost the champion time, at most what they will after its end.
"""

import math
import time
from http import HTTPStatus

from deploy_targets.guard.counters import Counters, Finished
from deploy_targets.guard.errors import UpstreamFailed, VersionDied
from deploy_targets.guard.exchange import Exchange
from deploy_targets.guard.outcome import Outcome, is_envelope
from deploy_targets.guard.queue_full import is_queue_full
from deploy_targets.guard.upstream import Answer
from deploy_targets.metrics import AGAIN_ROUTE, CHAT_ROUTE, RETRY_ROUTE

_MEMORY_S = 60.0
"""After which an answer weighs e times less: a burst of a small canary's answers does not make it the champion."""
_NOTHING = 1e-3
"""Of weight: 7 minutes after its last answer a version is forgotten. Who pins one that is gone by then gets an error."""
_DRAWN = (CHAT_ROUTE, AGAIN_ROUTE)
"""Routes of requests whose version the split has chosen."""


class Serving:
    """Which versions have lately answered, by requests that the split has drawn by chance. Pure."""

    def __init__(self) -> None:
        """None has been seen."""
        self._weights: dict[str, float] = {}
        self._as_of = 0.0

    def answered(self, version: str, *, now: float) -> None:
        """One more answer. Times do not go backwards."""
        self._fade(now)
        self._weights[version] = self._weights.get(version, 0.0) + 1.0

    def most(self, *, now: float) -> str | None:
        """Who has lately answered most; None where nobody has."""
        self._fade(now)
        return max(self._weights, key=self._weights.__getitem__, default=None)

    def _fade(self, now: float) -> None:
        left = math.exp((self._as_of - now) / _MEMORY_S)
        faded = {version: weight * left for version, weight in self._weights.items()}
        self._weights = {version: weight for version, weight in faded.items() if weight > _NOTHING}
        self._as_of = now


class SecondTries:
    """Those of one endpoint, as this process sees it: after a start nobody gets one before a version has answered."""

    def __init__(self, counters: Counters, *, timeout_s: float) -> None:
        """`timeout_s` is for a request with both its tries."""
        self._counters = counters
        self._timeout_s = timeout_s
        self._serving = Serving()

    def left_s(self, exchange: Exchange) -> float:
        """Of the request's time."""
        return exchange.started + self._timeout_s - time.perf_counter()

    def other(self, exchange: Exchange) -> str | None:
        """Who would be asked if the version that has this request now failed; None where nobody would."""
        if exchange.route not in _DRAWN or exchange.version is None or exchange.status is not None:
            return None
        if self.left_s(exchange) < self._timeout_s / 2:
            return None
        champion = self._serving.most(now=time.perf_counter())
        return None if champion == exchange.version else champion

    def begin(self, exchange: Exchange, failure: UpstreamFailed, *, of_prompt: int) -> None:
        """Counts the first try against its version. The record begins anew, but for its times and its route.

        So many of its redactions were of the prompt, and stand.
        """
        finished = Finished(seconds=time.perf_counter() - exchange.started, is_error=True)
        self._counters.count(exchange.version, route=exchange.route, finished=finished)
        exchange.failed_first, exchange.failed_with = exchange.version, failure.code
        exchange.route, exchange.version, exchange.usage = RETRY_ROUTE, None, None
        exchange.texts, exchange.first_text_at, exchange.last_text_at = 0, None, None
        del exchange.redactions[of_prompt:]

    def keep(self, exchange: Exchange) -> None:
        """Remembers who answered a request that is over."""
        is_answered = exchange.outcome is Outcome.ANSWERED and exchange.status == HTTPStatus.OK
        if is_answered and exchange.version and exchange.route in _DRAWN:
            self._serving.answered(exchange.version, now=time.perf_counter())


async def living(answer: Answer) -> Answer:
    """The same answer.

    Raises:
        VersionDied: it is a 5xx that the version itself has not said.
    """
    if answer.status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return answer
    body = await answer.whole()
    if not is_envelope(body) and not is_queue_full(answer.status, body):
        raise VersionDied(f"The model did not answer this request (status {answer.status}).")
    return answer.again(body)
