"""Recording rules and alerts, as Prometheus reads them. Pure.

HighLatency and HighErrorRate are the starting guide's, made to hold for each endpoint and version. The error-budget
alerts look at an endpoint as a whole, since that is what its clients see; the guard's, in `guard_alerts`, say what it cannot
do as it should. The controller's own are for each namespace that has one, as its replicas are one controller. Every alert
has a section in docs/runbook.md.
"""

from typing import Any

from deploy_targets.metrics import (
    ENDPOINT,
    FAILED_LOOKS,
    LEADER,
    LOOKS,
    REQUESTS,
    UNSERVED_AGE,
)
from deploy_targets.monitoring import guard_recordings, limits, recordings
from deploy_targets.monitoring.alert import OF_A_VERSION, Alert
from deploy_targets.monitoring.guard_alerts import GUARD_ALERTS
from deploy_targets.monitoring.limits import BURN_RATES, BurnRate, Severity

VERSION_GROUP, BUDGET_GROUP = "LLMMetrics", "LLMErrorBudget"
GUARD_GROUP, CONTROLLER_GROUP = "LLMGuard", "ShipwayController"

_SECONDS = '{{ $value | printf "%.2f" }} s'
_PERCENT = "{{ $value | humanizePercentage }}"


_BY_VERSION = (
    Alert(
        name="HighLatency",
        expr=f"{recordings.MEAN_LATENCY.record} > {limits.MEAN_LATENCY_S:g}",
        severity=Severity.WARNING,
        summary=f"Slow answers from {OF_A_VERSION}",
        description=f"The mean answer took {_SECONDS} over 5 minutes; the limit is {limits.MEAN_LATENCY_S:g} s.",
    ),
    Alert(
        name="HighTailLatency",
        expr=f"{recordings.P95.record} > {limits.P95_LATENCY_S:g}",
        severity=Severity.WARNING,
        summary=f"Very slow answers from {OF_A_VERSION}",
        description=f"One answer in 20 took more than {_SECONDS} over 5 minutes; the limit is {limits.P95_LATENCY_S:g} s.",
    ),
    Alert(
        name="HighErrorRate",
        expr=f"{recordings.ERROR_RATIO.record} > {limits.ERROR_RATIO:g}",
        severity=Severity.CRITICAL,
        summary=f"Failures of {OF_A_VERSION}",
        description=f"{_PERCENT} of its requests failed over 5 minutes; the limit is {limits.ERROR_RATIO:.0%}.",
    ),
    Alert(
        name="MetricsMissing",
        expr=(
            f"count by ({ENDPOINT}) (max_over_time({REQUESTS.name}[1h])) "
            f"unless count by ({ENDPOINT}) ({REQUESTS.name})"
        ),
        severity=Severity.CRITICAL,
        summary="Nothing is known of endpoint {{ $labels.endpoint }}",
        description=(
            "{{ $value }} series of its guard were there within the last hour, and for 5 minutes none is. "
            "No other alert can fire for it."
        ),
    ),
)


def _burn(rate: BurnRate) -> Alert:
    long, short = (
        recordings.endpoint_error_ratio(window).record for window in (rate.long, rate.short)
    )
    requests = recordings.endpoint_requests(rate.long).record
    is_urgent = rate.severity is Severity.CRITICAL
    return Alert(
        name="ErrorBudgetBurnsFast" if is_urgent else "ErrorBudgetBurnsSlowly",
        expr=(
            f"{long} > {rate.error_ratio:g} and {short} > {rate.error_ratio:g} "
            f"and {requests} >= {limits.MIN_REQUESTS}"
        ),
        lasts=rate.lasts,
        severity=rate.severity,
        summary=f"The error budget of endpoint {{{{ $labels.endpoint }}}} burns at {rate.factor:g}x",
        description=(
            f"{_PERCENT} of its requests failed over {rate.long}, and more than {rate.error_ratio:.2%} over {rate.short}; "
            f"{limits.ERROR_BUDGET:.1%} is what 30 days allow."
        ),
        labels={"window": rate.long},
    )


