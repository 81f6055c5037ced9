"""What did each version do since the last look? Reads the guard's /metrics and takes the difference.

A gap is `NoData` or a missing version, never a zero: a guard that cannot be read, that was restarted (its counters
began again), or that went backwards teaches nothing about this interval. Where several guards stand before one endpoint
their counts are added up, and each of them must be there at both looks.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TypeVar

import httpx2
from prometheus_client.parser import text_string_to_metric_families

from deploy_targets import metrics
from deploy_targets.rollout.state import Counts, NoData, Observation, Scrape
from registry.errors import MetricsUnavailable

T = TypeVar("T")
_JUDGED_ROUTE = metrics.CHAT_ROUTE
"""Pinned requests, the smoke test's among them, have a route of their own and take no part in a comparison."""

_FIELDS = {
    metrics.REQUESTS.name: "requests",
    metrics.ERRORS.name: "errors",
    f"{metrics.DURATION.name}_sum": "duration_s",
    metrics.COST.name: "cost_micros",
    metrics.QUALITY_JUDGED.name: "judged",
    metrics.QUALITY_BAD.name: "bad",
}
_MOST = 10**18
"""Of what is counted, seconds and micros among it. More is no number that a guard counts up to, and what is none at all would be
saved with the state, which then nobody could read."""
_BUCKETS = {
    f"{series.name}_bucket": series
    for series in (metrics.DURATION, metrics.FIRST_TOKEN, metrics.PER_TOKEN)
}


class GuardMetrics:
    """The counters of one endpoint, read from its guards."""

    def __init__(
        self,
        client: httpx2.Client,
        url: str,
        *,
        endpoint: str,
        clock: Callable[[], datetime],
        addresses: Callable[[httpx2.URL], Sequence[httpx2.URL]] = lambda url: (url,),
    ) -> None:
        """`url` is that of the metrics page; `client` has a bounded timeout.

        `addresses` finds where the page of each guard is: several may go by one name. It may raise OSError.
        """
        self._client = client
        self._url = httpx2.URL(url)
        self._endpoint = endpoint
        self._clock = clock
        self._addresses = addresses

    def scrape(self) -> Scrape:
        """The counters as they stand.

        Raises:
            MetricsUnavailable: a guard did not answer, or not with metrics.
        """
        at = self._clock()
        return self._ask(
            lambda pages: combined(
                [parse_scrape(page, endpoint=self._endpoint, at=at) for page in pages]
            )
        )

    def pages(self) -> tuple[str, ...]:
        """What each guard's page says, to be read by `costs.cost_lines`.

        Raises:
            MetricsUnavailable: as `scrape`.
        """
        return self._ask(tuple)

    def put(self, path: str, document: Mapping[str, object]) -> None:
        """Tells each guard, on its admin side.

        Raises:
            MetricsUnavailable: as `scrape`; some may have been told.
        """
        self._ask(tuple, "PUT", path=path, document=document)

    def _ask(
        self,
        made_of: Callable[[Iterable[str]], T],
        method: str = "GET",
        *,
        path: str | None = None,
        document: Mapping[str, object] | None = None,
    ) -> T:
        """What is made of the answers of all guards; of their pages, unless another `path` is asked."""
        host = {"Host": self._url.netloc.decode("ascii")}
        try:
            urls = [
                url if path is None else url.copy_with(path=path)
                for url in self._addresses(self._url)
            ]
            answers = [
                self._client.request(method, url, json=document, headers=host) for url in urls
            ]
            return made_of([answer.raise_for_status().text for answer in answers])
        except (httpx2.HTTPError, OSError, ValueError) as error:
            message = (
                f"The guard's metrics at {self._url} cannot be read ({error}). The rollout holds until they can; "
                "see the guard's log."
            )
            raise MetricsUnavailable(message) from error


def combined(scrapes: Iterable[Scrape]) -> Scrape:
    """The readings of several guards as one; a guard that was read twice, by two addresses, counts once.

    Raises:
        ValueError: there are none.
    """
    by_source = {one.source: one for one in scrapes}
    if not by_source:
        message = "there is no guard"
        raise ValueError(message)
    readings = [by_source[source] for source in sorted(by_source)]
    versions = {version for one in readings for version in one.totals}
    return Scrape(
        at=readings[0].at,
        source=" ".join(sorted(by_source)),
        totals={
            version: _sum([one.totals[version] for one in readings if version in one.totals])
            for version in sorted(versions)
        },
        mirrored=dict(sum((Counter(one.mirrored) for one in readings), Counter[str]())),
    )


def _sum(counts: Sequence[Counts]) -> Counts:
    costs = [one.cost_micros for one in counts]
    known = [cost for cost in costs if cost is not None]
    return Counts(
        requests=sum(one.requests for one in counts),
        errors=sum(one.errors for one in counts),
        duration_s=sum(one.duration_s for one in counts),
        within=_added([one.within for one in counts]),
        first_token=_added([one.first_token for one in counts]),
        per_token=_added([one.per_token for one in counts]),
        cost_micros=sum(known) if len(known) == len(costs) else None,
        judged=sum(one.judged for one in counts),
        bad=sum(one.bad for one in counts),
    )


