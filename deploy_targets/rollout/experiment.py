"""An experiment's next move: made ready, then at its shares, judged arm by arm, and ended. Pure.

Two tests for each arm, each the verdict's own. One asks whether the arm is worse than the champion, the other, with the sides
exchanged, whether the champion is worse than the arm. Both rejecting neither, but each ruling the tolerance out, is no
difference. The rate is split over arms and directions. What is counted is users, for the guard counts a sticky user once;
so the numbers of three weeks are learned at every minute, and it may end at any of them.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from deploy_targets.endpoint import Endpoint
from deploy_targets.judge_policy import Claim, JudgePolicy
from deploy_targets.rollout.experiment_state import (
    Experiment,
    ExperimentOutcome,
    ExperimentPhase,
    Finding,
)
from deploy_targets.rollout.follow import failure_to_warm
from deploy_targets.rollout.gap import version_of
from deploy_targets.rollout.judge import judge, learn
from deploy_targets.rollout.pause import word_against
from deploy_targets.rollout.situation import Situation
from deploy_targets.rollout.state import (
    Decision,
    EndpointState,
    Evidence,
    NoData,
    Observation,
    Reading,
    Verdict,
)

INTERVAL_S = 60.0
"""What is learned of at once. An experiment goes on for weeks, and each look that learns is saved and recorded."""
_CLAIM = Claim()


def rules_for(endpoint: Endpoint, goal: str, *, arms: int) -> JudgePolicy:
    """Each arm's rules: the goal and, so that nobody's errors are overlooked, the errors; at its part of the rates.

    Raises:
        ValueError: nothing can be proven by them; the message says why.
    """
    policy = endpoint.rollout
    given = policy.metrics.given()
    kept = {name: given[name] for name in ("errors", goal) if name in given}
    return JudgePolicy.model_validate(
        {
            "false_rollback_rate": policy.false_rollback_rate / (2 * arms),
            "false_promotion_rate": policy.false_promotion_rate / arms,
            "bursts": policy.bursts,
            "metrics": {"errors": None, **{name: one.model_dump() for name, one in kept.items()}},
            "promote": _CLAIM,
        }
    )


def version_to_smoke(endpoint: Endpoint, state: EndpointState, now: datetime) -> str | None:
    """The arm that is to be asked next, or None; while it is held none is."""
    experiment = state.experiment
    if experiment is None or experiment.phase is not ExperimentPhase.WARMING:
        return None
    if word_against(state.hold, endpoint.rollout, now):
        return None
    return next((one for one in experiment.versions if one not in experiment.smoked), None)


def advance_experiment(endpoint: Endpoint, state: EndpointState, look: Situation) -> EndpointState:
    """The state after the experiment's next move, if there is one. A `scrape` of None asks for a new first reading."""
    experiment = state.experiment
    if experiment is None:
        return state
    if why := _word_to_end(endpoint, experiment, state, look):
        return state.with_experiment_ended(ExperimentOutcome.STOPPED, why, now=look.now)
    if experiment.until is not None and look.now >= experiment.until:
        why = f"its time ended at {experiment.until:%Y-%m-%d %H:%M} UTC"
        return state.with_experiment_ended(ExperimentOutcome.UNDECIDED, why, now=look.now)
    if experiment.phase is ExperimentPhase.WARMING:
        return _warm(endpoint, state, experiment, look)
    return _run(endpoint, state, experiment, look)


def _word_to_end(
    endpoint: Endpoint, experiment: Experiment, state: EndpointState, look: Situation
) -> str:
    if experiment.stop:
        return experiment.stop
    if look.is_removed:
        return "its endpoint was removed from the endpoint file"
    if endpoint.guard.sticky is None:
        return "users are not sticky any more: guard.sticky was taken out of the endpoint file"
    if version_of(state.serving) != experiment.champion:
        return f"v{experiment.champion} does not serve any more"
    return ""


def _warm(
    endpoint: Endpoint, state: EndpointState, experiment: Experiment, look: Situation
) -> EndpointState:
    now, smoke = look.now, look.smoke
    held_since = experiment.held_since
    if word_against(state.hold, endpoint.rollout, now):
        return replace(state, experiment=replace(experiment, held_since=held_since or now))
    if held_since is not None:
        # As of a rollout: the time to get ready does not go on while it waits.
        began = min(experiment.phase_since + (now - held_since), now)
        experiment = replace(experiment, held_since=None, phase_since=began)
    for version in experiment.versions:
        waited, limit_s = now - experiment.phase_since, endpoint.rollout.warm_limit_s
        why = ""
        if not look.observed.is_ready(version):
            why = failure_to_warm(look.observed, version, waited=waited, limit_s=limit_s)
        if smoke is not None and smoke.version == version and not smoke.passed:
            why = f"it failed its smoke test: {smoke.reason}"
        if why:
            return state.with_experiment_ended(
                ExperimentOutcome.STOPPED, f"v{version} cannot take part: {why}", now=now
            )
    if smoke is not None and smoke.version in experiment.versions:
        smoked = (*experiment.smoked, smoke.version)
        experiment = replace(experiment, smoked=tuple(dict.fromkeys(smoked)))
    is_ready = all(map(look.observed.is_ready, experiment.versions))
    if is_ready and set(experiment.smoked) == set(experiment.versions):
        experiment = replace(experiment, phase=ExperimentPhase.RUNNING, phase_since=now)
    return replace(state, experiment=experiment)


