"""What now? The state after this look at the world, and the actions that close the gap to it. Pure.

`plan` lets the state follow what was seen, in this order: registry and operator's override (`follow`), then the
rollout's own phase. What is to be done about it is `gap.close_gap`'s business.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

from deploy_targets.endpoint import Endpoint
from deploy_targets.judge_policy import Exposure
from deploy_targets.rollout.experiment import advance_experiment
from deploy_targets.rollout.follow import (
    adopt,
    end_rollout,
    failure_to_warm,
    follow_override,
    follow_registry,
    is_blank,
)
from deploy_targets.rollout.gap import (
    close_gap,
    kept_releases,
    policy_of,
    step_of,
    steps_of,
    wanted_traffic,
)
from deploy_targets.rollout.judge import Rule, add_counts, judge, learn
from deploy_targets.rollout.pause import (
    blindness,
    exposed_s,
    is_blind_for_too_long,
    with_blindness,
    with_waiting,
    without_future,
    word_against,
)
from deploy_targets.rollout.situation import Situation
from deploy_targets.rollout.state import (
    NOTHING_YET,
    Action,
    Counts,
    Decision,
    EndpointState,
    NoData,
    Outcome,
    Phase,
    Point,
    RolloutState,
)
from deploy_targets.rollout_policy import RolloutPolicy
from deploy_targets.routing.traffic import Traffic
from deploy_targets.target import Observed

MAX_POINTS = 1_000
"""Chart points kept with a rollout: beyond it the older ones are merged two by two. A guess at what a chart can
show; the journal has written all of them to MLflow by then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to save, and then what to do, in this order."""

    state: EndpointState
    actions: tuple[Action, ...]


def plan(endpoint: Endpoint, state: EndpointState, situation: Situation) -> Plan:
    """The next state and the actions to reach it."""
    now = situation.now
    if situation.is_removed:
        reason = "its endpoint was removed from the endpoint file"
        state = end_rollout(state, Outcome.WITHDRAWN, reason, now=now)
    elif situation.facts is not None:
        state = adopt(state, situation.facts, situation.observed)
        if not _is_lost(state, situation):
            facts, inspection = situation.facts, situation.inspection
            state = follow_registry(endpoint, state, facts, inspection, now=now)
    if _is_lost(state, situation):
        return Plan(state=state, actions=())
    state = follow_override(endpoint, without_future(state, now), situation.observed, now=now)
    state = advance(endpoint, state, situation)
    state = _note_idle(state, situation)
    is_ours = situation.observed.traffic == wanted_traffic(endpoint, state, situation.observed)
    disturbance = "" if is_ours else situation.observed.disturbance
    state = replace(state, disturbance=disturbance)
    is_busy = state.has_news or state.override or state.idle_since
    state = replace(state, declared=endpoint if is_busy or not is_ours else None)
    actions = close_gap(
        endpoint,
        state,
        observed=situation.observed,
        facts=situation.facts,
        now=now,
    )
    return Plan(state=state, actions=actions)


def _is_lost(state: EndpointState, situation: Situation) -> bool:
    """Whether nothing is known of an endpoint that may be serving: only the registry, or a person, can tell what should."""
    has_traffic = bool(situation.observed.traffic.weights)
    return is_blank(state) and (situation.facts is None or has_traffic)


def advance(endpoint: Endpoint, state: EndpointState, situation: Situation) -> EndpointState:
    """The state after the rollout's own next move, if there is one."""
    rollout = state.rollout
    if rollout is None:
        return advance_experiment(endpoint, state, situation)
    now, policy = situation.now, policy_of(endpoint, rollout)
    blind = blindness(situation.observation, is_registry_away=situation.facts is None)
    rollout = with_blindness(rollout, blind, now)
    word = word_against(state.hold, policy, now)
    rollout = with_waiting(rollout, word or blind, now)
    rollout = _with_seen_weights(rollout, situation)
    all_to_it = Traffic.all_to(rollout.challenger.version)
    if word and rollout.phase is Phase.COMPLETING and situation.observed.traffic != all_to_it:
        # The decision stands to be made again when it may go on: while it is held it gets no more than it has.
        rollout = replace(rollout, phase=Phase.STEPPING, phase_since=now)
    state = replace(state, rollout=rollout)
    match rollout.phase:
        case Phase.WARMING:
            return _warm(endpoint, state, rollout, situation)
        case Phase.STEPPING:
            return _step(endpoint, state, rollout, situation)
        case Phase.COMPLETING:
            return _complete(endpoint, state, rollout, situation)