_OF_THE_BUDGET = tuple(_burn(rate) for rate in BURN_RATES)

_WHERE = "namespace"
"""Set by the operator; without it all controllers that a Prometheus reads count as one."""
_PLACE = f"{{{{ $labels.{_WHERE} }}}}"

_OF_THE_CONTROLLER = (
    Alert(
        name="NobodyLeads",
        expr=(
            f"count by ({_WHERE}) (max_over_time({LEADER.name}[1h])) "
            f"unless count by ({_WHERE}) ({LEADER.name} == 1)"
        ),
        severity=Severity.CRITICAL,
        summary=f"No controller leads in namespace {_PLACE}",
        description=(
            "{{ $value }} were there within the last hour, and for 5 minutes none of them acts: rollouts stand still, and a "
            "challenger that fails is not rolled back."
        ),
    ),
    Alert(
        name="ControllerDoesNotLook",
        expr=(
            f"max by ({_WHERE}) ({LEADER.name}) == 1 "
            f"unless sum by ({_WHERE}) (rate({LOOKS.name}_count[5m])) > 0"
        ),
        severity=Severity.CRITICAL,
        summary=f"The controller of namespace {_PLACE} looks at nothing",
        description="{{ $value }} controller leads, and in 5 minutes it has not ended a look at any endpoint.",
    ),
    Alert(
        name="LooksFail",
        expr=(
            f"sum by ({_WHERE}, {ENDPOINT}) (increase({FAILED_LOOKS.name}[10m])) "
            f"> {limits.FAILED_LOOKS}"
        ),
        severity=Severity.CRITICAL,
        summary="Endpoint {{ $labels.endpoint }} is out of the controller's hands",
        description=(
            '{{ $value | printf "%.0f" }} looks at it failed within 10 minutes, and after each nothing was decided.'
        ),
    ),
    Alert(
        name="ChangeWaits",
        expr=f"max by ({_WHERE}) ({UNSERVED_AGE.name}) > {limits.UNSERVED_S}",
        severity=Severity.WARNING,
        summary=f"A change in the registry is not acted on in namespace {_PLACE}",
        description=f"The oldest has waited {{{{ $value | humanizeDuration }}}}; the limit is {limits.UNSERVED_S} s.",
    ),
)

ALERTS = (*_BY_VERSION, *_OF_THE_BUDGET, *GUARD_ALERTS, *_OF_THE_CONTROLLER)

_BUDGET_RECORDINGS = tuple(
    recordings.endpoint_error_ratio(window)
    for window in dict.fromkeys(window for rate in BURN_RATES for window in (rate.short, rate.long))
) + tuple(recordings.endpoint_requests(rate.long) for rate in BURN_RATES)

RECORDINGS = (
    *recordings.BY_VERSION,
    *_BUDGET_RECORDINGS,
    *guard_recordings.GUARD_RECORDINGS,
)


def rule_groups() -> dict[str, Any]:
    """The `groups` of a rule file, which are also the spec of a PrometheusRule."""
    return {
        "groups": [
            _group(VERSION_GROUP, recordings.BY_VERSION, _BY_VERSION),
            _group(BUDGET_GROUP, _BUDGET_RECORDINGS, _OF_THE_BUDGET),
            _group(GUARD_GROUP, guard_recordings.GUARD_RECORDINGS, GUARD_ALERTS),
            _group(CONTROLLER_GROUP, (), _OF_THE_CONTROLLER),
        ]
    }


def _group(
    name: str, recorded: tuple[recordings.Recording, ...], alerts: tuple[Alert, ...]
) -> dict[str, Any]:
    """Rules of a group are evaluated in their order: what an alert reads is computed just before."""
    return {
        "name": name,
        "rules": [
            *({"record": one.record, "expr": one.expr} for one in recorded),
            *(alert.rule() for alert in alerts),
        ],
    }
