"""Mirrored requests: what a client has asked is asked of the challenger as well, and the two answers are compared.

It begins when the client has its answer, so it delays none. A mirrored request is whole even where the client's was a
stream. It has a route of its own, its cost is counted for its version and charged to no key. Neither text is kept or
written anywhere.
"""

import time
from dataclasses import replace

from prometheus_client import CollectorRegistry

from deploy_targets import metrics
from deploy_targets.aside_policy import ShadowPolicy
from deploy_targets.guard.allowance import Allowance
from deploy_targets.guard.aside import Aside, Seen, Watch, is_sampled, text_of_choices
from deploy_targets.guard.comparison import compare
from deploy_targets.guard.cost import cost_micros, expected_usage
from deploy_targets.guard.counters import (
    NO_TOKENS,
    Counters,
    Finished,
    make_counter,
    make_histogram,
)
from deploy_targets.guard.errors import GuardError, UpstreamFailed
from deploy_targets.guard.exchange import Exchange
from deploy_targets.guard.outcome import Outcome, read_object, read_usage, whole_outcome
from deploy_targets.guard.protocol import ProtocolName, call_for
from deploy_targets.guard.shadow_target import ShadowTarget
from deploy_targets.guard.upstream import Upstream
from deploy_targets.guard.wire import Asked
from deploy_targets.guard_policy import GuardPolicy


class ShadowCounts:
    """How the answers of each version were beside the champion's."""

    def __init__(self, registry: CollectorRegistry, *, endpoint: str) -> None:
        """No version yet."""
        self._endpoint = endpoint
        self._compared = make_counter(metrics.SHADOW_COMPARED, registry)
        self._likeness = make_histogram(metrics.SHADOW_LIKENESS, registry)

    def appear(self, version: str) -> None:
        """Makes all series of this version exist."""
        for result in metrics.SHADOW_RESULTS:
            self._compared.labels(self._endpoint, version, result)
        self._likeness.labels(self._endpoint, version)

    def count(self, version: str, result: str, *, likeness: float | None = None) -> None:
        """One more of that result; `likeness` where there were two answers."""
        self.appear(version)
        self._compared.labels(self._endpoint, version, result).inc()
        if likeness is not None:
            self._likeness.labels(self._endpoint, version).observe(likeness)


class Shadow:
    """Mirrors the requests of one endpoint."""

    def __init__(  # noqa: PLR0913 - its collaborators, by name
        self,
        shadow: ShadowPolicy,
        policy: GuardPolicy,
        *,
        endpoint: str,
        protocol: ProtocolName,
        upstream: Upstream,
        target: ShadowTarget,
        counters: Counters,
        counts: ShadowCounts,
        aside: Aside,
    ) -> None:
        """`shadow` is a part of `policy`."""
        self._shadow = shadow
        self._policy = policy
        self._endpoint = endpoint
        self._protocol: ProtocolName = protocol
        self._upstream = upstream
        self._target = target
        self._counters = counters
        self._counts = counts
        self._aside = aside
        self._allowance = Allowance(
            concurrent=shadow.concurrent,
            requests_per_minute=shadow.requests_per_minute,
            micros_per_day=shadow.micros_per_day,
            clock=time.time,
        )

    def watch(self, asked: Asked, exchange: Exchange) -> Watch | None:
        """Sees the answer to a live request of which a mirror will be made; None where none will be.

        It must be the first filter: both answers are compared as the versions gave them.
        """
        version = self._target.version
        if (
            version is None
            # A second try: the challenger may be who has failed it.
            or exchange.route == metrics.RETRY_ROUTE
            or exchange.version in {None, version}
            or not is_sampled(asked, exchange, share=self._shadow.sample)
        ):
            return None
        return Watch(asked, exchange, lambda seen: self._mirror(seen, version))

    def _mirror(self, seen: Seen, version: str) -> None:
        expected = expected_usage(seen.asked, answer_tokens=self._policy.limits.answer_tokens)
        reserved = cost_micros(expected, self._policy.prices, seconds=seen.seconds)
        if not self._allowance.take(reserved):
            self._counts.count(version, metrics.DROPPED)
            return
        self._counters.appear(version)
        self._aside.begin(self._ask(seen, version, reserved))

    async def _ask(self, seen: Seen, version: str, reserved: int) -> None:
        """Asks, counts and compares. Nothing is counted of what is cancelled at the end of the process."""
        used = 0
        started = time.perf_counter()
        answered_by: str | None = None
        usage, outcome, text = NO_TOKENS, Outcome.FAILED, None
        try:
            call = call_for(
                self._protocol,
                _whole(seen.asked),
                endpoint=self._endpoint,
                request_id=seen.request_id,
            )
            async with self._upstream.ask(
                call.path, call.body, pin=version, request_id=seen.request_id
            ) as begun:
                answered_by = begun.version
                answer = await call.read(begun)
                answered_by = answer.version
                body = await answer.whole()
            outcome = whole_outcome(answer.status, body, is_streamed=False)
            document = read_object(body)
            usage = read_usage(document) or NO_TOKENS
            if outcome is Outcome.ANSWERED and document.get("choices"):
                text = text_of_choices(document, "message")
        except UpstreamFailed:
            outcome = Outcome.FAILED
        except GuardError:  # the model refuses what the champion has answered
            outcome = Outcome.ANSWERED
        finally:
            seconds = time.perf_counter() - started
            if usage.prompt + usage.completion:
                used = cost_micros(usage, self._policy.prices, seconds=seconds)
            is_untold = text is not None and usage is NO_TOKENS
            self._allowance.settle(reserved, reserved if is_untold else used)
        if answered_by != version:
            # Its revision is gone, or the split itself is: that says nothing about the version.
            self._counts.count(version, metrics.DROPPED)
            return
        finished = Finished(
            seconds=seconds, is_error=outcome is Outcome.FAILED, usage=usage, cost_micros=used
        )
        self._counters.count(version, route=metrics.SHADOW_ROUTE, finished=finished)
        if text is None:
            self._counts.count(version, metrics.SHADOW_FAILED)
            return
        compared = compare(seen.text, text, similar_from=self._shadow.similar_from)
        self._counts.count(version, compared.result, likeness=compared.likeness)


def _whole(asked: Asked) -> Asked:
    """The same request for an answer in one piece."""
    if not asked.is_streamed:
        return asked
    document = asked.document()
    document.pop("stream", None)
    document.pop("stream_options", None)
    return replace(asked.changed(document), is_streamed=False, wants_usage=False)
