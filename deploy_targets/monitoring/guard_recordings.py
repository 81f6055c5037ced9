"""The recorded series of what the guard sees besides failures and latency, and of what is said of its answers. Pure.

Those of a version count what the split decided about, as in `recordings`; those of an endpoint everything that its guard
met. Where there was nothing to measure there is no sample, never NaN.
"""

from deploy_targets.metrics import (
    ACTION,
    CACHE,
    COMPLETION_TOKENS,
    COST,
    ENDPOINT,
    ERRORS,
    FEEDBACK,
    FEEDBACK_REPLACED,
    FIRST_TOKEN,
    HIT,
    IN_FLIGHT,
    JUDGE_ANSWERS,
    KEY,
    KEY_COST,
    KEY_REQUESTS,
    KEY_TOKENS,
    LIMITS_LOST,
    PER_TOKEN,
    PROMPT_TOKENS,
    QUALITY_BAD,
    QUALITY_JUDGED,
    QUALITY_SIGNALS,
    QUEUE_FULL,
    RECORDS,
    REQUESTS,
    RESULT,
    RETRY_ROUTE,
    ROUTE,
    RULE,
    RULES,
    SHADOW_COMPARED,
    SHADOW_LIKENESS,
    SIGNAL,
    SKIPPED,
    VERDICT,
    VERSION,
    WHAT,
    Series,
)
from deploy_targets.monitoring.recordings import (
    VERSIONS,
    Recording,
    quantile,
    rate,
    record_name,
)

FIRST_TOKEN_P50, FIRST_TOKEN_P95 = (quantile(FIRST_TOKEN, percent) for percent in (50, 95))
"""Seconds, of streams alone."""
PER_TOKEN_P50, PER_TOKEN_P95 = (quantile(PER_TOKEN, percent) for percent in (50, 95))
"""Seconds, of streams alone."""


def _of_versions(series: Series) -> Recording:
    return Recording(
        record=record_name("endpoint_version", series, "rate5m"),
        expr=rate(series.name, by=VERSIONS, window="5m"),
    )


PROMPT_RATE, COMPLETION_RATE = _of_versions(PROMPT_TOKENS), _of_versions(COMPLETION_TOKENS)
"""Tokens per second."""

_REQUESTS = rate(REQUESTS.name, by=VERSIONS, window="5m")


def _per_request(series: Series, operation: str) -> Recording:
    counted = rate(series.name, by=VERSIONS, window="5m")
    return Recording(
        record=record_name("endpoint_version", series, operation),
        expr=f"({counted} or 0 * {_REQUESTS}) / ({_REQUESTS} > 0)",
    )


COST_PER_REQUEST = _per_request(COST, "mean5m")
"""Micros."""
QUEUE_FULL_RATIO = _per_request(QUEUE_FULL, "ratio_rate5m")
"""The share of requests that found the queue full, 0 to 1."""


def _of_the_endpoint(series: Series, *labels: str) -> Recording:
    by = ", ".join((ENDPOINT, *labels))
    return Recording(
        record=record_name("_".join((ENDPOINT, *labels)), series, "rate5m"),
        expr=f"sum by ({by}) (rate({series.name}[5m]))",
    )


CACHE_RATE = _of_the_endpoint(CACHE, RESULT)
"""Requests per second, by what the cache made of them."""
RULE_RATE = _of_the_endpoint(RULES, RULE, ACTION)
"""Refusals and redactions per second."""
LOST_RATE = _of_the_endpoint(LIMITS_LOST, WHAT)
"""Times per second."""
KEY_REQUEST_RATE, KEY_TOKEN_RATE, KEY_COST_RATE = (
    _of_the_endpoint(series, KEY) for series in (KEY_REQUESTS, KEY_TOKENS, KEY_COST)
)
"""Requests, tokens and micros per second that a key is charged with."""
_LOOKED_UP = f'sum by ({ENDPOINT}) (rate({CACHE.name}{{{RESULT}!="{SKIPPED}"}}[5m]))'
HIT_RATIO = Recording(
    record=record_name(ENDPOINT, CACHE, "hit_ratio_rate5m"),
    expr=f'sum by ({ENDPOINT}) (rate({CACHE.name}{{{RESULT}="{HIT}"}}[5m])) / ({_LOOKED_UP} > 0)',
)
"""The share of the requests that could have been in the cache, 0 to 1."""
AT_ONCE = Recording(
    record=record_name(ENDPOINT, IN_FLIGHT, "sum"), expr=f"sum by ({ENDPOINT}) ({IN_FLIGHT.name})"
)
"""Requests under way."""

