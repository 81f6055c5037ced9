"""What did each version do since the last look? Reads the guard's /metrics and takes the difference.

A gap is `NoData` or a missing version, never a zero: a guard that cannot be read, that was restarted (its counters
began again), or that went backwards teaches nothing about this interval.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import datetime

import httpx2
from prometheus_client.parser import text_string_to_metric_families

from deploy_targets import metrics
from deploy_targets.rollout.state import Counts, NoData, Observation, Scrape
from registry.errors import MetricsUnavailable

JUDGED_ROUTE = metrics.CHAT_ROUTE
"""Pinned requests, the smoke test's among them, have a route of their own and take no part in a comparison."""

_FIELDS = {
    metrics.REQUESTS.name: "requests",
    metrics.ERRORS.name: "errors",
    f"{metrics.DURATION.name}_sum": "duration_s",
}


class GuardMetrics:
    """The counters of one endpoint, read from its guard."""

    def __init__(
        self, client: httpx2.Client, url: str, *, endpoint: str, clock: Callable[[], datetime]
    ) -> None:
        """`url` is that of the guard's metrics page; `client` has a bounded timeout."""
        self._client = client
        self._url = url
        self._endpoint = endpoint
        self._clock = clock

    def scrape(self) -> Scrape:
        """The counters as they stand.

        Raises:
            MetricsUnavailable: the guard did not answer, or not with metrics.
        """
        try:
            response = self._client.get(self._url).raise_for_status()
            return parse_scrape(response.text, endpoint=self._endpoint, at=self._clock())
        except (httpx2.HTTPError, ValueError) as error:
            message = (
                f"The guard's metrics at {self._url} cannot be read ({error}). The rollout holds until they can; "
                "see the guard's log."
            )
            raise MetricsUnavailable(message) from error


def parse_scrape(text: str, *, endpoint: str, at: datetime) -> Scrape:
    """The reading that a metrics page in Prometheus' text format holds for this endpoint.

    Raises:
        ValueError: the page is not in that format, or does not say when its process started.
    """
    totals: defaultdict[str, dict[str, float]] = defaultdict(dict)
    within: defaultdict[str, dict[float, int]] = defaultdict(dict)
    source = ""
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "process_start_time_seconds":
                source = str(sample.value)
            field = _FIELDS.get(sample.name)
            labels = sample.labels
            if (
                labels.get(metrics.ENDPOINT) != endpoint
                or labels.get(metrics.ROUTE) != JUDGED_ROUTE
            ):
                continue
            if field is not None:
                totals[labels[metrics.VERSION]][field] = sample.value
            elif sample.name == f"{metrics.DURATION.name}_bucket":
                within[labels[metrics.VERSION]][float(labels["le"])] = int(sample.value)
    if not source:
        message = "the page has no process_start_time_seconds"
        raise ValueError(message)
    return Scrape(
        at=at,
        source=source,
        totals={
            version: Counts(
                requests=int(fields.get("requests", 0)),
                errors=int(fields.get("errors", 0)),
                duration_s=fields.get("duration_s", 0.0),
                within=_buckets(within[version]),
            )
            for version, fields in totals.items()
        },
    )


def _buckets(within: Mapping[float, int]) -> tuple[int, ...]:
    """The counts at the declared bounds; none where the page has others, as an older guard may."""
    bounds = metrics.DURATION.buckets
    return tuple(within[bound] for bound in bounds) if within.keys() >= set(bounds) else ()


def difference(before: Scrape | None, after: Scrape) -> Observation | NoData:
    """What happened between two readings; a version that is new in `after` began at zero."""
    if before is None:
        return NoData(reason="this is the first reading")
    if before.source != after.source:
        return NoData(reason="the guard was restarted, its counters began again")
    increments: dict[str, Counts] = {}
    for version, total in after.totals.items():
        earlier = before.totals.get(version, Counts())
        step = Counts(
            requests=total.requests - earlier.requests,
            errors=total.errors - earlier.errors,
            duration_s=total.duration_s - earlier.duration_s,
            within=_step(earlier.within, total.within),
        )
        if min(step.requests, step.errors, *step.within) < 0:
            return NoData(reason=f"the counters of version {version} went backwards")
        if step.errors > step.requests:
            return NoData(reason=f"version {version} has more errors than requests")
        increments[version] = step
    seconds = (after.at - before.at).total_seconds()
    return Observation(seconds=seconds, increments=increments)


def _step(earlier: tuple[int, ...], later: tuple[int, ...]) -> tuple[int, ...]:
    earlier = earlier or (0,) * len(later)
    return tuple(b - a for a, b in zip(earlier, later, strict=True)) if later else ()
