"""The panels of what the guard sees besides failures and latency. Pure."""

from grafana_foundation_sdk.builders.timeseries import Panel

from deploy_targets.metrics import ACTION, KEY, RESULT, RULE, WHAT
from deploy_targets.monitoring import guard_recordings, limits
from deploy_targets.monitoring.panels import CHOSEN, EACH_VERSION, panel


def guard_panels() -> tuple[Panel, ...]:
    """In the order of the page."""
    recorded = guard_recordings
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
            "Limits that Redis did not answer for",
            "short",
            {f"{{{{{WHAT}}}}}": recorded.LOST_RATE.record + CHOSEN},
            about="Times a second. BudgetsUnknown and RatesNotShared begin with the first.",
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
    )