def _run(
    endpoint: Endpoint, state: EndpointState, experiment: Experiment, look: Situation
) -> EndpointState:
    now, seen, policy = look.now, look.observation, endpoint.rollout
    for version in experiment.versions:
        if not look.observed.is_ready(version):
            revision = look.observed.revisions.get(version)
            said = "it is gone" if revision is None else revision.reason or revision.readiness
            why = f"v{version} stopped being ready: {said}"
            return state.with_experiment_ended(ExperimentOutcome.STOPPED, why, now=now)
    is_blind = isinstance(seen, NoData) and seen.is_outage
    blind_since = (experiment.blind_since or now) if is_blind else None
    experiment = replace(experiment, blind_since=blind_since)
    if blind_since is not None and now - blind_since >= timedelta(seconds=policy.blind_limit_s):
        why = f"for {policy.blind_limit_s:g} s its metrics could not be read"
        return state.with_experiment_ended(ExperimentOutcome.STOPPED, why, now=now)
    if look.observed.traffic != experiment.traffic:
        return replace(state, experiment=replace(experiment, seen_since=None), scrape=None)
    since = min(experiment.seen_since or now, now)
    experiment = replace(experiment, seen_since=since)
    state = replace(state, experiment=experiment)
    is_settling = now - since < timedelta(seconds=policy.settle_s)
    if is_settling or isinstance(seen, NoData):
        return state if is_blind else replace(state, scrape=None)
    if seen.seconds < INTERVAL_S:
        return state
    return _judged(replace(state, scrape=None), experiment, seen, now=now)


def _judged(
    state: EndpointState, experiment: Experiment, seen: Observation, *, now: datetime
) -> EndpointState:
    """The state after one more interval, and the experiment's end where that decides it."""
    known = dict(state.experiment_evidence)
    findings, reasons = dict(experiment.findings), dict(experiment.reasons)
    charted: dict[str, float] = {}
    for arm in experiment.versions:
        harm, gain = f"{arm} worse", f"{arm} better"
        rules, reverse = experiment.rules, _goal_alone(experiment)
        known[harm] = learn(
            seen, known.get(harm, Evidence()), rules, champion=experiment.champion, challenger=arm
        )
        known[gain] = learn(
            seen, known.get(gain, Evidence()), reverse, champion=arm, challenger=experiment.champion
        )
        worse = judge(known[harm], rules, champion=experiment.champion, rule=_CLAIM, exposed_s=0)
        better = judge(known[gain], reverse, champion=arm, rule=_CLAIM, exposed_s=0)
        if findings.get(arm, Finding.UNDECIDED) is Finding.UNDECIDED:
            findings[arm] = _finding(worse, better)
            reasons[arm] = _in_words(worse, better, experiment.goal)
        charted |= _charted(arm, worse, better, experiment.goal)
    experiment = replace(
        experiment,
        intervals=experiment.intervals + 1,
        counted=_counted(experiment, seen),
        findings=findings,
        reasons=reasons,
        charted=charted,
    )
    state = replace(state, experiment=experiment, experiment_evidence=known)
    told = ", ".join(f"v{arm} {finding}" for arm, finding in findings.items())
    is_over = Finding.LOSER in findings.values() or Finding.UNDECIDED not in findings.values()
    if is_over:
        return state.with_experiment_ended(ExperimentOutcome.DECIDED, told, now=now)
    if experiment.users is not None and experiment.compared >= experiment.users:
        why = f"{experiment.compared:,} users were compared, {experiment.users:,} were asked for"
        return state.with_experiment_ended(ExperimentOutcome.UNDECIDED, why, now=now)
    return state


def _goal_alone(experiment: Experiment) -> JudgePolicy:
    """The rules for being better: that counts in the goal alone."""
    rules = experiment.rules
    kept = {name: one for name, one in rules.metrics.given().items() if name == experiment.goal}
    metrics = rules.metrics.model_validate({"errors": None, **kept})
    return rules.model_copy(update={"metrics": metrics})


def _finding(worse: Verdict, better: Verdict) -> Finding:
    if worse.decision is Decision.ROLL_BACK:
        return Finding.LOSER
    if better.decision is Decision.ROLL_BACK:
        return Finding.WINNER
    is_alike = worse.decision is Decision.PROMOTE and better.decision is Decision.PROMOTE
    return Finding.ALIKE if is_alike else Finding.UNDECIDED


def _in_words(worse: Verdict, better: Verdict, goal: str) -> str:
    """Both tests' numbers: against "not worse", against "not better", and where the difference lies."""
    harm = "; ".join(
        f"worse in {one.metric}: e-value {one.e_value:.3g} of {one.bound:.3g}"
        for one in worse.readings
    )
    (gain,) = better.readings
    found = _reading_of(goal, worse)
    low = "?" if found.low is None else f"{found.low:+.1%}"
    high = "?" if found.high is None else f"{found.high:+.1%}"
    return (
        f"{harm}; better in {goal}: e-value {gain.e_value:.3g} of {gain.bound:.3g}; "
        f"difference in {goal} between {low} and {high}"
    )


def _charted(arm: str, worse: Verdict, better: Verdict, goal: str) -> dict[str, float]:
    found = _reading_of(goal, worse)
    ends = {"difference_low": found.low, "difference_high": found.high}
    return {
        f"v{arm}_{goal}_worse_e_value": found.e_value,
        f"v{arm}_{goal}_better_e_value": better.readings[0].e_value,
        **{f"v{arm}_{goal}_{end}": at for end, at in ends.items() if at is not None},
    }


def _reading_of(goal: str, verdict: Verdict) -> Reading:
    return next(one for one in verdict.readings if one.metric == goal)


def _counted(experiment: Experiment, seen: Observation) -> Mapping[str, tuple[int, int]]:
    counted: dict[str, tuple[int, int]] = {}
    for version in (experiment.champion, *experiment.versions):
        users, failed = experiment.counted.get(version, (0, 0))
        more = seen.increments.get(version)
        counted[version] = (
            (users, failed) if more is None else (users + more.requests, failed + more.errors)
        )
    return counted