def _added(histograms: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Bound by bound; empty where one of them was not measured."""
    return tuple(map(sum, zip(*histograms, strict=True))) if all(histograms) else ()


def parse_scrape(text: str, *, endpoint: str, at: datetime) -> Scrape:
    """The reading that a metrics page in Prometheus' text format holds for this endpoint.

    Raises:
        ValueError: the page is not in that format, does not say when its process started, or has series that are none of a
            guard's: without a version, or beyond any count.
    """
    try:
        return _parsed(text, endpoint=endpoint, at=at)
    except (KeyError, OverflowError) as error:
        message = f"it has a series that is none of a guard's ({error!r})"
        raise ValueError(message) from error


def _parsed(text: str, *, endpoint: str, at: datetime) -> Scrape:
    totals: defaultdict[str, dict[str, float]] = defaultdict(dict)
    within: defaultdict[tuple[str, metrics.Series], dict[float, int]] = defaultdict(dict)
    mirrored: dict[str, int] = {}
    source = ""
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "process_start_time_seconds":
                source = str(sample.value)
            field = _FIELDS.get(sample.name)
            labels = sample.labels
            place = labels.get(metrics.ENDPOINT), labels.get(metrics.ROUTE)
            if sample.name == metrics.REQUESTS.name and place == (endpoint, metrics.SHADOW_ROUTE):
                mirrored[labels[metrics.VERSION]] = int(_counted(sample.value))
            if place != (endpoint, _JUDGED_ROUTE):
                continue
            version = labels[metrics.VERSION]
            if field is not None:
                totals[version][field] = _counted(sample.value)
            elif sample.name in _BUCKETS:
                within[version, _BUCKETS[sample.name]][float(labels["le"])] = int(
                    _counted(sample.value)
                )
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
                within=_buckets(within[version, metrics.DURATION], metrics.DURATION)[:-1],
                first_token=_buckets(within[version, metrics.FIRST_TOKEN], metrics.FIRST_TOKEN),
                per_token=_buckets(within[version, metrics.PER_TOKEN], metrics.PER_TOKEN),
                cost_micros=int(fields["cost_micros"]) if "cost_micros" in fields else None,
                judged=int(fields.get("judged", 0)),
                bad=int(fields.get("bad", 0)),
            )
            for version, fields in totals.items()
        },
        mirrored=mirrored,
    )


def _counted(value: float) -> float:
    if not 0 <= value <= _MOST:
        message = f"it has a series that says {value}, which counts nothing"
        raise ValueError(message)
    return value


def _buckets(within: Mapping[float, int], series: metrics.Series) -> tuple[int, ...]:
    """The counts at the declared bounds, and all; none where the page has others, as an older guard may."""
    bounds = (*series.buckets, math.inf)
    return tuple(within[bound] for bound in bounds) if within.keys() >= set(bounds) else ()


def difference(before: Scrape | None, after: Scrape) -> Observation | NoData:
    """What happened between two readings; a version that is new in `after` began at zero."""
    if before is None:
        return NoData(reason="this is the first reading")
    if before.source != after.source:
        return NoData(reason="a guard was restarted, came or went: its counters began again")
    increments: dict[str, Counts] = {}
    for version, total in after.totals.items():
        earlier = before.totals.get(version, Counts())
        step = Counts(
            requests=total.requests - earlier.requests,
            errors=total.errors - earlier.errors,
            duration_s=total.duration_s - earlier.duration_s,
            within=_step(earlier.within, total.within),
            first_token=_step(earlier.first_token, total.first_token),
            per_token=_step(earlier.per_token, total.per_token),
            cost_micros=None
            if total.cost_micros is None
            else total.cost_micros - (earlier.cost_micros or 0),
            judged=total.judged - earlier.judged,
            bad=total.bad - earlier.bad,
        )
        if fault := _fault(step):
            return NoData(reason=f"version {version}: {fault}")
        increments[version] = step
    mirrored = {
        version: total - before.mirrored.get(version, 0)
        for version, total in after.mirrored.items()
    }
    if min(mirrored.values(), default=0) < 0:
        return NoData(reason="the counters of mirrored requests went backwards")
    seconds = (after.at - before.at).total_seconds()
    return Observation(seconds=seconds, increments=increments, mirrored=mirrored)


def _fault(step: Counts) -> str:
    """What cannot be between two readings; empty where nothing is wrong."""
    timed = (*step.within, *step.first_token, *step.per_token)
    counted = (step.requests, step.errors, step.judged, step.bad, step.cost_micros or 0)
    if min(*counted, *timed) < 0:
        return "its counters went backwards"
    if step.errors > step.requests:
        return "it has more errors than requests"
    return "it has more bad answers than judged ones" if step.bad > step.judged else ""


def _step(earlier: tuple[int, ...], later: tuple[int, ...]) -> tuple[int, ...]:
    earlier = earlier or (0,) * len(later)
    return tuple(b - a for a, b in zip(earlier, later, strict=True)) if later else ()
