"""What do the numbers say? Increments and the evidence so far go in, a verdict and the new evidence come out.

The promise, and what it rests on, is stated in docs/guarantee.md. `metric_tests` turns the policy into one test for each
metric and splits the error rate; `decide` is the rule over all of them, for any number of runs side by side, and is what
the controller, `shipway judge` and `shipway simulate` all use. `learn` and `judge` are the controller's way in.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deploy_targets import metrics
from deploy_targets.judge_policy import Claim, Exposure, JudgePolicy
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

    `challenger_requests` (R,) are those seen in intervals that taught something. No data never promotes: under
    exposure each metric must have been measured at least once on each side.
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
        is_measured = np.all([everybody, *(ev.has_data(*pair) for pair in pairs)], axis=0)
        is_good = is_measured & (challenger_requests >= rule.requests)
    else:
        is_good = everybody
    code = np.select([is_harmful, is_good, is_late], [1, 2, 3], default=0)
    return Decisions(code=code, test=np.where(is_harmful, worst, NOBODY))


def add_counts(total: Counts, more: Counts) -> Counts:
    """The sum of both, field by field; the histogram of one that has none is that of the other."""
    return Counts(
        requests=total.requests + more.requests,
        errors=total.errors + more.errors,
        duration_s=total.duration_s + more.duration_s,
        within=tuple(map(sum, zip(total.within, more.within, strict=True)))
        if total.within and more.within
        else total.within or more.within,
    )


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
    learned = {
        test.name: ev.save(
            test,
            ev.learn(
                test,
                ev.load(test, evidence.metrics.get(test.name)),
                _table(test.name, policy, old, new),
            ),
        )
        for test in metric_tests(policy, has_champion=champion is not None)
    }
    return Evidence(
        intervals=evidence.intervals + 1,
        champion=add_counts(evidence.champion, old),
        challenger=add_counts(evidence.challenger, new),
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
    memories = memories_of(tests, evidence.metrics)
    seen = evidence.challenger.requests
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


def memories_of(
    tests: Sequence[ev.MetricTest], saved: Mapping[str, ev.MetricEvidence]
) -> tuple[ev.Memory, ...]:
    """Each test's memory of one run."""
    return tuple(ev.load(test, saved.get(test.name)) for test in tests)


def _kind(name: str, policy: JudgePolicy) -> ev.Kind:
    if name == "cost":
        return ev.Kind.BOUNDED
    return ev.Kind.BURSTY if policy.bursts else ev.Kind.COUNTED


def _table(name: str, policy: JudgePolicy, old: Counts, new: Counts) -> Table:
    """One metric's counts of both sides, as the guard measures them; zeros where it did not."""
    sides: list[float] = []
    for counts in (old, new):
        n, bad = counts.requests, counts.errors
        if policy.metrics.latency is not None and name == "latency":
            bound = metrics.DURATION.buckets.index(policy.metrics.latency.slo_s)
            n = counts.requests if counts.within else 0
            bad = n - counts.within[bound] if counts.within else 0
        sides += [n, bad]
    return Table(*(np.array([float(side)]) for side in sides))


def _quantiles(
    evidence: Evidence, policy: JudgePolicy, *, has_champion: bool
) -> Iterator[QuantileReading]:
    old, new, latency = evidence.champion, evidence.challenger, policy.metrics.latency
    if latency is None or not new.within:
        return
    yield from quantile_readings(
        "latency",
        latency,
        (*metrics.DURATION.buckets, math.inf),
        champion=(*old.within, old.requests) if has_champion and old.within else None,
        challenger=(*new.within, new.requests),
        alpha=policy.false_promotion_rate,
    )
