"""The guard's side of `deploy_targets.metrics`: counts what each version finished, each rule did and each key was charged.

A request that its client cancelled counts neither as request nor as error, though its key is charged. All series of a
version appear together, at zero: those of no version when the guard starts, those of a version with its first answer's
first byte. Prometheus computes a rate from what it saw before, so a series that is born with its first error hides it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from deploy_targets import metrics
from deploy_targets.engine.chat import Usage
from deploy_targets.quality_policy import Signal

NO_TOKENS = Usage(prompt=0, completion=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What is known of a request that a version finished."""

    seconds: float
    is_error: bool = False
    is_queue_full: bool = False
    usage: Usage = NO_TOKENS
    cost_micros: int = 0
    first_token_s: float | None = None
    per_token_s: float | None = None


def make_counter(series: metrics.Series, registry: CollectorRegistry) -> Counter:
    """The counter that `metrics` declares."""
    return Counter(series.name, series.help, labelnames=series.labels, registry=registry)


def make_histogram(series: metrics.Series, registry: CollectorRegistry) -> Histogram:
    """The histogram that `metrics` declares."""
    return Histogram(
        series.name,
        series.help,
        labelnames=series.labels,
        buckets=series.buckets,
        registry=registry,
    )


class Counters:
    """The series of one endpoint, in a registry of their own."""

    def __init__(
        self, registry: CollectorRegistry, *, endpoint: str, rules: Iterable[str] = ()
    ) -> None:
        """Adds the process's own series as well: its start time tells a reader that counters began again.

        `rules` are all that may refuse or redact; what another one does is counted under its error's code alone.
        """
        self._registry = registry
        self._endpoint = endpoint
        ProcessCollector(registry=registry)
        self._requests = self._counter(metrics.REQUESTS)
        self._errors = self._counter(metrics.ERRORS)
        self._prompts = self._counter(metrics.PROMPT_TOKENS)
        self._completions = self._counter(metrics.COMPLETION_TOKENS)
        self._cost = self._counter(metrics.COST)
        self._duration = self._histogram(metrics.DURATION)
        self._first_token = self._histogram(metrics.FIRST_TOKEN)
        self._per_token = self._histogram(metrics.PER_TOKEN)
        flight = metrics.IN_FLIGHT
        self._in_flight = Gauge(
            flight.name, flight.help, labelnames=flight.labels, registry=registry
        ).labels(endpoint)
        self._rules = self._counter(metrics.RULES)
        self._lost = self._counter(metrics.LIMITS_LOST)
        self._cache = self._counter(metrics.CACHE)
        self._queue_full = self._counter(metrics.QUEUE_FULL)
        self._key_requests = self._counter(metrics.KEY_REQUESTS)
        self._key_tokens = self._counter(metrics.KEY_TOKENS)
        self._key_cost = self._counter(metrics.KEY_COST)
        self._judged = self._counter(metrics.QUALITY_JUDGED)
        self._bad = self._counter(metrics.QUALITY_BAD)
        self._signals = self._counter(metrics.QUALITY_SIGNALS)
        self._feedback = self._counter(metrics.FEEDBACK)
        self._replaced = self._counter(metrics.FEEDBACK_REPLACED)
        self._known_rules = frozenset(rules)
        for rule in self._known_rules:
            for action in metrics.ACTIONS:
                self._rules.labels(endpoint, rule, action)
        for what in metrics.LOST:
            self._lost.labels(endpoint, what)
        for result in metrics.CACHE_RESULTS:
            self._cache.labels(endpoint, result)
        self._seen: set[str | None] = set()
        self.appear(None)

    def _counter(self, series: metrics.Series) -> Counter:
        return make_counter(series, self._registry)

    def _histogram(self, series: metrics.Series) -> Histogram:
        return make_histogram(series, self._registry)

    def appear(self, version: str | None) -> None:
        """Makes all series of this version exist, on every route."""
        if version in self._seen:
            return
        self._seen.add(version)
        for route in metrics.ROUTES:
            labels = self._labels(version, route)
            for series in (
                self._requests,
                self._errors,
                self._queue_full,
                self._prompts,
                self._completions,
                self._cost,
                self._duration,
                self._first_token,
                self._per_token,
                self._judged,
                self._bad,
            ):
                series.labels(**labels)
        told = version or metrics.UNATTRIBUTED
        for signal in Signal:
            self._signals.labels(self._endpoint, told, signal)
        for verdict in metrics.FEEDBACK_VERDICTS:
            self._feedback.labels(self._endpoint, told, verdict)
            self._replaced.labels(self._endpoint, told, verdict)

    def count(self, version: str | None, *, route: str, finished: Finished) -> None:
        """One request that was finished; without a version it is counted as unattributed."""
        labels = self._labels(version, route)
        self._requests.labels(**labels).inc()
        self._errors.labels(**labels).inc(int(finished.is_error))
        self._queue_full.labels(**labels).inc(int(finished.is_queue_full))
        self._duration.labels(**labels).observe(finished.seconds)
        self._prompts.labels(**labels).inc(finished.usage.prompt)
        self._completions.labels(**labels).inc(finished.usage.completion)
        self._cost.labels(**labels).inc(finished.cost_micros)
        if finished.first_token_s is not None:
            self._first_token.labels(**labels).observe(finished.first_token_s)
        if finished.per_token_s is not None:
            self._per_token.labels(**labels).observe(finished.per_token_s)

    def charge(self, version: str | None, *, key: str, usage: Usage, cost_micros: int) -> None:
        """What a key has to pay for one request."""
        labels = (self._endpoint, version or metrics.UNATTRIBUTED, key)
        self._key_requests.labels(*labels).inc()
        self._key_tokens.labels(*labels).inc(usage.prompt + usage.completion)
        self._key_cost.labels(*labels).inc(cost_micros)

    def acted(self, rule: str, action: str, *, code: str = "") -> None:
        """A rule has refused or redacted something; one that was not announced counts under the error's code."""
        known = rule if rule in self._known_rules else code
        if known in self._known_rules:
            self._rules.labels(self._endpoint, known, action).inc()

    def lost(self, what: str) -> None:
        """Redis was needed for one of `metrics.LOST`, and did not answer."""
        self._lost.labels(self._endpoint, what).inc()

    def cached(self, result: str) -> None:
        """What the cache made of a request."""
        self._cache.labels(self._endpoint, result).inc()

    def judged(self, version: str | None, *, route: str, is_bad: bool) -> None:
        """One answer was judged, by whatever judges: to be called once for an answer, and only when the judgement stands.

        The verdict on a rollout takes each for an independent trial, so a bad one is never counted without its answer,
        nor an answer twice.
        """
        labels = self._labels(version, route)
        self._judged.labels(**labels).inc()
        self._bad.labels(**labels).inc(int(is_bad))

    def signalled(self, version: str | None, signals: Iterable[Signal]) -> None:
        """An answer showed these signals."""
        for signal in signals:
            self._signals.labels(self._endpoint, version or metrics.UNATTRIBUTED, signal).inc()

    def said(self, version: str | None, verdict: str, *, before: str | None) -> None:
        """A user said `verdict` of an answer, in the place of what was said `before`."""
        if verdict == before:
            return
        self.appear(version)
        told = version or metrics.UNATTRIBUTED
        self._feedback.labels(self._endpoint, told, verdict).inc()
        if before is not None:
            self._replaced.labels(self._endpoint, told, before).inc()

    def let_in(self, *, is_over: bool = False) -> None:
        """A request is under way from now on; or not any more."""
        self._in_flight.inc(-1 if is_over else 1)

    def _labels(self, version: str | None, route: str) -> dict[str, str]:
        return {
            metrics.ENDPOINT: self._endpoint,
            metrics.VERSION: version or metrics.UNATTRIBUTED,
            metrics.ROUTE: route,
        }
