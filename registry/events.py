"""The name of every event that is logged: past-tense facts. Their fields are bound where they are logged."""

from enum import StrEnum


class Event(StrEnum):
    """One value for each thing that may be said to have happened."""

    PROMOTION_ACCEPTED = "promotion.accepted"
    PROMOTION_REFUSED = "promotion.refused"
    ROLLOUT_STARTED = "rollout.started"
    ROLLOUT_STEP_ADVANCED = "rollout.step_advanced"
    ROLLOUT_SET_BACK = "rollout.set_back"
    ROLLOUT_COMPLETING = "rollout.completing"
    ROLLOUT_PROMOTED = "rollout.promoted"
    ROLLOUT_ROLLED_BACK = "rollout.rolled_back"
    ROLLOUT_WITHDRAWN = "rollout.withdrawn"
    ROLLOUT_SUPERSEDED = "rollout.superseded"
    OVERRIDE_APPLIED = "override.applied"
    TICK_FINISHED = "tick.finished"
    TICK_FAILED = "tick.failed"
    FIELDS_TAKEN_BACK = "fields.taken_back"
    JOURNAL_FAILED = "journal.failed"
    HINT_ACCEPTED = "hint.accepted"
    HINT_REFUSED = "hint.refused"
    HINT_DROPPED = "hint.dropped"
    HINTS_OFF = "hints.off"
    REVISION_CHANGED = "revision.changed"
    REQUEST_FAILED = "engine.request_failed"
    STREAM_FAILED = "engine.stream_failed"
    TEMPLATE_BROKEN = "engine.template_broken"
    REQUEST_SERVED = "request.served"
