"""Every Prometheus series, declared once: guard and controller emit them, rules, dashboards and the rollout read them.

Durations are in seconds. Labels are bounded: an endpoint, a version that this endpoint really serves, a route.
A request that no version can be named for is counted under `UNATTRIBUTED`, never guessed.
"""

from dataclasses import dataclass

UNATTRIBUTED = "unattributed"

ENDPOINT, VERSION, ROUTE = "endpoint", "version", "route"
SENDER, RESULT, PHASE = "sender", "result", "phase"

CHAT_ROUTE, PINNED_ROUTE = ROUTES = ("chat", "pinned")
"""Values of the route label. A request that names its version is pinned, and takes no part in a comparison."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One metric family."""

    name: str
    help: str
    labels: tuple[str, ...] = (ENDPOINT, VERSION, ROUTE)
    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram, in the metric's unit; empty for others. A counter's name ends in _total."""


REQUESTS = Series(
    name="llm_inference_requests_total", help="Requests that a version finished, well or badly."
)
ERRORS = Series(
    name="llm_inference_errors_total",
    help="Requests that a version failed: 5xx, timeouts, broken streams, an error in a 200.",
)
DURATION = Series(
    name="llm_inference_duration_seconds",
    help="From the request's arrival at the guard to the answer's last byte.",
    buckets=(0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0, 34.0, 60.0, 120.0),
)
HINTS = Series(
    name="shipway_hints_total",
    help="Hints of MLflow and of its Shipway app that came to the controller: accepted, or why refused.",
    labels=(SENDER, RESULT),
)

LOOKS = Series(
    name="shipway_reconcile_seconds",
    help="What a look at an endpoint took the leading controller, by how it ended.",
    labels=(RESULT,),
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0),
)
FAILED_LOOKS = Series(
    name="shipway_reconcile_failures_total",
    help="Looks that failed, so that nothing was decided for that endpoint.",
    labels=(ENDPOINT,),
)
UNSERVED_AGE = Series(
    name="shipway_oldest_unserved_change_seconds",
    help="Age of the oldest hint that no look has answered, or request that was seen and not admitted or refused; 0 without.",
    labels=(),
)
LEADER = Series(
    name="shipway_leader", help="1 where this controller is the one that acts.", labels=()
)
UNDER_WAY = Series(
    name="shipway_rollouts", help="Rollouts under way, by their phase.", labels=(PHASE,)
)
