"""What the guard cannot do as it should, and what its clients wait for. Pure."""

from deploy_targets.metrics import WHAT
from deploy_targets.monitoring import guard_recordings, limits
from deploy_targets.monitoring.alert import OF_A_VERSION, Alert
from deploy_targets.monitoring.limits import Severity

_ENDPOINT = "endpoint {{ $labels.endpoint }}"
_RATE = '{{ $value | printf "%.2f" }}'

GUARD_ALERTS = (
    Alert(
        name="SlowFirstToken",
        expr=f"{guard_recordings.FIRST_TOKEN_P95.record} > {limits.FIRST_TOKEN_S:g}",
        severity=Severity.WARNING,
        summary=f"Streams of {OF_A_VERSION} begin late",
        description=(
            f"One stream in 20 brought its first text after more than {_RATE} s over 5 minutes; the limit is "
            f"{limits.FIRST_TOKEN_S:g} s."
        ),
    ),
    Alert(
        name="QueueFull",
        expr=f"{guard_recordings.QUEUE_FULL_RATIO.record} > {limits.QUEUE_FULL_RATIO:g}",
        severity=Severity.WARNING,
        summary=f"The queue of {OF_A_VERSION} is full",
        description=(
            "{{ $value | humanizePercentage }} of its requests were turned away over 5 minutes because too many waited; "
            f"the limit is {limits.QUEUE_FULL_RATIO:.0%}."
        ),
    ),
    Alert(
        name="BudgetsUnknown",
        expr=f'{guard_recordings.LOST_RATE.record}{{{WHAT}="budgets"}} > 0',
        severity=Severity.CRITICAL,
        summary=f"Clients of {_ENDPOINT} that have a budget are refused",
        description=f"{_RATE} times a second over 5 minutes Redis did not say what is left of a budget.",
    ),
    Alert(
        name="RatesNotShared",
        expr=f'{guard_recordings.LOST_RATE.record}{{{WHAT}=~"rates|settlements"}} > 0',
        severity=Severity.WARNING,
        summary=f"Each guard of {_ENDPOINT} counts limits for itself",
        description=(
            f"{_RATE} times a second over 5 minutes Redis did not answer for {{{{ $labels.what }}}}: as many times the "
            "limit may come through as there are guards."
        ),
    ),
    Alert(
        name="UsersUnknown",
        expr=f'{guard_recordings.LOST_RATE.record}{{{WHAT}=~"users|answers"}} > 0',
        severity=Severity.WARNING,
        summary=f"Users and answers of {_ENDPOINT} are not remembered",
        description=(
            f"{_RATE} times a second over 5 minutes Redis did not answer for {{{{ $labels.what }}}}: no new user takes part "
            "in a comparison, and nobody can say anything of these answers."
        ),
    ),
)