_RETRIES, _FAILED_RETRIES = (
    f'sum by ({VERSIONS}) (rate({series.name}{{{ROUTE}="{RETRY_ROUTE}"}}[5m]))'
    for series in (REQUESTS, ERRORS)
)
RETRY_RATE = Recording(
    record=record_name("endpoint_version", REQUESTS, "retry_rate5m"), expr=_RETRIES
)
"""Requests per second that another version has failed first. No other series of a version has them."""
RETRY_ERROR_RATIO = Recording(
    record=record_name("endpoint_version", ERRORS, "retry_ratio_rate5m"),
    expr=f"({_FAILED_RETRIES} or 0 * {_RETRIES}) / ({_RETRIES} > 0)",
)
"""The share of these that failed again, 0 to 1."""
JUDGED_RATE = _of_versions(QUALITY_JUDGED)
"""Answers per second."""
_JUDGED = rate(QUALITY_JUDGED.name, by=VERSIONS, window="5m")
_BAD = rate(QUALITY_BAD.name, by=VERSIONS, window="5m")
BAD_RATIO = Recording(
    record=record_name("endpoint_version", QUALITY_BAD, "ratio_rate5m"),
    expr=f"({_BAD} or 0 * {_JUDGED}) / ({_JUDGED} > 0)",
)
"""The share of the judged answers that are bad, 0 to 1."""
SIGNAL_RATE = _of_the_endpoint(QUALITY_SIGNALS, VERSION, SIGNAL)
"""Answers per second that show a signal, pinned ones and mirrored ones among them."""
FEEDBACK_RATE, REPLACED_RATE = (
    _of_the_endpoint(series, VERSION, VERDICT) for series in (FEEDBACK, FEEDBACK_REPLACED)
)
"""Words of users per second; and those of them that were replaced."""
SHADOW_RATE, JUDGE_RATE = (
    _of_the_endpoint(series, VERSION, RESULT) for series in (SHADOW_COMPARED, JUDGE_ANSWERS)
)
"""Answers per second, by what came of them."""
LIKENESS_P50 = Recording(
    record=record_name("endpoint_version", SHADOW_LIKENESS, "p50_5m"),
    expr=(
        f"histogram_quantile(0.5, sum by ({VERSIONS}, le) (rate({SHADOW_LIKENESS.name}_bucket[5m]))) "
        f"and sum by ({VERSIONS}) (rate({SHADOW_LIKENESS.name}_count[5m])) > 0"
    ),
)
"""0 to 1."""
RECORD_RATE = _of_the_endpoint(RECORDS, RESULT)
"""Answers per second, written or dropped."""

GUARD_RECORDINGS = (
    FIRST_TOKEN_P50,
    FIRST_TOKEN_P95,
    PER_TOKEN_P50,
    PER_TOKEN_P95,
    PROMPT_RATE,
    COMPLETION_RATE,
    COST_PER_REQUEST,
    QUEUE_FULL_RATIO,
    CACHE_RATE,
    HIT_RATIO,
    RULE_RATE,
    LOST_RATE,
    KEY_REQUEST_RATE,
    KEY_TOKEN_RATE,
    KEY_COST_RATE,
    AT_ONCE,
    RETRY_RATE,
    RETRY_ERROR_RATIO,
    JUDGED_RATE,
    BAD_RATIO,
    SIGNAL_RATE,
    FEEDBACK_RATE,
    REPLACED_RATE,
    SHADOW_RATE,
    LIKENESS_P50,
    JUDGE_RATE,
    RECORD_RATE,
)
