"""What now? The state after this look at the world, and the actions that close the gap to it. Pure.

`plan` lets the state follow what was seen, in this order: registry, operator's override, the rollout's own phase.
What is to be done about it is `gap.close_gap`'s business.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from deploy_targets.endpoint import Endpoint
from deploy_targets.rollout.gap import (
    close_gap,
    kept_releases,
    standing,
    steps_of,
    version_of,
)
from deploy_targets.rollout.judge import add_counts, judge, learn
from deploy_targets.rollout.state import (
    NOTHING_YET,
    Action,
    Counts,
    Decision,
    EndedRollout,
    EndpointState,
    NoData,
    Observation,
    Outcome,
    Phase,
    Point,
    RolloutState,
)
from deploy_targets.routing.traffic import Traffic
from deploy_targets.target import Observed, Readiness
from registry.promotion import (
    CHAMPION,
    RegistryFacts,
    StageTrigger,
    check_gate,
    read_request,
    withdrawn,
)
from registry.release import Refused, Release

MAX_POINTS = 1_000
"""Chart points kept with a rollout: beyond it the older ones are merged two by two. A guess at what a chart can
show; the journal has written all of them to MLflow by then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SmokeResult:
    """What the ready challenger answered to the smoke prompts, pinned, at weight 0."""

    passed: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """Everything that was seen in one look. What could not be seen is None or `NoData`, never a guess."""

    now: datetime
    observed: Observed
    facts: RegistryFacts | None
    """None while MLflow does not answer: no request is read and nothing is written there."""
    observation: Observation | NoData
    smoke: SmokeResult | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to save, and then what to do, in this order."""

    state: EndpointState
    actions: tuple[Action, ...]


def plan(endpoint: Endpoint, state: EndpointState, situation: Situation) -> Plan:
    """The next state and the actions to reach it."""
    if situation.facts is not None:
        state = follow_registry(endpoint, state, situation.facts, now=situation.now)
    state = follow_override(state, situation)
    state = advance(endpoint, state, situation)
    state = _note_idle(state, situation)
    actions = close_gap(
        endpoint,
        state,
        observed=situation.observed,
        facts=situation.facts,
        now=situation.now,
    )
    return Plan(state=state, actions=actions)


def follow_registry(
    endpoint: Endpoint, state: EndpointState, facts: RegistryFacts, *, now: datetime
) -> EndpointState:
    """The state after reading what the registry asks for: a rollout begun, replaced or withdrawn, a request refused."""
    gone = withdrawn(facts, endpoint.trigger, state.rejected)
    rejected = {version: why for version, why in state.rejected.items() if version not in gone}
    state = replace(state, rejected=rejected, stage_before=_stages(endpoint, state, facts))
    if state.serving is not None and facts.aliases.get(CHAMPION) == state.serving.version:
        state = replace(state, settled_champion=state.serving.version)
    if state.override is not None:
        return state
    asked = read_request(facts, endpoint.trigger, standing(state))
    under_way = state.rollout
    if under_way is not None and under_way.challenger.version != asked:
        outcome = Outcome.WITHDRAWN if asked is None else Outcome.SUPERSEDED
        reason = "its request was withdrawn" if asked is None else f"v{asked} was asked for instead"
        state = end_rollout(state, outcome, reason, now=now)
    if asked is None or state.rollout is not None:
        return state
    admitted = _admit(facts, asked)
    if isinstance(admitted, Refused):
        reason = "refused: " + " ".join(admitted.reasons)
        return replace(state, rejected={**state.rejected, asked: reason})
    return replace(
        state,
        scrape=None,
        rollout=RolloutState(
            id=f"{endpoint.name}-v{asked}-{now:%Y%m%dT%H%M%S}",
            champion=version_of(state.serving),
            challenger=admitted,
            started=now,
            phase_since=now,
        ),
    )


def follow_override(state: EndpointState, situation: Situation) -> EndpointState:
    """The state after an operator's rollback: the rollout ends, and what was named serves as soon as it can answer."""
    override = state.override
    if override is None:
        return state
    if state.rollout is not None:
        state = end_rollout(state, Outcome.ROLLED_BACK, override.reason, now=situation.now)
    if override.to is None or override.to == state.serving:
        return replace(state, override=None)
    if situation.observed.traffic != Traffic.all_to(override.to.version):
        return state
    rejected = dict(state.rejected)
    rejected.pop(override.to.version, None)
    if state.serving is not None:
        rejected[state.serving.version] = override.reason
    return replace(
        state,
        override=None,
        serving=override.to,
        serving_reason=override.reason,
        previous=state.serving,
        rejected=rejected,
    )


