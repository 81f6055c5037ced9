"""Tests that may be looked at after every interval without spending their error rate: e-processes on counts.

An e-process starts at 1 and, while the null hypothesis holds, is expected not to grow. By Ville's inequality it ever
exceeds `1/alpha` with probability at most alpha, however often and for whatever reason one looks. Everything is kept
as natural logarithms, one for each alternative of a uniform mixture, so that it can be saved and continued.
"""

import math
from collections.abc import Sequence

RATIOS = (1.25, 1.6, 2.0, 2.5, 3.5, 5.0, 10.0, 30.0)
"""Alternatives: how many times as likely a bad answer is at the challenger, in odds. One mixture for every effect."""

NO_EVIDENCE = (0.0,) * len(RATIOS)


def update_two_sample(
    log_e: Sequence[float],
    *,
    champion_requests: int,
    champion_bad: int,
    challenger_requests: int,
    challenger_bad: int,
) -> tuple[float, ...]:
    """The log e-values after one more interval, for H0: the challenger's bad rate is not above the champion's.

    Conditions on the interval's own totals: given `k` bad answers, each falls on the challenger with probability at
    most its share of the requests `s`. Under H0 with equal rates that count is hypergeometric, which is below the
    binomial in convex order (Hoeffding 1963, theorem 4), and a likelihood ratio is convex in the count, so each factor
    has expectation at most 1. Nothing is pooled across intervals, so share and base rate may drift together.
    An interval in which one of them had no requests teaches nothing.

    Source: conditional test as in Lindon and Malek 2020, arXiv 2011.03567; mixture as in Robbins 1970.
    """
    if champion_requests == 0 or challenger_requests == 0:
        return tuple(log_e)
    share = challenger_requests / (challenger_requests + champion_requests)
    return tuple(
        value
        + challenger_bad * math.log(ratio / (share * ratio + 1 - share))
        - champion_bad * math.log(share * ratio + 1 - share)
        for value, ratio in zip(log_e, RATIOS, strict=True)
    )


def update_one_sample(
    log_e: Sequence[float], *, requests: int, bad: int, limit: float
) -> tuple[float, ...]:
    """The log e-values after one more interval, for H0: the bad rate is at most `limit`, in (0, 1).

    Likelihood ratio of Bernoulli trials against rates whose odds are `RATIOS` times those of the limit. Below the
    limit the ratio's expectation is smaller still, since it grows with each bad answer (Wald 1945; Ville 1939).
    """
    updated: list[float] = []
    for value, ratio in zip(log_e, RATIOS, strict=True):
        scale = 1 - limit + limit * ratio
        updated.append(value + bad * math.log(ratio / scale) - (requests - bad) * math.log(scale))
    return tuple(updated)


def mixture_log_e(log_e: Sequence[float]) -> float:
    """The logarithm of the mean of the e-values: itself an e-process, as a mean of e-processes."""
    top = max(log_e)
    return top + math.log(sum(math.exp(value - top) for value in log_e) / len(log_e))
