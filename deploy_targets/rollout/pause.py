"""What keeps a rollout from going on: an operator's hold, a freeze window, or eyes that are shut. Pure.

While any of them lasts, no more requests are moved to the challenger; being rolled back is never kept from it. The time
that was waited is not held against the rollout: its time limit moves by as much.
"""

from dataclasses import replace
from datetime import datetime, timedelta

from deploy_targets.rollout.state import (
    EndpointState,
    Hold,
    NoData,
    Observation,
    Phase,
    RolloutState,
)
from deploy_targets.rollout_policy import RolloutPolicy


def word_against(hold: Hold | None, policy: RolloutPolicy, now: datetime) -> str:
    """What people said against going on at this moment; empty when nothing."""
    if hold is not None:
        return word_of(hold)
    return "a freeze window of its policy is open" if policy.is_frozen(now) else ""


def word_of(hold: Hold) -> str:
    """An operator's hold in words."""
    by = f" by {hold.by}" if hold.by else ""
    return f"held{by}: {hold.reason}"


def reason_of(rollout: RolloutState) -> str:
    """Why it stands where it stands."""
    waits = f"it waits, {rollout.waiting}; " if rollout.waiting else ""
    return waits + rollout.verdict.reason


def blindness(observation: Observation | NoData, *, is_registry_away: bool) -> str:
    """What cannot be seen at this moment; empty when all can."""
    if isinstance(observation, NoData) and observation.is_outage:
        return f"no metrics: {observation.reason}"
    return "MLflow does not answer" if is_registry_away else ""


def with_blindness(rollout: RolloutState, blind: str, now: datetime) -> RolloutState:
    """The rollout that knows since when it is blind. At weight 0 there is nothing to be seen."""
    if not blind or rollout.phase is not Phase.STEPPING:
        return replace(rollout, blind_since=None)
    return replace(rollout, blind_since=rollout.blind_since or now)


def is_blind_for_too_long(rollout: RolloutState, policy: RolloutPolicy, now: datetime) -> bool:
    """Whether its requests must go back to the champion; a first release has none."""
    if rollout.blind_since is None or rollout.champion is None:
        return False
    return now - rollout.blind_since >= timedelta(seconds=policy.blind_limit_s)


def with_waiting(rollout: RolloutState, reason: str, now: datetime) -> RolloutState:
    """The rollout that waits for `reason`, or goes on when that is empty."""
    if reason:
        return replace(rollout, waiting=reason, waiting_since=rollout.waiting_since or now)
    since = rollout.waiting_since
    if since is None:
        return rollout
    waited = now - since
    exposed = None if rollout.exposed_since is None else rollout.exposed_since + waited
    # A step's time goes on while it waits; the time to get ready does not.
    began = rollout.phase_since + (waited if rollout.phase is Phase.WARMING else timedelta(0))
    return replace(
        rollout, waiting="", waiting_since=None, exposed_since=exposed, phase_since=min(began, now)
    )


def exposed_s(rollout: RolloutState, now: datetime) -> float:
    """For how long it has had traffic, without the time that it has been waiting, in seconds."""
    until = rollout.waiting_since or now
    return max(0.0, (until - (rollout.exposed_since or until)).total_seconds())


def without_future(state: EndpointState, now: datetime) -> EndpointState:
    """The state without times that lie ahead: a clock that was set back would stretch every wait by as much."""
    rollout = state.rollout
    if rollout is not None:
        rollout = replace(
            rollout,
            phase_since=min(rollout.phase_since, now),
            exposed_since=_not_after(now, rollout.exposed_since),
            waiting_since=_not_after(now, rollout.waiting_since),
            blind_since=_not_after(now, rollout.blind_since),
            seen_since=_not_after(now, rollout.seen_since),
        )
    experiment = state.experiment
    if experiment is not None:
        experiment = replace(
            experiment,
            phase_since=min(experiment.phase_since, now),
            held_since=_not_after(now, experiment.held_since),
            blind_since=_not_after(now, experiment.blind_since),
        )
    override = state.override
    if override is not None:
        override = replace(override, since=_not_after(now, override.since))
    idle = {version: min(since, now) for version, since in state.idle_since.items()}
    return replace(
        state, rollout=rollout, experiment=experiment, override=override, idle_since=idle
    )


def _not_after(now: datetime, since: datetime | None) -> datetime | None:
    return None if since is None else min(since, now)