def advance(endpoint: Endpoint, state: EndpointState, situation: Situation) -> EndpointState:
    """The state after the rollout's own next move, if there is one."""
    rollout = state.rollout
    if rollout is None:
        return state
    match rollout.phase:
        case Phase.WARMING:
            return _warm(endpoint, state, rollout, situation)
        case Phase.STEPPING:
            return _step(endpoint, state, rollout, situation)
        case Phase.COMPLETING:
            return _complete(endpoint, state, rollout, situation)


def end_rollout(
    state: EndpointState, outcome: Outcome, reason: str, *, now: datetime
) -> EndpointState:
    """The state without its rollout. One that was rolled back is remembered until its request was seen withdrawn."""
    rollout = state.rollout
    if rollout is None:
        return state
    ended = EndedRollout(rollout=rollout, outcome=outcome, reason=reason, ended=now)
    state = replace(state, rollout=None, scrape=None, unreported=(*state.unreported, ended))
    if outcome is Outcome.ROLLED_BACK:
        told = f"rolled back: {reason}"
        return replace(state, rejected={**state.rejected, rollout.challenger.version: told})
    return state


def _warm(
    endpoint: Endpoint, state: EndpointState, rollout: RolloutState, situation: Situation
) -> EndpointState:
    policy, now = endpoint.rollout, situation.now
    version = rollout.challenger.version
    revision = situation.observed.revisions.get(version)
    if situation.observed.is_ready(version) and situation.smoke is not None:
        if situation.smoke.passed and revision is not None:
            rollout = replace(
                rollout,
                phase=Phase.STEPPING,
                step=0,
                step_requests=0,
                phase_since=now,
                exposed_since=rollout.exposed_since or now,
                restarts_seen=revision.restarts,
            )
            return replace(state, rollout=rollout)
        reason = f"it failed its smoke test: {situation.smoke.reason}"
        return end_rollout(state, Outcome.ROLLED_BACK, reason, now=now)
    if revision is not None and revision.readiness is Readiness.FAILED:
        reason = f"its platform gave up on it: {revision.reason}"
        return end_rollout(state, Outcome.ROLLED_BACK, reason, now=now)
    if now - rollout.phase_since > timedelta(seconds=policy.warm_limit_s):
        seen = "it was not deployed" if revision is None else revision.reason or revision.readiness
        reason = f"it was not ready within {policy.warm_limit_s:.0f} s: {seen}"
        return end_rollout(state, Outcome.ROLLED_BACK, reason, now=now)
    return state


def _step(
    endpoint: Endpoint, state: EndpointState, rollout: RolloutState, situation: Situation
) -> EndpointState:
    policy, now = endpoint.rollout, situation.now
    rollout = _measure(endpoint, rollout, situation)
    verdict = rollout.verdict
    state = replace(state, rollout=rollout)
    if verdict.decision is Decision.ROLL_BACK:
        return end_rollout(state, Outcome.ROLLED_BACK, verdict.reason, now=now)
    if _fell_over(rollout, situation.observed):
        return _set_back(endpoint, state, rollout, situation)
    if verdict.decision is Decision.INCONCLUSIVE:
        if policy.on_inconclusive == "roll_back":
            reason = f"inconclusive at the time limit: {verdict.reason}"
            return end_rollout(state, Outcome.ROLLED_BACK, reason, now=now)
        return state
    steps = steps_of(endpoint, rollout)
    step = steps[rollout.step]
    dwelt = now - rollout.phase_since >= timedelta(seconds=step.dwell_s)
    if not dwelt or rollout.step_requests < step.requests:
        return state
    if rollout.step + 1 < len(steps):
        rollout = replace(rollout, step=rollout.step + 1, step_requests=0, phase_since=now)
    elif verdict.decision is Decision.PROMOTE:
        rollout = replace(rollout, phase=Phase.COMPLETING, phase_since=now)
    return replace(state, rollout=rollout)


def _complete(
    endpoint: Endpoint, state: EndpointState, rollout: RolloutState, situation: Situation
) -> EndpointState:
    rollout = _measure(endpoint, rollout, situation, judged=False)
    state = replace(state, rollout=rollout)
    if _fell_over(rollout, situation.observed):
        return _set_back(endpoint, state, rollout, situation)
    if situation.observed.traffic != Traffic.all_to(rollout.challenger.version):
        return state
    reason = rollout.verdict.reason
    state = end_rollout(state, Outcome.PROMOTED, reason, now=situation.now)
    return replace(state, serving=rollout.challenger, serving_reason=reason, previous=state.serving)


