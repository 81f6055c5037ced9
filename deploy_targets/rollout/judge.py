"""What do the numbers say? Increments and the evidence so far go in, a verdict and the new evidence come out.

The promise, and what it rests on, is stated in docs/guarantee.md. `metric_tests` turns the policy into one test for each
metric and splits the error rate; `decide` is the rule over all of them, for any number of runs side by side, and is what
the controller, `shipway judge` and `shipway simulate` all use. `learn` and `judge` are the controller's way in.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deploy_targets.judge_policy import (
    AnyMetric,
    Claim,
    CostMetric,
    Exposure,
    JudgePolicy,
    LatencyMetric,
)
from deploy_targets.metrics import BOUNDS
from deploy_targets.rollout import evidence as ev
from deploy_targets.rollout.explain import explain, reading
from deploy_targets.rollout.quantiles import QuantileReading, quantile_readings
from deploy_targets.rollout.sequential import Table
from deploy_targets.rollout.state import (
    Counts,
    Decision,
    Evidence,
    NoData,
    Observation,
    Verdict,
)

Rule = Claim | Exposure
"""What a promotion needs."""

DECISIONS = (Decision.HOLD, Decision.ROLL_BACK, Decision.PROMOTE, Decision.INCONCLUSIVE)
NOBODY = -1


class Decisions(NamedTuple):
    """For each run: which of `DECISIONS`, and which test decided (`NOBODY` where none did alone)."""

    code: NDArray[np.int64]
    test: NDArray[np.int64]


def metric_tests(
    policy: JudgePolicy, *, has_champion: bool, is_reported: bool = True
) -> tuple[ev.MetricTest, ...]:
    """One test for each metric that is judged. Without a champion those are the ones with an absolute limit.

    The rate of false rollbacks is split evenly (Bonferroni): whichever metrics are not worse, the chance that any of
    them says so is at most the whole. The rate of false promotions is not: see `MetricTest.claim_alpha`.
    """
    given = {
        name: metric
        for name, metric in policy.metrics.given().items()
        if has_champion or metric.limit is not None
    }
    return tuple(
        ev.metric_test(
            name,
            _kind(name, policy),
            measure=_measure(metric),
            limit=None if has_champion else metric.limit,
            margin=metric.rollback_margin if has_champion else 0.0,
            tolerance=metric.tolerance,
            harm_alpha=policy.false_rollback_rate / len(given),
            claim_alpha=policy.false_promotion_rate,
            is_reported=is_reported,
        )
        for name, metric in given.items()
    )


def decide(
    tests: Sequence[ev.MetricTest],
    memories: Sequence[ev.Memory],
    rule: Rule | None,
    *,
    challenger_requests: NDArray[np.float64],
    is_late: NDArray[np.bool_],
) -> Decisions:
    """Harm first, then what a promotion needs (`rule`; None needs nothing), then time.

    `challenger_requests` (R,) are those of intervals in which both versions had some. No data never promotes: under
    exposure each metric must have been measured on both sides of an interval.
    """
    pairs = tuple(zip(tests, memories, strict=True))
    unjudged = np.full_like(challenger_requests, -np.inf)
    excess = np.array(
        [unjudged, *(memory.peak - math.log(test.harm_bound) for test, memory in pairs)]
    )  # (1 + M, R)
    is_harmful = excess.max(axis=0) >= 0
    worst = excess.argmax(axis=0) - 1
    everybody = np.ones_like(is_late)
    if isinstance(rule, Claim):
        is_good = np.all([everybody, *(ev.is_claimed(*pair) for pair in pairs)], axis=0)
    elif isinstance(rule, Exposure):
        is_measured = np.all([everybody, *(ev.has_data(memory) for memory in memories)], axis=0)
        is_good = is_measured & (challenger_requests >= rule.requests)
    else:
        is_good = everybody
    code = np.select([is_harmful, is_good, is_late], [1, 2, 3], default=0)
    return Decisions(code=code, test=np.where(is_harmful, worst, NOBODY))


def add_counts(total: Counts, more: Counts) -> Counts:
    """The sum of both, field by field; what one has not measured is that of the other."""
    costs = [cost for cost in (total.cost_micros, more.cost_micros) if cost is not None]
    return Counts(
        requests=total.requests + more.requests,
        errors=total.errors + more.errors,
        duration_s=total.duration_s + more.duration_s,
        within=_added(total.within, more.within),
        first_token=_added(total.first_token, more.first_token),
        per_token=_added(total.per_token, more.per_token),
        cost_micros=sum(costs) if costs else None,
        judged=total.judged + more.judged,
        bad=total.bad + more.bad,
    )


def _added(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    both = one and other
    return tuple(map(sum, zip(one, other, strict=True))) if both else one or other


def learn(
    observation: Observation | NoData,
    evidence: Evidence,
    policy: JudgePolicy,
    *,
    champion: str | None,
    challenger: str,
) -> Evidence:
    """The evidence after this interval. A gap teaches nothing, and neither does a version that is missing from it."""
    if isinstance(observation, NoData):
        return evidence
    new = observation.increments.get(challenger)
    old = Counts() if champion is None else observation.increments.get(champion)
    if new is None or old is None:
        return evidence
    tests = metric_tests(policy, has_champion=champion is not None)
    evidence = _of_these_rules(evidence, tests)
    learned = {
        test.name: ev.save(
            test,
            ev.learn(
                test,
                ev.load(test, evidence.metrics.get(test.name)),
                _table(test.name, policy, old, new),
            ),
        )
        for test in tests
    }
    is_compared = champion is None or (old.requests > 0 and new.requests > 0)
    return Evidence(
        intervals=evidence.intervals + 1,
        champion=add_counts(evidence.champion, old),
        challenger=add_counts(evidence.challenger, new),
        compared=evidence.compared + (new.requests if is_compared else 0),
        metrics=learned,
    )


def judge(
    evidence: Evidence,
    policy: JudgePolicy,
    *,
    champion: str | None,
    rule: Rule | None,
    exposed_s: float,
) -> Verdict:
    """The verdict on all the evidence; `exposed_s` is the time since the challenger first had traffic."""
    tests = metric_tests(policy, has_champion=champion is not None)
    evidence = _of_these_rules(evidence, tests)
    memories = tuple(ev.load(test, evidence.metrics.get(test.name)) for test in tests)
    seen = evidence.compared
    decisions = decide(
        tests,
        memories,
        rule,
        challenger_requests=np.array([float(seen)]),
        is_late=np.array([exposed_s >= policy.time_limit_s]),
    )
    decision, which = DECISIONS[int(decisions.code[0])], int(decisions.test[0])
    decider = None if which == NOBODY else tests[which]
    return Verdict(
        decision=decision,
        reason=explain(
            decision,
            decider,
            tests,
            memories,
            policy,
            rule,
            requests=seen,
            seconds=exposed_s,
            quantiles=tuple(_quantiles(evidence, policy, has_champion=champion is not None)),
        ),
        metric=None if decider is None else decider.name,
        readings=tuple(reading(test, memory) for test, memory in zip(tests, memories, strict=True)),
    )


def _of_these_rules(evidence: Evidence, tests: Sequence[ev.MetricTest]) -> Evidence:
    """The evidence, or none of it where it was learned under other rules: half of it would mislead."""
    learned_by = {name: metric.signature for name, metric in evidence.metrics.items()}
    rules = {test.name: test.signature for test in tests}
    return evidence if not learned_by or learned_by == rules else Evidence()


def _measure(metric: AnyMetric) -> str:
    if isinstance(metric, LatencyMetric):
        return f"slo {metric.slo_s:g}"
    return f"of {metric.max_per_request_micros:g}" if isinstance(metric, CostMetric) else ""


def _kind(name: str, policy: JudgePolicy) -> ev.Kind:
    if name == "cost":
        return ev.Kind.BOUNDED
    return ev.Kind.BURSTY if policy.bursts else ev.Kind.COUNTED


def _table(name: str, policy: JudgePolicy, old: Counts, new: Counts) -> Table:
    """One metric's counts of both sides, as the guard measures them; zeros where it did not."""
    sides: list[float] = []
    for counts in (old, new):
        sides += _pair(name, policy, counts)
    return Table(*(np.array([float(side)]) for side in sides))


