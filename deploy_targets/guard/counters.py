"""The guard's side of `deploy_targets.metrics`: counts what each version finished.

A request that its client cancelled counts neither as request nor as error. All series of a version appear together, at
zero: those of no version when the guard starts, those of a version with its first answer's first byte. Prometheus
computes a rate from what it saw before, so a series that is born with its first error hides that error.
"""

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector

from deploy_targets import metrics


class Counters:
    """The series of one endpoint, in a registry of their own."""

    def __init__(self, registry: CollectorRegistry, *, endpoint: str) -> None:
        """Adds the process's own series as well: its start time tells a reader that counters began again."""
        self._endpoint = endpoint
        ProcessCollector(registry=registry)
        requests, errors, duration = metrics.REQUESTS, metrics.ERRORS, metrics.DURATION
        self._requests = Counter(
            requests.name, requests.help, labelnames=requests.labels, registry=registry
        )
        self._errors = Counter(
            errors.name, errors.help, labelnames=errors.labels, registry=registry
        )
        self._duration = Histogram(
            duration.name,
            duration.help,
            labelnames=duration.labels,
            buckets=duration.buckets,
            registry=registry,
        )
        self.appear(None)

    def appear(self, version: str | None) -> None:
        """Makes all series of this version exist, on every route."""
        for route in metrics.ROUTES:
            labels = self._labels(version, route)
            for series in (self._requests, self._errors, self._duration):
                series.labels(**labels)

    def count(self, version: str | None, *, route: str, is_error: bool, seconds: float) -> None:
        """One request that was finished; without a version it is counted as unattributed."""
        labels = self._labels(version, route)
        self._requests.labels(**labels).inc()
        self._errors.labels(**labels).inc(int(is_error))
        self._duration.labels(**labels).observe(seconds)

    def _labels(self, version: str | None, route: str) -> dict[str, str]:
        return {
            metrics.ENDPOINT: self._endpoint,
            metrics.VERSION: version or metrics.UNATTRIBUTED,
            metrics.ROUTE: route,
        }
