"""Every Prometheus series, declared once: guard and controller emit them, rules, dashboards and the rollout read them.

Durations are in seconds, money in micros. Labels are bounded: an endpoint, a version that this endpoint really serves, a
route, a rule or a key that its operator has named. A guard is one process and one scrape target; several are added up.
A request that no version can be named for is counted under `UNATTRIBUTED`, never guessed.
"""

from dataclasses import dataclass

UNATTRIBUTED = "unattributed"

ENDPOINT, VERSION, ROUTE = "endpoint", "version", "route"
SENDER, RESULT, PHASE = "sender", "result", "phase"
RULE, ACTION, KEY, WHAT = "rule", "action", "key", "what"
SIGNAL, VERDICT = "signal", "verdict"

REFUSED, REDACTED = ACTIONS = ("refused", "redacted")
LOST = ("rates", "budgets", "settlements", "answers", "users")
"""What Redis was needed for when it did not answer; `answers` are those that feedback may be about, `users` sticky ones."""

HIT, MISS, SKIPPED, PAUSED, LOOKUP_LOST = CACHE_RESULTS = (
    "hit",
    "miss",
    "skipped",
    "paused",
    "lost",
)
"""Answered from the cache; sent on; not of a kind that is kept; sent on while several versions serve; sent on because
Redis did not answer."""

BAD, NEUTRAL, GOOD = FEEDBACK_VERDICTS = ("bad", "neutral", "good")
"""What a user may say of an answer."""
CHAT_ROUTE, PINNED_ROUTE, AGAIN_ROUTE, RETRY_ROUTE, SHADOW_ROUTE = ROUTES = (
    "chat",
    "pinned",
    "again",
    "retry",
    "shadow",
)
"""Values of the route label. Versions are compared by `chat` alone. A request that names its version is `pinned`; one of a
sticky user who was counted since the present split began is `again`, for it hangs together with those before it; the second
try of one that another version has failed is a `retry`; one that the guard asks of the challenger as well is a `shadow`."""
SAME, SIMILAR, DIFFERENT, SHADOW_FAILED, DROPPED = SHADOW_RESULTS = (
    "same",
    "similar",
    "different",
    "failed",
    "dropped",
)
"""How a mirrored request's answer is beside the champion's; `dropped` was not asked, or not answered by the challenger."""
WRITTEN = "written"
RECORD_RESULTS = (WRITTEN, DROPPED)
UNJUDGED = "unjudged"
JUDGE_RESULTS = ("good", "bad", UNJUDGED, DROPPED)
"""What a judge's word is: `unjudged` where it said nothing that can be believed, `dropped` where it was not asked."""


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
FIRST_TOKEN = Series(
    name="llm_inference_first_token_seconds",
    help="From the request's arrival at the guard to the first text of its answer. Streams alone.",
    buckets=(0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 13.0, 30.0, 60.0),
)
PER_TOKEN = Series(
    name="llm_inference_per_token_seconds",
    help="Mean time between the tokens of an answer, after the first. Streams of at least two tokens alone.",
    buckets=(0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0),
)
PROMPT_TOKENS = Series(
    name="llm_inference_prompt_tokens_total",
    help="Tokens of the prompts of finished requests, as the version counts them.",
)
COMPLETION_TOKENS = Series(
    name="llm_inference_completion_tokens_total",
    help="Tokens of the answers to finished requests, as the version counts them.",
)
COST = Series(
    name="llm_inference_cost_micros_total",
    help="What finished requests cost by the endpoint's prices, in millionths of its currency.",
)
QUALITY_JUDGED = Series(
    name="llm_quality_judged_total",
    help="Answers that were judged, each once. None where the endpoint has neither guard.quality nor guard.judge.",
)
QUALITY_BAD = Series(
    name="llm_quality_bad_total", help="Answers that were judged bad, of those that were judged."
)
QUALITY_SIGNALS = Series(
    name="llm_quality_signals_total",
    help="Answers that showed a signal, whether it makes them bad or not.",
    labels=(ENDPOINT, VERSION, SIGNAL),
)
FEEDBACK = Series(
    name="llm_feedback_total",
    help="What users said of answers, those included that they have replaced since.",
    labels=(ENDPOINT, VERSION, VERDICT),
)
FEEDBACK_REPLACED = Series(
    name="llm_feedback_replaced_total",
    help="Of what users said of answers, what they have replaced since by something else.",
    labels=(ENDPOINT, VERSION, VERDICT),
)
IN_FLIGHT = Series(
    name="llm_inference_in_flight",
    help="Requests that were let in and are not over.",
    labels=(ENDPOINT,),
)
RULES = Series(
    name="llm_guard_rules_total",
    help="What was refused or redacted, by the rule that did it.",
    labels=(ENDPOINT, RULE, ACTION),
)
LIMITS_LOST = Series(
    name="llm_guard_limits_lost_total",
    help="Times that Redis was needed and did not answer. Rates are then each process's own, budgets refuse, answers are not "
    "kept for feedback and users not compared.",
    labels=(ENDPOINT, WHAT),
)
CACHE = Series(
    name="llm_guard_cache_total",
    help="Requests by what the answer cache made of them. A hit is not sent on, and is in no series of a version.",
    labels=(ENDPOINT, RESULT),
)
QUEUE_FULL = Series(
    name="llm_inference_queue_full_total",
    help="Requests that a version turned away because its queue was full; they are among its errors.",
)
KEY_REQUESTS = Series(
    name="llm_guard_key_requests_total",
    help="Requests that were sent on for each key, those that their client cancelled included.",
    labels=(ENDPOINT, VERSION, KEY),
)
KEY_TOKENS = Series(
    name="llm_guard_key_tokens_total",
    help="Tokens of prompts and answers that each key was charged for.",
    labels=(ENDPOINT, VERSION, KEY),
)
KEY_COST = Series(
    name="llm_guard_key_cost_micros_total",
    help="What each key was charged, in millionths of the endpoint's currency.",
    labels=(ENDPOINT, VERSION, KEY),
)
SHADOW_COMPARED = Series(
    name="llm_shadow_compared_total",
    help="Live requests that were to be asked of this version as well, by how its answer is beside the champion's.",
    labels=(ENDPOINT, VERSION, RESULT),
)
SHADOW_LIKENESS = Series(
    name="llm_shadow_likeness_ratio",
    help="How alike the answers of the champion and of this version are: 1 for the same text, 0 for nothing in common.",
    labels=(ENDPOINT, VERSION),
    buckets=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0),
)
JUDGE_ANSWERS = Series(
    name="llm_judge_answers_total",
    help="Answers of this version that were to be judged by another model, by what it said.",
    labels=(ENDPOINT, VERSION, RESULT),
)
RECORDS = Series(
    name="llm_guard_records_total",
    help="Answers that were to be recorded: written to the spool folder, or dropped.",
    labels=(ENDPOINT, RESULT),
)
BOUNDS = {
    "latency": DURATION.buckets,
    "first_token": FIRST_TOKEN.buckets,
    "per_token": PER_TOKEN.buckets,
}
"""The bucket bounds of what a rollout is judged by, by the judge's name for it."""
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