def _pair(name: str, policy: JudgePolicy, counts: Counts) -> tuple[float, float]:
    """How many were measured, and how many of them were bad; of costs, their sum as a share of the most they can be."""
    timed = policy.metrics.timed().get(name)
    if timed is not None:
        within = _histogram(name, counts)
        if not within:
            return 0, 0
        return within[-1], within[-1] - within[BOUNDS[name].index(timed.slo_s)]
    if name == "cost" and policy.metrics.cost is not None:
        top = policy.metrics.cost.max_per_request_micros
        # A request that costs more than any can says that the bound is wrong: nothing is learned from its interval.
        if counts.cost_micros is None or counts.cost_micros > top * counts.requests:
            return 0, 0
        return counts.requests, counts.cost_micros / top
    if name == "quality":
        return counts.judged, counts.bad
    return counts.requests, counts.errors


def _histogram(name: str, counts: Counts) -> tuple[int, ...]:
    """The counts at the bounds of that metric's histogram, and all; empty where it was not measured."""
    if name == "first_token":
        return counts.first_token
    if name == "per_token":
        return counts.per_token
    return (*counts.within, counts.requests) if counts.within else ()


def _quantiles(
    evidence: Evidence, policy: JudgePolicy, *, has_champion: bool
) -> Iterator[QuantileReading]:
    for name, metric in policy.metrics.timed().items():
        old, new = _histogram(name, evidence.champion), _histogram(name, evidence.challenger)
        if new:
            yield from quantile_readings(
                name,
                metric,
                (*BOUNDS[name], math.inf),
                champion=old if has_champion and old else None,
                challenger=new,
                alpha=policy.false_promotion_rate,
            )
