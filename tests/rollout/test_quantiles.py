"""Quantiles between bucket bounds: they hold at every look, and a verdict tells them of both versions."""

import math

import numpy as np
import pytest
from scipy.stats import binom

from deploy_targets.judge_policy import JudgePolicy
from deploy_targets.metrics import DURATION
from deploy_targets.rollout.judge import judge, learn
from deploy_targets.rollout.quantiles import (
    QuantileReading,
    quantile_ends,
    quantiles_in_words,
)
from deploy_targets.rollout.state import Counts, Evidence, Observation

BOUNDS = (0.5, 1.0, 2.0, 4.0)


def ends(durations: np.ndarray, quantile: float, alpha: float = 0.05):
    within = [float((durations <= bound).sum()) for bound in BOUNDS]
    return quantile_ends(within, durations.size, BOUNDS, quantile=quantile, alpha=alpha)


def test_enough_requests_put_a_quantile_between_its_two_bounds() -> None:
    durations = np.random.default_rng(1).lognormal(0.3, 0.5, 5_000)
    assert ends(durations, 0.5) == (1.0, 2.0)
    assert ends(durations, 0.95) == (2.0, 4.0)


def test_few_requests_know_little_and_none_nothing() -> None:
    few = np.full(30, 0.1)
    assert ends(few, 0.95) == (None, None)
    assert ends(few, 0.5) == (None, 0.5)
    assert quantile_ends([0] * 4, 0, BOUNDS, quantile=0.5, alpha=0.05) == (None, None)


def test_a_quantile_beyond_the_last_bound_has_no_high_end() -> None:
    assert ends(np.full(500, 9.0), 0.5) == (4.0, None)


@pytest.mark.parametrize("quantile", [0.5, 0.95])
def test_over_all_looks_an_end_is_missed_no_more_often_than_stated(quantile: float) -> None:
    """The quantile lies exactly on a bound, so both ends are as likely to be missed as they can be."""
    rng = np.random.default_rng(20261125)
    missed = 0
    for _ in range(200):
        slow = np.cumsum(rng.random(2_000) > quantile)
        for n in range(20, 2_001, 20):
            within = [float(n - slow[n - 1])]
            low, high = quantile_ends(within, n, (1.0,), quantile=quantile, alpha=0.1)
            if low is not None or high is not None:
                missed += 1
                break
    assert missed <= binom(200, 0.1).ppf(0.999)


def test_words_name_the_challenger_first_and_what_is_not_known() -> None:
    readings = [
        QuantileReading(
            metric="latency", is_challengers=False, quantile=0.95, low_s=None, high_s=1
        ),
        QuantileReading(metric="latency", is_challengers=True, quantile=0.95, low_s=1, high_s=2),
        QuantileReading(
            metric="latency", is_challengers=True, quantile=0.5, low_s=None, high_s=None
        ),
        QuantileReading(
            metric="latency", is_challengers=False, quantile=0.5, low_s=0.5, high_s=None
        ),
    ]
    assert quantiles_in_words(readings) == (
        "p95 1 to 2 s, champion below 1 s; p50 not known yet, champion above 0.5 s"
    )


def test_a_live_verdict_tells_the_quantiles_of_the_guards_histogram() -> None:
    policy = JudgePolicy.model_validate({"metrics": {"latency": {"slo_s": 1.0}}})
    evidence = Evidence()
    within = tuple(0 if bound < 0.5 else 90 if bound < 2 else 100 for bound in DURATION.buckets)
    counts = Counts(requests=100, within=within)
    observation = Observation(seconds=10, increments={"6": counts, "7": counts})
    for _ in range(20):
        evidence = learn(observation, evidence, policy, champion="6", challenger="7")
    assert evidence.challenger.within[-1] == 2_000
    reason = judge(evidence, policy, champion="6", rule=policy.promote, exposed_s=math.inf).reason
    assert "p50 0.25 to 0.5 s, champion 0.25 to 0.5 s; p95 1 to 2 s, champion 1 to 2 s" in reason
