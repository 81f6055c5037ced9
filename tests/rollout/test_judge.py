"""The promise over whole rollouts, and the rule over all metrics. Each sequence itself is in test_sequential."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from deploy_targets.judge_policy import Exposure, JudgePolicy
from deploy_targets.metrics import DURATION, FIRST_TOKEN
from deploy_targets.rollout.judge import Rule, judge, learn, metric_tests
from deploy_targets.rollout.state import (
    Counts,
    Decision,
    Evidence,
    NoData,
    Observation,
    Verdict,
)
from tests.builders import an_observation

POLICY = JudgePolicy()
SLOW = DURATION.buckets.index(1.0)


def verdict(
    evidence: Evidence,
    policy: JudgePolicy = POLICY,
    *,
    needed: int = 10**9,
    exposed_s: float = 1,
    champion: str | None = "6",
    rule: Rule | None = None,
) -> Verdict:
    return judge(
        evidence,
        policy,
        champion=champion,
        rule=rule or Exposure(requests=needed),
        exposed_s=exposed_s,
    )


def learned(
    *observations: Observation, policy: JudgePolicy = POLICY, champion: str | None = "6"
) -> Evidence:
    evidence = Evidence()
    for observation in observations:
        evidence = learn(observation, evidence, policy, champion=champion, challenger="7")
    return evidence


def timed(**sides: tuple[int, int]) -> Observation:
    """`timed(v6=(95, 5))`: requests, and how many of them took longer than 1 s."""
    increments = {
        name.removeprefix("v"): Counts(
            requests=n,
            within=tuple(
                0 if at < SLOW else n - slow if at == SLOW else n
                for at in range(len(DURATION.buckets))
            ),
        )
        for name, (n, slow) in sides.items()
    }
    return Observation(seconds=10, increments=increments)


def walk(
    rng: np.random.Generator, *, champion: float, challenger: float, looks: int
) -> tuple[Decision, int]:
    """The first verdict to roll back, and the challenger requests until then; HOLD when none did.

    A whole rollout at 5, 25 and 50 %, with the base rate drifting between once and three times what is given.
    """
    evidence = Evidence()
    for tick in range(looks):
        share = (0.05, 0.25, 0.5)[3 * tick // looks]
        drift = 2 + np.sin(tick / 9)
        new = rng.binomial(40, share)
        old = 40 - new
        observation = an_observation(
            v6=(old, int(rng.binomial(old, champion * drift))),
            v7=(new, int(rng.binomial(new, challenger * drift))),
        )
        evidence = learn(observation, evidence, POLICY, champion="6", challenger="7")
        if verdict(evidence).decision is Decision.ROLL_BACK:
            return Decision.ROLL_BACK, evidence.challenger.requests
    return Decision.HOLD, evidence.challenger.requests


def test_an_equal_challenger_is_rolled_back_no_more_often_than_stated() -> None:
    """100 rollouts, judged as the controller does it; test_simulate and the bench have the thousands."""
    rng = np.random.default_rng(20261125)
    false = sum(
        walk(rng, champion=0.02, challenger=0.02, looks=45)[0] is Decision.ROLL_BACK
        for _ in range(100)
    )
    assert false <= binom(100, POLICY.false_rollback_rate).ppf(0.9999)


def test_a_challenger_that_fails_three_requests_in_ten_is_caught_within_a_few_dozen() -> None:
    rng = np.random.default_rng(20261125)
    walks = [walk(rng, champion=0.0, challenger=0.15, looks=300) for _ in range(40)]
    assert all(decision is Decision.ROLL_BACK for decision, _ in walks)
    assert np.quantile([seen for _, seen in walks], 0.95) <= 40


@pytest.mark.parametrize(
    "observation",
    [
        NoData(reason="the guard is away"),
        an_observation(v6=(100, 50)),
        an_observation(v7=(100, 50)),
        an_observation(v8=(100, 50)),
    ],
)
def test_an_interval_in_which_one_side_is_missing_teaches_nothing(
    observation: Observation | NoData,
) -> None:
    known = learned(an_observation(v6=(95, 1), v7=(5, 1)))
    assert learn(observation, known, POLICY, champion="6", challenger="7") == known


@pytest.mark.parametrize(
    ("requests", "errors", "exposed_s", "decision"),
    [
        (10, 0, 1, Decision.HOLD),
        (100, 0, 1, Decision.PROMOTE),
        (100, 0, 40_000, Decision.PROMOTE),
        (10, 0, 40_000, Decision.INCONCLUSIVE),
        (100, 40, 40_000, Decision.ROLL_BACK),
    ],
)
def test_harm_comes_first_then_enough_requests_then_time(
    requests: int, errors: int, exposed_s: float, decision: Decision
) -> None:
    evidence = learned(an_observation(v6=(100, 0), v7=(requests, errors)))
    assert verdict(evidence, needed=100, exposed_s=exposed_s).decision is decision


def test_evidence_of_harm_is_not_forgotten_when_the_numbers_recover() -> None:
    better = an_observation(v6=(100, 30), v7=(100, 0))
    evidence = learned(an_observation(v6=(100, 0), v7=(100, 40)), *[better] * 20)
    assert verdict(evidence).decision is Decision.ROLL_BACK


def test_a_claim_that_was_proven_stays_proven() -> None:
    good = an_observation(v6=(500, 5), v7=(500, 5))
    worse = an_observation(v6=(50, 0), v7=(50, 2))
    proven = learned(*[good] * 4)
    assert verdict(proven, rule=POLICY.promote).decision is Decision.PROMOTE
    later = verdict(learned(*[good] * 4, *[worse] * 3), rule=POLICY.promote)
    assert later.decision is Decision.PROMOTE


def test_a_claim_needs_every_metric() -> None:
    policy = JudgePolicy.model_validate({"metrics": {"latency": {"slo_s": 1.0}}})
    errors_only = an_observation(v6=(500, 5), v7=(500, 5))
    told = verdict(learned(*[errors_only] * 9, policy=policy), policy, rule=policy.promote)
    assert told.decision is Decision.HOLD
    assert "shown: errors worse by less than 2 points" in told.reason
    assert "not shown yet: latency worse by less than 5 points" in told.reason
    both = timed(v6=(500, 20), v7=(500, 20))
    told = verdict(learned(*[both] * 9, policy=policy), policy, rule=policy.promote)
    assert told.decision is Decision.PROMOTE


def test_no_data_on_a_metric_never_promotes_by_exposure() -> None:
    policy = JudgePolicy.model_validate({"metrics": {"latency": {"slo_s": 1.0}}})
    told = verdict(
        learned(an_observation(v6=(100, 0), v7=(100, 0)), policy=policy), policy, needed=10
    )
    assert told.decision is Decision.HOLD
    assert told.reason.endswith("100 of 10 challenger requests, and no data on latency")


def test_the_rate_is_split_over_the_metrics_and_the_slow_one_is_named() -> None:
    policy = JudgePolicy.model_validate({"metrics": {"latency": {"slo_s": 1.0}}})
    told = verdict(learned(timed(v6=(500, 20), v7=(500, 90)), policy=policy), policy)
    assert told.decision is Decision.ROLL_BACK
    assert told.metric == "latency"
    assert told.reason.startswith("latency: challenger 90 slower than 1 s in 500, champion 20 in")
    assert [reading.bound for reading in told.readings] == [200, 200]


def test_a_margin_needs_evidence_of_more_than_it() -> None:
    observations = [an_observation(v6=(500, 5), v7=(500, 20))] * 4
    loose = JudgePolicy.model_validate(
        {"metrics": {"errors": {"rollback_margin": 0.02, "tolerance": 0.05}}}
    )
    assert verdict(learned(*observations)).decision is Decision.ROLL_BACK
    assert verdict(learned(*observations, policy=loose), loose).decision is Decision.HOLD
    awful = [an_observation(v6=(500, 5), v7=(500, 60))] * 4
    told = verdict(learned(*awful, policy=loose), loose)
    assert told.decision is Decision.ROLL_BACK
    low = told.readings[0].low
    assert low is not None
    assert low >= 0.02


def test_a_first_release_is_judged_by_its_limits_alone() -> None:
    evidence = learned(an_observation(v7=(40, 20)), champion=None)
    told = verdict(evidence, champion=None, needed=10)
    assert told.decision is Decision.ROLL_BACK
    assert "challenger 20 errors in 40; more than 5.0%: e-value" in told.reason


def test_a_first_release_can_be_promoted_by_claim() -> None:
    clean = an_observation(v7=(100, 1))
    told = verdict(learned(clean, champion=None), champion=None, rule=POLICY.promote)
    assert told.decision is Decision.HOLD
    told = verdict(learned(*[clean] * 4, champion=None), champion=None, rule=POLICY.promote)
    assert told.decision is Decision.PROMOTE
    assert "errors below 5.0%" in told.reason


def test_a_verdict_says_its_numbers_in_words() -> None:
    reason = verdict(learned(*[an_observation(v6=(147, 1), v7=(20, 1))] * 30), needed=30).reason
    assert reason.startswith("challenger 30 errors in 600, champion 30 in 4,410; worse: e-value ")
    assert "≥ 100; increase between " in reason
    assert " points (between " in reason
    assert reason.endswith(" times)")


def test_bursts_ask_for_more_evidence_than_independent_failures() -> None:
    observations = [an_observation(v6=(100, 0), v7=(100, 15))]
    bursty = JudgePolicy(bursts=True)
    assert verdict(learned(*observations)).decision is Decision.ROLL_BACK
    assert verdict(learned(*observations, policy=bursty), bursty).decision is Decision.HOLD
    observations *= 20
    assert verdict(learned(*observations, policy=bursty), bursty).decision is Decision.ROLL_BACK


def test_evidence_goes_on_after_it_was_saved_and_starts_anew_under_other_rules() -> None:
    first, then = an_observation(v6=(95, 1), v7=(5, 1)), an_observation(v6=(80, 1), v7=(20, 1))
    known = learned(first)
    other = JudgePolicy(false_rollback_rate=0.02)
    assert learned(first, then).metrics["errors"].totals == (175, 2, 25, 2)
    changed = learn(then, known, other, champion="6", challenger="7")
    assert changed.metrics["errors"].totals == (80, 1, 20, 1)


def test_another_objective_starts_the_whole_evidence_anew() -> None:
    policies = [
        JudgePolicy.model_validate(
            {
                "metrics": {"latency": {"slo_s": slo_s}},
                "promote": {"by": "exposure", "requests": 50},
            }
        )
        for slo_s in (1.0, 5.0)
    ]
    known = learned(timed(v6=(100, 0), v7=(100, 40)), policy=policies[0])
    told = verdict(known, policies[1], rule=policies[1].promote)
    assert told.decision is Decision.HOLD
    assert "0 of 50 challenger requests" in told.reason
    later = learn(timed(v6=(9, 0), v7=(9, 0)), known, policies[1], champion="6", challenger="7")
    assert (later.intervals, later.compared) == (1, 9)


@pytest.mark.parametrize("given", [{}, {"latency": {"slo_s": 1.0}}, {"quality": {}}])
def test_the_parts_of_the_rate_add_up_to_what_is_stated(given: dict[str, Any]) -> None:
    policy = JudgePolicy.model_validate({"metrics": given})
    tests = metric_tests(policy, has_champion=True, is_reported=True)
    assert sum(test.harm_alpha for test in tests) == pytest.approx(policy.false_rollback_rate)


def a_costly(requests: int, micros: int | None, **timed: tuple[int, ...]) -> Counts:
    return Counts(requests=requests, cost_micros=micros, **timed)


COSTS = JudgePolicy.model_validate(
    {"metrics": {"errors": None, "cost": {"max_per_request_micros": 100, "tolerance": 0.1}}}
)


def judged_by_cost(*, challenger: int | None, looks: int = 60) -> Verdict:
    """The verdict on a champion whose requests cost 20 and a challenger whose cost `challenger`."""
    evidence = Evidence()
    for _ in range(looks):
        step = Observation(
            seconds=1,
            increments={
                "6": a_costly(20, 400),
                "7": a_costly(20, None if challenger is None else 20 * challenger),
            },
        )
        evidence = learn(step, evidence, COSTS, champion="6", challenger="7")
    return judge(evidence, COSTS, champion="6", rule=COSTS.promote, exposed_s=1)


def test_a_dearer_challenger_is_rolled_back_by_what_the_guard_counts() -> None:
    found = judged_by_cost(challenger=60)
    assert (found.decision, found.metric) == (Decision.ROLL_BACK, "cost")


def test_one_that_costs_as_much_is_promoted() -> None:
    assert judged_by_cost(challenger=20).decision is Decision.PROMOTE


@pytest.mark.parametrize("micros", [None, 101])
def test_costs_that_were_not_measured_or_cannot_be_teach_nothing(micros: int | None) -> None:
    assert judged_by_cost(challenger=micros).decision is Decision.HOLD


def test_a_challenger_whose_first_token_is_late_is_rolled_back() -> None:
    policy = JudgePolicy.model_validate(
        {"metrics": {"errors": None, "first_token": {"slo_s": 0.5}}, "promote": {"by": "claim"}}
    )
    bounds = FIRST_TOKEN.buckets

    def streams(late: int) -> tuple[int, ...]:
        """Of 20, so many past the objective."""
        return (*(20 - late if bound <= 1 else 20 for bound in bounds), 20)

    evidence = Evidence()
    for _ in range(40):
        step = Observation(
            seconds=1,
            increments={
                "6": a_costly(30, None, first_token=streams(1)),
                "7": a_costly(30, None, first_token=streams(12)),
            },
        )
        evidence = learn(step, evidence, policy, champion="6", challenger="7")
    found = judge(evidence, policy, champion="6", rule=policy.promote, exposed_s=1)
    assert (found.decision, found.metric) == (Decision.ROLL_BACK, "first_token")


QUALITY = JudgePolicy.model_validate({"metrics": {"quality": {}}})


def judged_by_quality(*, bad: int, judged: int = 10, looks: int = 60) -> Verdict:
    """The verdict where ten of twenty answers are judged, one of them bad; of the challenger's `bad` of `judged`."""
    evidence = Evidence()
    for _ in range(looks):
        step = Observation(
            seconds=1,
            increments={
                "6": Counts(requests=20, judged=10, bad=1),
                "7": Counts(requests=20, judged=judged, bad=bad),
            },
        )
        evidence = learn(step, evidence, QUALITY, champion="6", challenger="7")
    assert evidence.challenger.judged == looks * judged
    return judge(evidence, QUALITY, champion="6", rule=QUALITY.promote, exposed_s=1)


def test_a_challenger_whose_answers_are_bad_is_rolled_back_though_it_fails_nothing() -> None:
    found = judged_by_quality(bad=4)
    assert (found.decision, found.metric) == (Decision.ROLL_BACK, "quality")
    assert found.reason.startswith("quality: challenger 240 bad answers in 600, champion 60 in 600")


def test_one_whose_answers_are_as_good_is_promoted_by_claim() -> None:
    assert judged_by_quality(bad=1, looks=200).decision is Decision.PROMOTE


def test_answers_that_nobody_judged_teach_nothing_and_never_promote() -> None:
    found = judged_by_quality(bad=0, judged=0, looks=200)
    assert found.decision is Decision.HOLD
    assert "not shown yet: quality" in found.reason
