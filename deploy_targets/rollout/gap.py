"""Between what was observed and what the state wants: the actions that close the gap. Pure.

The actions come from the state and the observation alone, never from the event that led there, so an action that was
lost on the way is asked for again by the next look. Traffic comes first in the list: it is what users feel.
"""

from datetime import datetime, timedelta

from deploy_targets.endpoint import Endpoint
from deploy_targets.rollout.experiment_state import ExperimentPhase
from deploy_targets.rollout.state import (
    Action,
    ApplyRevision,
    EndpointState,
    Phase,
    RetireRevision,
    RolloutState,
    ShiftTraffic,
)
from deploy_targets.rollout_policy import RolloutPolicy, Step
from deploy_targets.routing.traffic import Traffic
from deploy_targets.target import Observed, Readiness, Revision
from registry.promotion import RegistryFacts, Standing, plan_registry
from registry.release import Release


def standing(state: EndpointState) -> Standing:
    """The state in the registry's own terms."""
    return Standing(
        serving=version_of(state.serving),
        settled_champion=state.settled_champion,
        serving_reason=state.serving_reason,
        in_rollout=None if state.rollout is None else state.rollout.challenger.version,
        rejected=state.rejected,
        stage_before=state.stage_before,
    )


def policy_of(endpoint: Endpoint, rollout: RolloutState) -> RolloutPolicy:
    """The policy that it began under: one that is changed meanwhile is the next rollout's."""
    return (rollout.declared or endpoint).rollout


def steps_of(endpoint: Endpoint, rollout: RolloutState) -> tuple[Step, ...]:
    """The weights it walks. A first release has nobody to share with: it takes all, within absolute limits."""
    if rollout.champion is None:
        return (Step(weight=100, dwell_s=0),)
    return policy_of(endpoint, rollout).steps


def step_of(endpoint: Endpoint, rollout: RolloutState) -> Step:
    """The step it is at; the last one where the policy has fewer steps than when it got there."""
    steps = steps_of(endpoint, rollout)
    return steps[min(rollout.step, len(steps) - 1)]


def wanted_traffic(endpoint: Endpoint, state: EndpointState, observed: Observed) -> Traffic:
    """Where requests should go in this state."""
    serving = version_of(state.serving)
    override, rollout = state.override, state.rollout
    if override is not None and override.to is not None:
        ready = observed.is_ready(override.to.version)
        return Traffic.all_to(override.to.version if ready else serving)
    experiment = state.experiment
    if experiment is not None and experiment.phase is ExperimentPhase.RUNNING:
        return experiment.traffic
    if rollout is None or rollout.phase is Phase.WARMING:
        return Traffic.all_to(serving)
    if rollout.phase is Phase.COMPLETING:
        return Traffic.all_to(rollout.challenger.version)
    weight = step_of(endpoint, rollout).weight
    return Traffic.split(serving, rollout.challenger.version, weight)


def wanted_mirror(state: EndpointState) -> str | None:
    """Of which version requests should be asked as well: of a challenger that steps beside a champion. None else."""
    rollout = state.rollout
    if rollout is None or rollout.champion is None or state.override is not None:
        return None
    return rollout.challenger.version if rollout.phase is Phase.STEPPING else None


def close_gap(
    endpoint: Endpoint,
    state: EndpointState,
    *,
    observed: Observed,
    facts: RegistryFacts | None,
    now: datetime,
) -> tuple[Action, ...]:
    """What must be done for the world to be as `state` wants it; nothing when it already is.

    Without `facts` the registry is left alone. An action that moves traffic names only revisions that exist.
    """
    actions: list[Action] = []
    wanted = wanted_traffic(endpoint, state, observed)
    if wanted != observed.traffic and wanted.weights.keys() <= observed.revisions.keys():
        actions.append(ShiftTraffic(traffic=wanted))
    kept = kept_releases(state)
    actions += [
        ApplyRevision(release=release)
        for version, release in kept.items()
        if _needs_applying(observed.revisions.get(version))
    ]
    drained = now - timedelta(seconds=endpoint.rollout.drain_s)
    actions += [
        RetireRevision(version=version)
        for version, since in state.idle_since.items()
        if since <= drained and not observed.traffic.percent(version)
    ]
    if facts is not None:
        actions += plan_registry(facts, endpoint.trigger, standing(state))
    return tuple(actions)


def _needs_applying(revision: Revision | None) -> bool:
    """Also where its platform gave up on it: what serves must come back by itself once the cause has passed."""
    return revision is None or revision.readiness is Readiness.FAILED


def kept_releases(state: EndpointState) -> dict[str, Release]:
    """The releases that have a role in this state, by version."""
    roles = [state.serving]
    if state.rollout is not None:
        roles.append(state.rollout.challenger)
    if state.experiment is not None:
        roles += state.experiment.arms
    if state.override is not None:
        roles.append(state.override.to)
    return {release.version: release for release in roles if release is not None}


def version_of(release: Release | None) -> str | None:
    """Its version, or None for none."""
    return None if release is None else release.version
