"""Every threshold of the alerts, declared once. The alerts, their texts and the dashboard's lines are built from these.

The mean latency and the error ratio are the starting guide's numbers. An endpoint that generates long answers needs
other latencies: change them here and run `make docs`.
"""

from dataclasses import dataclass
from enum import StrEnum

MEAN_LATENCY_S = 1.0
"""Of a whole answer, streamed or not, over five minutes."""
P95_LATENCY_S = 5.0
"""A bound of the histogram's buckets, so that the quantile is measured there and not interpolated."""
ERROR_RATIO = 0.01
"""Of one version's requests, over five minutes."""
ERROR_BUDGET = 0.001
"""Of an endpoint's requests, over 30 days: 99.9 % are to be answered."""
MIN_REQUESTS = round(1 / ERROR_BUDGET)
"""In a burn rate's long window. With fewer, a single failure is more than the budget grants, and says nothing."""

FIRST_TOKEN_S = 5.0
"""Of streams, for 19 of 20; a bound of the histogram's buckets. Our guess of how long people wait for a first word."""
QUEUE_FULL_RATIO = 0.01
"""Of one version's requests, over five minutes: as many as may fail for whatever reason."""

UNSERVED_S = 120
"""That a change in the registry may wait to be looked at, or its version to be inspected."""
FAILED_LOOKS = 5
"""Of one endpoint in ten minutes. One that always fails has twenty there, at the default poll period."""


class Severity(StrEnum):
    """What an alert asks of people."""

    CRITICAL = "critical"
    """Wake somebody up."""
    WARNING = "warning"
    """Look at it in working hours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BurnRate:
    """How many times too fast the error budget is used up, in a long window and in a short one.

    The long window makes it significant, the short one ends the alert soon after the errors end.
    """

    factor: float
    long: str
    short: str
    lasts: str
    """How long it holds before the alert fires."""
    severity: Severity

    @property
    def error_ratio(self) -> float:
        """The share of failures beyond which the budget burns that fast."""
        return self.factor * ERROR_BUDGET


BURN_RATES = (
    BurnRate(factor=14.4, long="1h", short="5m", lasts="2m", severity=Severity.CRITICAL),
    BurnRate(factor=6, long="6h", short="30m", lasts="5m", severity=Severity.CRITICAL),
    BurnRate(factor=3, long="1d", short="2h", lasts="15m", severity=Severity.WARNING),
    BurnRate(factor=1, long="3d", short="6h", lasts="30m", severity=Severity.WARNING),
)
"""Uses 2, 5, 10 and 10 % of the 30 days' budget (Site Reliability Workbook, chapter 5, "Alerting on SLOs")."""
