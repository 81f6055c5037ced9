"""The verdict's promise over whole rollouts, and what a verdict says. `sequential` itself is in test_sequential."""

import numpy as np
import pytest
from scipy.stats import binom

from deploy_targets.endpoint import JudgePolicy
from deploy_targets.rollout.judge import judge, learn
from deploy_targets.rollout.state import Decision, Evidence, NoData, Verdict
from tests.builders import an_observation

POLICY = JudgePolicy()


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


def verdict(evidence: Evidence, *, needed: int = 10**9, exposed_s: float = 1) -> Verdict:
    return judge(evidence, POLICY, champion="6", needed=needed, exposed_s=exposed_s)


def test_an_equal_challenger_is_rolled_back_no_more_often_than_stated() -> None:
    """600 rollouts at a stated 1 %, while share and base rate drift together: the bound is missed once in 10,000."""
    rng = np.random.default_rng(20261125)
    rollouts = 600
    false = sum(
        walk(rng, champion=0.02, challenger=0.02, looks=90)[0] is Decision.ROLL_BACK
        for _ in range(rollouts)
    )
    assert false <= binom(rollouts, POLICY.false_rollback_rate).ppf(0.9999)


def test_a_challenger_that_fails_three_requests_in_ten_is_caught_within_a_few_dozen() -> None:
    rng = np.random.default_rng(20261125)
    walks = [walk(rng, champion=0.0, challenger=0.15, looks=300) for _ in range(60)]
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
def test_an_interval_in_which_one_side_is_missing_teaches_nothing(observation) -> None:
    known = Evidence(intervals=3, peak_log_e=1.5)
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
    observation = an_observation(v6=(100, 0), v7=(requests, errors))
    evidence = learn(observation, Evidence(), POLICY, champion="6", challenger="7")
    assert verdict(evidence, needed=100, exposed_s=exposed_s).decision is decision


def test_evidence_of_harm_is_not_forgotten_when_the_numbers_recover() -> None:
    evidence = learn(
        an_observation(v6=(100, 0), v7=(100, 40)),
        Evidence(),
        POLICY,
        champion="6",
        challenger="7",
    )
    for _ in range(20):
        better = an_observation(v6=(100, 30), v7=(100, 0))
        evidence = learn(better, evidence, POLICY, champion="6", challenger="7")
    assert verdict(evidence).decision is Decision.ROLL_BACK


def test_a_first_release_is_judged_by_the_limit_alone() -> None:
    evidence = learn(an_observation(v7=(40, 20)), Evidence(), POLICY, champion=None, challenger="7")
    told = judge(evidence, POLICY, champion=None, needed=10, exposed_s=1)
    assert told.decision is Decision.ROLL_BACK
    assert "20 errors in 40; the challenger is more than 5.0%" in told.reason


def test_a_verdict_names_the_numbers_of_both_sides() -> None:
    evidence = learn(
        an_observation(v6=(95, 1), v7=(5, 0)), Evidence(), POLICY, champion="6", challenger="7"
    )
    reason = verdict(evidence, needed=30).reason
    assert reason.startswith("challenger 0 errors in 5, champion 1 errors in 95; e-value 1 < 100")
    assert reason.endswith("; 5 of 30 challenger requests")
