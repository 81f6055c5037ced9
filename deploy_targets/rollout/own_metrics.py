"""The controller's own numbers: that it looks, how long that takes, what waits, and what is under way.

Only the leader's count. A follower's looks do nothing, and what it knew when it led last is out of date. What waits is known
since this process saw it first: a restart begins anew.
"""

import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from deploy_targets import metrics
from deploy_targets.rollout.loop import LookResult
from deploy_targets.rollout.state import Phase


class OwnMetrics:
    """The series, for the page of one process."""

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        endpoints: Iterable[str],
        leads: Callable[[], bool],
    ) -> None:
        """All series exist from the start, at zero. `leads` is asked after every look and at every reading."""
        self._leads = leads
        self._phases: dict[str, Phase] = {}
        self._unserved: dict[str, float] = {}
        self._unanswered_s: Callable[[], float] = _none_waits
        ProcessCollector(registry=registry)
        looks, failures = metrics.LOOKS, metrics.FAILED_LOOKS
        self._looks = Histogram(
            looks.name, looks.help, looks.labels, buckets=looks.buckets, registry=registry
        )
        self._failures = Counter(failures.name, failures.help, failures.labels, registry=registry)
        for result in LookResult:
            self._looks.labels(result)
        for endpoint in endpoints:
            self._failures.labels(endpoint)
        Gauge(metrics.LEADER.name, metrics.LEADER.help, registry=registry).set_function(
            lambda: float(leads())
        )
        unserved, under_way = metrics.UNSERVED_AGE, metrics.UNDER_WAY
        Gauge(unserved.name, unserved.help, registry=registry).set_function(self.oldest_unserved_s)
        phases = Gauge(under_way.name, under_way.help, under_way.labels, registry=registry)
        for phase in Phase:
            phases.labels(phase).set_function(lambda phase=phase: self._count(phase))

    def watch_hints(self, unanswered_s: Callable[[], float]) -> None:
        """Has the age of the oldest unanswered hint count as well."""
        self._unanswered_s = unanswered_s

    def looked(self, endpoint: str, result: LookResult, seconds: float) -> None:
        """One look came to its end."""
        if not self._leads():
            return
        self._looks.labels(result).observe(seconds)
        if result is LookResult.FAILED:
            self._failures.labels(endpoint).inc()

    def saw(self, endpoint: str, *, phase: Phase | None, is_unserved: bool) -> None:
        """What a look left: the phase of its rollout, and whether a request stands that was neither admitted nor refused."""
        if phase is None:
            self._phases.pop(endpoint, None)
        else:
            self._phases[endpoint] = phase
        if is_unserved:
            self._unserved.setdefault(endpoint, time.monotonic())
        else:
            self._unserved.pop(endpoint, None)

    def oldest_unserved_s(self) -> float:
        """See `metrics.UNSERVED_AGE`; 0 where another one leads, whose business it is."""
        if not self._leads():
            return 0.0
        since = min(self._unserved.copy().values(), default=None)
        waits_s = 0.0 if since is None else time.monotonic() - since
        return max(waits_s, self._unanswered_s())

    def _count(self, phase: Phase) -> float:
        return float(Tally(self._phases.copy().values())[phase]) if self._leads() else 0.0


def _none_waits() -> float:
    """Before the loop is there."""
    return 0.0
