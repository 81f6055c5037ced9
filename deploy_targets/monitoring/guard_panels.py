"""The panels of what the guard sees besides failures and latency. Pure."""

from grafana_foundation_sdk.builders.timeseries import Panel

from deploy_targets.metrics import ACTION, KEY, RESULT, RULE, SIGNAL, VERDICT, WHAT
from deploy_targets.monitoring import guard_recordings as recorded
from deploy_targets.monitoring import limits
from deploy_targets.monitoring.panels import CHOSEN, EACH_VERSION, panel


def guard_panels() -> tuple[Panel, ...]:
    """In the order of the page."""
    return (
        panel(
            "First text of half of the streams within",
            "s",
            {EACH_VERSION: recorded.FIRST_TOKEN_P50.record + CHOSEN},
        ),
        panel(
            "First text of 95 % of the streams within",
            "s",
            {EACH_VERSION: recorded.FIRST_TOKEN_P95.record + CHOSEN},
            limit=limits.FIRST_TOKEN_S,
            about="The line is where SlowFirstToken begins.",
        ),
        panel(
            "Time for a token of a stream",
            "s",
            {
                f"{EACH_VERSION}, half within": recorded.PER_TOKEN_P50.record + CHOSEN,
                f"{EACH_VERSION}, 95 % within": recorded.PER_TOKEN_P95.record + CHOSEN,
            },
            about="After the first one.",
        ),
        panel(
            "Tokens a second",
            "short",
            {
                f"{EACH_VERSION}, prompts": recorded.PROMPT_RATE.record + CHOSEN,
                f"{EACH_VERSION}, answers": recorded.COMPLETION_RATE.record + CHOSEN,
            },
        ),
        panel(
            "Cost of a request",
            "short",
            {EACH_VERSION: recorded.COST_PER_REQUEST.record + CHOSEN},
            about="The mean, in millionths of the currency of the endpoint's prices; 0 without prices.",
        ),
        panel(
            "Requests that found the queue full",
            "percentunit",
            {EACH_VERSION: recorded.QUEUE_FULL_RATIO.record + CHOSEN},
            limit=limits.QUEUE_FULL_RATIO,
            about="They are among the failed ones. The line is where QueueFull begins.",
        ),
        panel("Requests under way", "short", {"endpoint": recorded.AT_ONCE.record + CHOSEN}),
        panel(
            "Requests by what the cache made of them",
            "reqps",
            {f"{{{{{RESULT}}}}}": recorded.CACHE_RATE.record + CHOSEN},
            about=(
                "Nothing without guard.cache. Hits are in no other panel: they reach no version. "
                "Paused: two versions have answered lately."
            ),
        ),
        panel(
            "Share of cache hits",
            "percentunit",
            {"endpoint": recorded.HIT_RATIO.record + CHOSEN},
            about="Of the requests that could have been in the cache.",
        ).max(1),
        panel(
            "Refusals and redactions",
            "short",
            {f"{{{{{RULE}}}}} {{{{{ACTION}}}}}": recorded.RULE_RATE.record + CHOSEN},
            about="A second, by the rule that did it.",
        ),
        panel(
            "What Redis did not answer for",
            "short",
            {f"{{{{{WHAT}}}}}": recorded.LOST_RATE.record + CHOSEN},
            about="Times a second. BudgetsUnknown, RatesNotShared and UsersUnknown begin with the first.",
        ),
        panel(
            "Requests of each key",
            "reqps",
            {f"{{{{{KEY}}}}}": recorded.KEY_REQUEST_RATE.record + CHOSEN},
            about="Those that were sent on.",
        ),
        panel(
            "Tokens of each key a second",
            "short",
            {f"{{{{{KEY}}}}}": recorded.KEY_TOKEN_RATE.record + CHOSEN},
        ),
        panel(
            "Cost of each key an hour",
            "short",
            {f"{{{{{KEY}}}}}": f"3600 * {recorded.KEY_COST_RATE.record}{CHOSEN}"},
            about="In millionths of the currency, as it is being spent now.",
        ),
        *_panels_of_answers(),
    )


def _panels_of_answers() -> tuple[Panel, ...]:
    return (
        panel(
            "Second tries",
            "reqps",
            {EACH_VERSION: recorded.RETRY_RATE.record + CHOSEN},
            about="By who was asked then. The first tries are among the failed requests of the version that lost them.",
        ),
        panel(
            "Second tries that failed too",
            "percentunit",
            {EACH_VERSION: recorded.RETRY_ERROR_RATIO.record + CHOSEN},
        ),
        panel(
            "Bad answers",
            "percentunit",
            {EACH_VERSION: recorded.BAD_RATIO.record + CHOSEN},
            about="Of those that were judged. Nothing without guard.quality or guard.judge.",
        ),
        panel(
            "Judged answers",
            "reqps",
            {EACH_VERSION: recorded.JUDGED_RATE.record + CHOSEN},
        ),
        panel(
            "Signals of answers",
            "reqps",
            {f"{EACH_VERSION}, {{{{{SIGNAL}}}}}": recorded.SIGNAL_RATE.record + CHOSEN},
            about="Answers a second that show it, whether it makes them bad or not.",
        ),
        panel(
            "Words of users an hour",
            "short",
            {
                f"{EACH_VERSION}, {{{{{VERDICT}}}}}": f"3600 * {recorded.FEEDBACK_RATE.record}{CHOSEN}",
                f"{EACH_VERSION}, {{{{{VERDICT}}}}}, replaced": f"3600 * {recorded.REPLACED_RATE.record}{CHOSEN}",
            },
        ),
        panel(
            "Mirrored answers beside the champion's",
            "reqps",
            {f"{EACH_VERSION}, {{{{{RESULT}}}}}": recorded.SHADOW_RATE.record + CHOSEN},
            about="Nothing without guard.shadow. Dropped: over a bound, or not answered by the challenger.",
        ),
        panel(
            "Likeness of mirrored answers",
            "percentunit",
            {EACH_VERSION: recorded.LIKENESS_P50.record + CHOSEN},
            about="Half of them are at least so like the champion's.",
        ).max(1),
        panel(
            "What the judge says of answers",
            "reqps",
            {f"{EACH_VERSION}, {{{{{RESULT}}}}}": recorded.JUDGE_RATE.record + CHOSEN},
            about="Nothing without guard.judge. Unjudged: it said nothing that can be believed. Dropped: it was not asked.",
        ),
        panel(
            "Recorded answers",
            "reqps",
            {f"{{{{{RESULT}}}}}": recorded.RECORD_RATE.record + CHOSEN},
            about="Nothing without guard.record.",
        ),
    )
