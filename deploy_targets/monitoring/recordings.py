"""The series that Prometheus computes from the guard's, under names that alerts and dashboard use alike. Pure.

Only what the split decided about is counted (routes `chat` and `again`): a pinned request says nothing about a version's
share. Sums leave out every other label, so that replicas of a guard add up and a label more on one of
two series (an error's type, say) does not keep them from meeting. Without requests there is no ratio and no latency,
never NaN; with requests but without a series of errors the ratio is 0.
"""

from dataclasses import dataclass

from deploy_targets.metrics import (
    AGAIN_ROUTE,
    CHAT_ROUTE,
    DURATION,
    ENDPOINT,
    ERRORS,
    REQUESTS,
    RETRY_ROUTE,
    ROUTE,
    VERSION,
    Series,
)

_CLIENTS = f'{{{ROUTE}=~"{CHAT_ROUTE}|{AGAIN_ROUTE}"}}'
VERSIONS = f"{ENDPOINT}, {VERSION}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A recorded series."""

    record: str
    """Its name: the labels it keeps, the metric, what was done to it."""
    expr: str
    """PromQL."""


def rate(name: str, *, by: str, window: str) -> str:
    """How much a counter of what the split decided about grows a second, in PromQL."""
    return f"sum by ({by}) (rate({name}{_CLIENTS}[{window}]))"


def record_name(labels: str, series: Series, operation: str) -> str:
    """What a recorded series is called."""
    return f"{labels}:{series.name.removesuffix('_total')}:{operation}"


_REQUESTS_5M, _ERRORS_5M = (rate(one.name, by=VERSIONS, window="5m") for one in (REQUESTS, ERRORS))
_COUNT_5M = rate(f"{DURATION.name}_count", by=VERSIONS, window="5m")

REQUEST_RATE = Recording(
    record=record_name("endpoint_version", REQUESTS, "rate5m"),
    expr=_REQUESTS_5M,
)
"""Requests per second."""
ERROR_RATIO = Recording(
    record=record_name("endpoint_version", ERRORS, "ratio_rate5m"),
    expr=f"({_ERRORS_5M} or 0 * {_REQUESTS_5M}) / ({_REQUESTS_5M} > 0)",
)
"""The share of requests that failed, 0 to 1."""
MEAN_LATENCY = Recording(
    record=record_name("endpoint_version", DURATION, "mean5m"),
    expr=f"{rate(f'{DURATION.name}_sum', by=VERSIONS, window='5m')} / ({_COUNT_5M} > 0)",
)
"""Seconds."""


def quantile(series: Series, percent: int) -> Recording:
    """Within what so many percent of the last five minutes' observations are, by version."""
    buckets = rate(f"{series.name}_bucket", by=f"{VERSIONS}, le", window="5m")
    count = rate(f"{series.name}_count", by=VERSIONS, window="5m")
    return Recording(
        record=record_name("endpoint_version", series, f"p{percent}_5m"),
        expr=f"histogram_quantile({percent / 100:g}, {buckets}) and {count} > 0",
    )


P50, P95, P99 = QUANTILES = tuple(quantile(DURATION, percent) for percent in (50, 95, 99))
"""Seconds."""

BY_VERSION = (REQUEST_RATE, ERROR_RATIO, MEAN_LATENCY, *QUANTILES)
"""All series that are kept for each version."""


def endpoint_error_ratio(window: str) -> Recording:
    """The share of an endpoint's requests that failed in the last `window`, 0 to 1, whichever version answered.

    What a version failed and another one has answered then, on its second try, is no failure here: no client met it.
    """
    errors, requests = (rate(one.name, by=ENDPOINT, window=window) for one in (ERRORS, REQUESTS))
    lost, tries = (
        f'sum by ({ENDPOINT}) (rate({one.name}{{{ROUTE}="{RETRY_ROUTE}"}}[{window}]))'
        for one in (ERRORS, REQUESTS)
    )
    answered = f"({tries} - ({lost} or 0 * {tries}) or 0 * {requests})"
    return Recording(
        record=record_name("endpoint", ERRORS, f"ratio_rate{window}"),
        expr=f"clamp_min(({errors} or 0 * {requests}) - {answered}, 0) / ({requests} > 0)",
    )


def endpoint_requests(window: str) -> Recording:
    """How many requests an endpoint had in the last `window`."""
    return Recording(
        record=record_name("endpoint", REQUESTS, f"increase{window}"),
        expr=f"sum by ({ENDPOINT}) (increase({REQUESTS.name}{_CLIENTS}[{window}]))",
    )