def _warm(
    endpoint: Endpoint, state: EndpointState, rollout: RolloutState, situation: Situation
) -> EndpointState:
    now, version = situation.now, rollout.challenger.version
    revision = situation.observed.revisions.get(version)
    smoke = situation.smoke
    if situation.observed.is_ready(version) and smoke is not None and smoke.version == version:
        if smoke.passed and rollout.waiting:
            return state
        if smoke.passed and revision is not None:
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
        reason = f"it failed its smoke test: {smoke.reason}"
        return end_rollout(state, Outcome.ROLLED_BACK, reason, now=now)
    waited = timedelta(0) if rollout.waiting else now - rollout.phase_since
    limit_s = policy_of(endpoint, rollout).warm_limit_s
    failure = failure_to_warm(situation.observed, version, waited=waited, limit_s=limit_s)
    return end_rollout(state, Outcome.ROLLED_BACK, failure, now=now) if failure else state


def _step(
    endpoint: Endpoint, state: EndpointState, rollout: RolloutState, situation: Situation
) -> EndpointState:
    rollout = _measure(endpoint, rollout, situation)
    state = replace(state, rollout=rollout)
    done = not rollout.waiting and _step_is_done(endpoint, rollout, situation)
    failure = _failure(endpoint, rollout, situation, done=done)
    if failure:
        return end_rollout(state, Outcome.ROLLED_BACK, failure, now=situation.now)
    if _fell_over(rollout, situation.observed):
        return _set_back(endpoint, state, rollout, situation)
    decision = rollout.verdict.decision
    if not done or decision is Decision.INCONCLUSIVE:
        return state
    if rollout.step + 1 < len(steps_of(endpoint, rollout)):
        step = rollout.step + 1
        rollout = replace(rollout, step=step, step_requests=0, phase_since=situation.now)
    elif decision is Decision.PROMOTE:
        rollout = replace(rollout, phase=Phase.COMPLETING, phase_since=situation.now)
    return replace(state, rollout=rollout)


def _failure(endpoint: Endpoint, rollout: RolloutState, situation: Situation, *, done: bool) -> str:
    """Why a rollout under traffic must end now; empty when it need not. `done` says that its step is."""
    policy, verdict = policy_of(endpoint, rollout), rollout.verdict
    if verdict.decision is Decision.ROLL_BACK:
        return verdict.reason
    if is_blind_for_too_long(rollout, policy, situation.now):
        blind = blindness(situation.observation, is_registry_away=situation.facts is None)
        return f"for {policy.blind_limit_s:g} s it could not be watched: {blind}"
    if rollout.waiting or policy.on_inconclusive == "wait":
        return ""
    is_over = exposed_s(rollout, situation.now) >= policy.time_limit_s
    if verdict.decision is Decision.INCONCLUSIVE or (is_over and not done):
        return f"inconclusive at the time limit: {verdict.reason}"
    return ""


def _step_is_done(endpoint: Endpoint, rollout: RolloutState, situation: Situation) -> bool:
    """Whether this step has had its time and its requests, and can be seen to be well at this moment.

    No data never passes, whatever the policy asks for; only a first release may be taken on its smoke test alone.
    """
    step = step_of(endpoint, rollout)
    if rollout.champion is not None and not _has_its_weights(endpoint, rollout, situation):
        return False
    began = max(rollout.phase_since, rollout.seen_since or rollout.phase_since)
    if situation.now - began < timedelta(seconds=step.dwell_s):
        return False
    if _is_settling(endpoint, rollout, situation):
        return False
    if rollout.champion is None:
        return True
    blind = isinstance(situation.observation, NoData)
    return not blind and rollout.step_requests >= max(1, step.requests)


def _with_seen_weights(rollout: RolloutState, situation: Situation) -> RolloutState:
    seen = situation.observed.traffic.weights
    if rollout.seen_since is not None and seen == rollout.seen_weights:
        return rollout
    return replace(rollout, seen_weights=dict(seen), seen_since=situation.now)


def _has_its_weights(endpoint: Endpoint, rollout: RolloutState, situation: Situation) -> bool:
    """Whether requests go as its step wants: by way of git that takes minutes, and somebody may have changed them."""
    weight = step_of(endpoint, rollout).weight
    wanted = Traffic.split(rollout.champion, rollout.challenger.version, weight)
    return situation.observed.traffic == wanted


