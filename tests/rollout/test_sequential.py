"""The promise of `sequential`, by seeded simulation and by enumeration."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, hypergeom

from deploy_targets.rollout.sequential import (
    NO_EVIDENCE,
    RATIOS,
    mixture_log_e,
    update_one_sample,
    update_two_sample,
)


@given(
    champion=st.integers(1, 60),
    challenger=st.integers(1, 60),
    share_bad=st.floats(0, 1),
)
def test_given_the_totals_no_interval_is_expected_to_gain_evidence(
    champion: int, challenger: int, share_bad: float
) -> None:
    """Enumerates the exact null distribution of the challenger's bad answers given `bad` in all."""
    bad = round(share_bad * (champion + challenger))
    null = hypergeom(champion + challenger, challenger, bad)
    counts = np.arange(max(0, bad - champion), min(bad, challenger) + 1)
    expected = sum(
        null.pmf(k)
        * math.exp(
            mixture_log_e(
                update_two_sample(
                    NO_EVIDENCE,
                    champion_requests=champion,
                    champion_bad=bad - int(k),
                    challenger_requests=challenger,
                    challenger_bad=int(k),
                )
            )
        )
        for k in counts
    )
    assert expected <= 1 + 1e-9


@given(requests=st.integers(0, 80), limit=st.floats(0.01, 0.5), rate=st.floats(0, 1))
def test_below_the_limit_no_interval_is_expected_to_gain_evidence(
    requests: int, limit: float, rate: float
) -> None:
    true = limit * rate
    expected = sum(
        binom(requests, true).pmf(k)
        * math.exp(
            mixture_log_e(update_one_sample(NO_EVIDENCE, requests=requests, bad=k, limit=limit))
        )
        for k in range(requests + 1)
    )
    assert expected <= 1 + 1e-9


def _ever_rejects(
    rng: np.random.Generator, *, champion: float, challenger: float, share: float, bound: float
) -> bool:
    log_e = NO_EVIDENCE
    for _ in range(200):
        new = rng.binomial(40, share)
        old = 40 - new
        log_e = update_two_sample(
            log_e,
            champion_requests=old,
            champion_bad=rng.binomial(old, champion),
            challenger_requests=new,
            challenger_bad=rng.binomial(new, challenger),
        )
        if mixture_log_e(log_e) >= math.log(bound):
            return True
    return False


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_an_equal_challenger_is_rejected_no_more_often_than_stated(share: float) -> None:
    """400 rollouts of 200 looks at a stated 5 %: more than 33 rejections would be the one in a hundred."""
    rng = np.random.default_rng(20261124)
    rejected = sum(
        _ever_rejects(rng, champion=0.05, challenger=0.05, share=share, bound=20)
        for _ in range(400)
    )
    assert rejected <= 33


def test_a_worse_challenger_is_found() -> None:
    rng = np.random.default_rng(20261124)
    found = sum(
        _ever_rejects(rng, champion=0.01, challenger=0.05, share=0.5, bound=100) for _ in range(50)
    )
    assert found >= 48


def test_an_interval_without_both_sides_teaches_nothing() -> None:
    learned = update_two_sample(
        NO_EVIDENCE,
        champion_requests=0,
        champion_bad=0,
        challenger_requests=50,
        challenger_bad=50,
    )
    assert learned == NO_EVIDENCE
    assert len(NO_EVIDENCE) == len(RATIOS)