def _measure(
    endpoint: Endpoint, rollout: RolloutState, situation: Situation, *, judged: bool = True
) -> RolloutState:
    """The rollout with this interval's evidence, verdict and chart point."""
    policy = endpoint.rollout
    champion, challenger = rollout.champion, rollout.challenger.version
    increments: Mapping[str, Counts] = {}
    if not isinstance(situation.observation, NoData):
        increments = situation.observation.increments
    new, old = increments.get(challenger, Counts()), increments.get(champion or "", Counts())
    evidence, verdict = rollout.evidence, rollout.verdict
    if judged:
        evidence = learn(
            situation.observation, evidence, policy, champion=champion, challenger=challenger
        )
        since = rollout.exposed_since or situation.now
        verdict = judge(
            evidence,
            policy,
            champion=champion,
            needed=policy.first_release_requests if champion is None else policy.promote.requests,
            exposed_s=(situation.now - since).total_seconds(),
        )
    point = Point(
        index=rollout.points[-1].index + 1 if rollout.points else 0,
        at=situation.now,
        weight=situation.observed.traffic.percent(challenger),
        champion=old,
        challenger=new,
        e_value=verdict.e_value,
    )
    points = (*rollout.points, point)
    if len(points) > MAX_POINTS:
        points = _thinned(points)
    return replace(
        rollout,
        evidence=evidence,
        verdict=verdict,
        points=points,
        step_requests=rollout.step_requests + new.requests,
    )


def _thinned(points: tuple[Point, ...]) -> tuple[Point, ...]:
    """The points with those of the older half merged two by two, so that no count is lost."""
    half = len(points) // 4 * 2
    pairs = zip(points[:half:2], points[1:half:2], strict=True)
    merged = (
        replace(
            later,
            champion=add_counts(earlier.champion, later.champion),
            challenger=add_counts(earlier.challenger, later.challenger),
        )
        for earlier, later in pairs
    )
    return (*merged, *points[half:])


def _fell_over(rollout: RolloutState, observed: Observed) -> bool:
    """Whether the challenger stopped answering, or was restarted, while it had traffic."""
    revision = observed.revisions.get(rollout.challenger.version)
    if revision is None or not observed.is_ready(rollout.challenger.version):
        return True
    return revision.restarts > rollout.restarts_seen


def _set_back(
    endpoint: Endpoint, state: EndpointState, rollout: RolloutState, situation: Situation
) -> EndpointState:
    """Weight 0 at once, without any statistics, and warming anew; rolled back when that has happened too often."""
    revision = situation.observed.revisions.get(rollout.challenger.version)
    said = "it is gone" if revision is None else revision.reason or "a replica was restarted"
    if rollout.setbacks >= endpoint.rollout.max_setbacks:
        reason = f"it stopped being ready under traffic {rollout.setbacks + 1} times: {said}"
        return end_rollout(state, Outcome.ROLLED_BACK, reason, now=situation.now)
    verdict = replace(
        NOTHING_YET, reason=f"set back to weight 0: {said}", e_value=rollout.verdict.e_value
    )
    rollout = replace(
        rollout,
        phase=Phase.WARMING,
        step=0,
        step_requests=0,
        phase_since=situation.now,
        setbacks=rollout.setbacks + 1,
        verdict=verdict,
    )
    return replace(state, rollout=rollout)


def _admit(facts: RegistryFacts, version: str) -> Release | Refused:
    known = facts.versions.get(version)
    if known is None:
        reason = f"{facts.model} has no version {version}: it was deleted."
        return Refused(version=version, reasons=(reason,))
    return check_gate(known)


def _stages(endpoint: Endpoint, state: EndpointState, facts: RegistryFacts) -> dict[str, str]:
    """The last stage seen of each version outside the trigger's stage; "None", the default, is left out."""
    trigger = endpoint.trigger
    if not isinstance(trigger, StageTrigger):
        return {}
    seen = {
        version.version: version.stage
        for version in facts.versions.values()
        if version.stage != trigger.stage
    }
    known = {**state.stage_before, **seen}
    return {version: stage for version, stage in known.items() if stage != "None"}


def _note_idle(state: EndpointState, situation: Situation) -> EndpointState:
    idle = situation.observed.revisions.keys() - kept_releases(state).keys()
    since = {version: state.idle_since.get(version, situation.now) for version in sorted(idle)}
    return state if since == state.idle_since else replace(state, idle_since=since)