def _is_settling(endpoint: Endpoint, rollout: RolloutState, situation: Situation) -> bool:
    """Whether requests still end that began under other weights than those that are seen; a first release has no others."""
    settle = timedelta(seconds=policy_of(endpoint, rollout).settle_s)
    since = rollout.seen_since or rollout.phase_since
    return rollout.champion is not None and situation.now - since < settle


def _complete(
    endpoint: Endpoint, state: EndpointState, rollout: RolloutState, situation: Situation
) -> EndpointState:
    rollout = _measure(endpoint, rollout, situation, judged=False)
    state = replace(state, rollout=rollout)
    if _fell_over(rollout, situation.observed):
        return _set_back(endpoint, state, rollout, situation)
    if situation.observed.traffic != Traffic.all_to(rollout.challenger.version):
        limit_s = policy_of(endpoint, rollout).complete_limit_s
        is_late = situation.now - rollout.phase_since >= timedelta(seconds=limit_s)
        if rollout.champion is None or not is_late:
            return state
        reason = f"its platform did not move all requests to it within {limit_s:g} s"
        return end_rollout(state, Outcome.ROLLED_BACK, reason, now=situation.now)
    reason = rollout.verdict.reason
    state = end_rollout(state, Outcome.PROMOTED, reason, now=situation.now)
    return state.now_serving(rollout.challenger, reason)


def _measure(
    endpoint: Endpoint, rollout: RolloutState, situation: Situation, *, judged: bool = True
) -> RolloutState:
    """The rollout with this interval's evidence, verdict and chart point."""
    policy = policy_of(endpoint, rollout)
    champion, challenger = rollout.champion, rollout.challenger.version
    increments: Mapping[str, Counts] = {}
    if not isinstance(situation.observation, NoData):
        increments = situation.observation.increments
    new, old = increments.get(challenger, Counts()), increments.get(champion or "", Counts())
    evidence, verdict = rollout.evidence, rollout.verdict
    is_settling = _is_settling(endpoint, rollout, situation)
    counts = not is_settling and _has_its_weights(endpoint, rollout, situation)
    seen = new.requests
    if step_of(endpoint, rollout).weight == 0 and not isinstance(situation.observation, NoData):
        seen = situation.observation.mirrored.get(challenger, 0)
    if judged:
        observation = situation.observation
        if is_settling:
            observation = NoData(reason="requests that began under other weights still end")
        evidence = learn(observation, evidence, policy, champion=champion, challenger=challenger)
        verdict = judge(
            evidence,
            policy,
            champion=champion,
            rule=_promotion_rule(policy, champion),
            exposed_s=exposed_s(rollout, situation.now),
        )
    point = Point(
        index=rollout.points[-1].index + 1 if rollout.points else 0,
        at=situation.now,
        weight=situation.observed.traffic.percent(challenger),
        champion=replace(old, within=(), first_token=(), per_token=()),
        challenger=replace(new, within=(), first_token=(), per_token=()),
        readings=verdict.readings,
    )
    points = (*rollout.points, point)
    if len(points) > MAX_POINTS:
        points = _thinned(points)
    return replace(
        rollout,
        evidence=evidence,
        verdict=verdict,
        points=points,
        step_requests=rollout.step_requests + (seen if counts else 0),
    )


def _promotion_rule(policy: RolloutPolicy, champion: str | None) -> Rule | None:
    """What a promotion needs. A first release has a number of its own, and with 0 its smoke test is enough."""
    if champion is not None:
        return policy.promote
    needed = policy.first_release_requests
    return Exposure(requests=needed) if needed else None


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
    if rollout.setbacks >= policy_of(endpoint, rollout).max_setbacks:
        reason = f"it stopped being ready under traffic {rollout.setbacks + 1} times: {said}"
        return end_rollout(state, Outcome.ROLLED_BACK, reason, now=situation.now)
    verdict = replace(
        NOTHING_YET, reason=f"set back to weight 0: {said}", readings=rollout.verdict.readings
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


def _note_idle(state: EndpointState, situation: Situation) -> EndpointState:
    """The state that knows since when each revision has had neither a role nor traffic."""
    without_role = situation.observed.revisions.keys() - kept_releases(state).keys()
    traffic = situation.observed.traffic
    idle = sorted(version for version in without_role if not traffic.percent(version))
    since = {version: state.idle_since.get(version, situation.now) for version in idle}
    return state if since == state.idle_since else replace(state, idle_since=since)
