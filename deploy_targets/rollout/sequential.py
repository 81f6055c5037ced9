"""Tests that may be looked at after every interval without spending their error rate: e-processes, over many runs.

An e-process starts at 1 and, while its null hypothesis holds, is expected not to grow. By Ville's inequality (1939) it
ever exceeds `1/alpha` with probability at most alpha, however often and for whatever reason one looks. Each function
here gives the natural logarithm of one interval's factor; factors multiply, so logarithms add. Which function is for
which metric, and what is remembered between intervals, is `evidence`'s business.

Shapes: R runs side by side (1 in a controller), J alternatives, G lines. All arrays are float64.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

ODDS = np.array((1.3, 1.8, 2.7, 4.5, 15.0))  # (J,)
"""Alternatives: how many times as likely, in odds, a bad answer is at the challenger. One mixture for every effect."""

WEIGHTS = np.array((1, 1, 2, 1, 1)) / 6  # (J,)
"""Of the alternatives in the mixture. A threefold rate is what canaries are there to find, so it counts twice: 3 percent
fewer requests there, as many more at the far ends."""

PRIOR_BAD = 2.0
"""Bad answers at the common rate that a rate's estimate starts from; by simulation 1 to 4 differ by a few percent."""

_PRIOR_INTERVALS = 4.0
_PRIOR_SECOND_MOMENT = 0.01
"""What the bounded bets start from: no difference, of a spread that is soon outweighed."""

_BLOCK = 4_000_000
"""Cells that are worked on at once: 32 MB an array."""

_BOLDEST = 0.95
"""The part of the largest bet that could not lose everything."""


class Table(NamedTuple):
    """One interval of both versions, each (R,). `bad` is at most `n`; for a bounded metric it is a sum, not a count."""

    champion_n: Array
    champion_bad: Array
    challenger_n: Array
    challenger_bad: Array

    @property
    def is_paired(self) -> NDArray[np.bool_]:
        """(R,) Whether both had requests."""
        return (self.champion_n > 0) & (self.challenger_n > 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """Hypotheses about two rates: the challenger's equals `slope` times the champion's plus `offset`. Each (G,).

    Slope 1 speaks of the difference, offset 0 of the ratio, slope 0 of the challenger's rate alone.
    """

    slope: Array
    offset: Array


def conditional_log_e(table: Table) -> Array:
    """(R, J) Against "the challenger's bad rate is not above the champion's", for independent requests.

    Given an interval's totals, the challenger's share of the bad answers is hypergeometric when the rates are equal,
    whatever the rate, and stochastically smaller when its rate is lower. The factor is the likelihood ratio of
    Fisher's noncentral hypergeometric law with odds ratio `ODDS` to it, which grows with the count, so its expectation
    is at most 1 (equality at equal rates). It conditions on this interval's own requests and bad answers: nothing is
    pooled, so share and base rate may move together. An interval in which one side had no request teaches nothing.

    Source: conditional likelihood ratio and mixture as in Lindon and Malek 2020, arXiv 2011.03567; the mixture over
    alternatives is Robbins 1970.
    """
    log_e = np.zeros((table.champion_n.size, ODDS.size))
    bad = table.champion_bad + table.challenger_bad
    rows = np.flatnonzero(
        table.is_paired & (bad > 0) & (bad < table.champion_n + table.challenger_n)
    )
    if rows.size == 0:
        return log_e
    widest = int(np.minimum(bad, table.challenger_n)[rows].max()) + 1
    for block in np.array_split(rows, math.ceil(rows.size * widest / _BLOCK)):
        log_e[block] = _hypergeometric_log_e(Table(*(part[block] for part in table)))
    return log_e


def fraction_log_e(table: Table) -> Array:
    """(R, J) Against "the challenger's bad answers are not above the champion's", whatever bursts both come in.

    *Not above* means that at equal traffic the number of the challenger's bad answers in an interval is stochastically
    no larger than the champion's: alike, or fewer of them in bursts that are no larger. A bet on the challenger's fraction
    F of an interval's bad answers. Where both versions had equally many requests and the same law of bursts, F and 1 - F
    have one distribution, so its mean is 1/2; a challenger with fewer requests has less, and one with more has at most
    its share of the requests or 1/2, whichever way bursts scale with traffic. So the factor
    (1 + F(r - 1)) / (1 + s(r - 1)), linear in F, with s the larger of the share and 1/2, has expectation at most 1. It is
    strong where the requests are split evenly, and worth nothing at a small share: see `bounded_log_e`.

    Source: betting on a bounded mean, Waudby-Smith and Ramdas 2024, arXiv 2010.09686; symmetry, de la Peña 1999.
    """
    bad = table.champion_bad + table.challenger_bad
    taught = table.is_paired & (bad > 0)
    fraction = table.challenger_bad / np.where(taught, bad, 1)
    requests = table.champion_n + table.challenger_n
    share = np.maximum(0.5, table.challenger_n / np.where(taught, requests, 1))
    gain = np.log1p(fraction[:, None] * (ODDS - 1)) - np.log1p(share[:, None] * (ODDS - 1))
    return np.where(taught[:, None], gain, 0.0)


def limit_log_e(table: Table, limit: float) -> Array:
    """(R, J) Against "the challenger's bad rate is at most `limit`", in (0, 1), for independent requests.

    Likelihood ratio of Bernoulli trials against rates whose odds are `ODDS` times those of the limit. It grows with
    each bad answer, so below the limit its expectation is smaller still (Wald 1945; Ville 1939).
    """
    scale = np.log1p(limit * (ODDS - 1))
    bad = table.challenger_bad[:, None]
    return bad * np.log(ODDS) - table.challenger_n[:, None] * scale


def line_log_e(table: Table, totals: Table, lines: Lines) -> tuple[Array, Array]:
    """Two (R, G): against "at most on the line, in every interval" and against "at least on it"; independent requests.

    A test martingale for two Bernoulli streams in blocks: each answer's factor is linear, 1 + c(y - t), where (t_a, t_b)
    is a point on the line, c_b is a free choice and n_a c_a = -slope n_b c_b. The mean factor over the block is then
    linear in the rates and 1 on the line, so by the inequality of arithmetic and geometric means their product has
    expectation at most 1 on the null's side, whatever point and c_b were chosen from the past. They are chosen by
    the estimate from `totals`, the sums of all earlier intervals: t is the estimate's Kullback-Leibler projection on
    the line in the Poisson limit, which has a closed form. The side of the line on which the estimate lies gets the bet;
    without a past there is none.

    Source: Turner, Ly and Grünwald 2021, arXiv 2106.02693, section 3 (convex nulls); confidence sequence by inversion.
    """
    slope, offset = lines.slope, lines.offset
    a, b = (rate[:, None] for rate in _estimates(totals))
    n_a, n_b = table.champion_n[:, None], table.challenger_n[:, None]
    t_a = _projection(a, b, n_a, n_b, lines)  # (R, G)
    t_b = np.clip(slope * t_a + offset, _TINY, 1 - _TINY)
    c_b = (b - t_b) / (t_b * (1 - t_b))
    c_a = -slope * n_b * c_b / np.maximum(n_a, 1)
    worst = np.maximum(
        np.maximum(c_a * t_a, -c_a * (1 - t_a)), np.maximum(c_b * t_b, -c_b * (1 - t_b))
    )
    timid = np.minimum(1.0, _BOLDEST / np.maximum(worst, _TINY))
    c_a, c_b = c_a * timid, c_b * timid
    gain = (
        table.champion_bad[:, None] * np.log1p(c_a * (1 - t_a))
        + (n_a - table.champion_bad[:, None]) * np.log1p(-c_a * t_a)
        + table.challenger_bad[:, None] * np.log1p(c_b * (1 - t_b))
        + (n_b - table.challenger_bad[:, None]) * np.log1p(-c_b * t_b)
    )
    is_known = totals.champion_n + totals.challenger_n > 0
    taught = (is_known & (table.challenger_n > 0))[:, None]
    taught = taught & ((table.champion_n > 0)[:, None] | (slope == 0))
    gain = np.where(taught, gain, 0.0)
    return np.where(c_b > 0, gain, 0.0), np.where(c_b < 0, gain, 0.0)


def bounded_log_e(table: Table, moments: Array, lines: Lines) -> tuple[Array, Array]:
    """Two (R, G): against "at most on the line, in every interval" and against "at least on it"; any bounded metric.

    Bets on D, the challenger's mean in the interval less `slope` times the champion's, both in [0, 1]: the factors
    1 + l(D - offset) and 1 + l(offset - D) have expectation at most 1 under their nulls, however the requests of an
    interval hang together, as long as l was chosen from the past and cannot make them negative. l approximates the
    growth-optimal bet by the `moments` (R, 6) of earlier intervals, see `moments_of`.

    Source: Waudby-Smith and Ramdas 2024, arXiv 2010.09686, section 5.2 (the predictable plug-in bet "aGRAPA").
    """
    slope, offset = lines.slope, lines.offset
    count, a, b, aa, bb, ab = (moment[:, None] for moment in moments.T)
    weight = count + _PRIOR_INTERVALS
    difference = (b - slope * a) / weight  # (R, G)
    second = bb + slope**2 * aa - 2 * slope * ab + _PRIOR_INTERVALS * _PRIOR_SECOND_MOMENT
    spread = np.maximum(second / weight - difference**2, _TINY)
    excess = difference - offset
    bet = excess / (spread + excess**2)
    upward = np.clip(bet, 0.0, _BOLDEST / np.maximum(slope + offset, _TINY))
    downward = np.clip(-bet, 0.0, _BOLDEST / np.maximum(1 - offset, _TINY))
    taught = (table.challenger_n > 0)[:, None] & ((table.champion_n > 0)[:, None] | (slope == 0))
    rate_a = table.champion_bad / np.maximum(table.champion_n, 1)
    rate_b = table.challenger_bad / np.maximum(table.challenger_n, 1)
    surprise = rate_b[:, None] - slope * rate_a[:, None] - offset
    above = np.where(taught, np.log1p(upward * surprise), 0.0)
    below = np.where(taught, np.log1p(-downward * surprise), 0.0)
    return above, below


def moments_of(table: Table, *, taught: NDArray[np.bool_]) -> Array:
    """(R, 6) What `bounded_log_e` remembers of an interval: 1, a, b, aa, bb, ab of the two means; zeros if not `taught`."""
    rate_a = table.champion_bad / np.maximum(table.champion_n, 1)
    rate_b = table.challenger_bad / np.maximum(table.challenger_n, 1)
    one = taught.astype(np.float64)
    products = (one, rate_a, rate_b, rate_a * rate_a, rate_b * rate_b, rate_a * rate_b)
    return np.stack(products, axis=1) * one[:, None]


def mixture_log_e(log_e: Array) -> Array:
    """(R,) The logarithm of the weighted mean of the e-values (R, J): itself an e-process, as a mean of e-processes."""
    return _log_sum_exp(log_e + np.log(WEIGHTS))


_TINY = 1e-12


def _hypergeometric_log_e(table: Table) -> Array:
    """(r, J) `conditional_log_e` where both had requests, and some but not all answers are bad."""
    n_a, n_b = table.champion_n[:, None], table.challenger_n[:, None]  # (r, 1)
    k = (table.champion_bad + table.challenger_bad)[:, None]
    least, most = np.maximum(0, k - n_a), np.minimum(k, n_b)
    x = np.arange(int(most.max()) + 1).astype(np.float64)  # (X,) how many fall on the challenger
    with np.errstate(divide="ignore", invalid="ignore"):
        growth = np.log((k - x + 1) * (n_b - x + 1)) - np.log(x * (n_a - k + x))  # (r, X)
    weight = np.cumsum(np.where(x > least, growth, 0.0), axis=1)
    weight = np.where((x >= least) & (x <= most), weight, -np.inf)
    central = _log_sum_exp(weight)
    gains = [
        table.challenger_bad * log_odds - (_log_sum_exp(weight + x * log_odds) - central)
        for log_odds in np.log(ODDS)
    ]
    return np.stack(gains, axis=1)


def _estimates(totals: Table) -> tuple[Array, Array]:
    """(R,) twice: both rates from the past, drawn towards their common rate by `PRIOR_BAD` bad answers."""
    requests = totals.champion_n + totals.challenger_n
    common = (totals.champion_bad + totals.challenger_bad + 0.5) / (requests + 1)
    weight = PRIOR_BAD / common
    a = (totals.champion_bad + PRIOR_BAD) / (totals.champion_n + weight)
    b = (totals.challenger_bad + PRIOR_BAD) / (totals.challenger_n + weight)
    return a, b


def _projection(a: Array, b: Array, n_a: Array, n_b: Array, lines: Lines) -> Array:
    """(R, G) The champion's coordinate of the point on each line that is closest to (a, b), were both Poisson rates.

    Minimises n_a KL(a, x) + n_b KL(b, slope x + offset): the larger root of a quadratic. Only the power depends on it.
    """
    slope, offset = lines.slope, lines.offset
    steep = np.maximum(slope, _TINY)
    lowest, highest = np.maximum(0.0, -offset / steep), np.minimum(1.0, (1 - offset) / steep)
    square = slope * n_a + slope**2 * n_b
    linear = n_a * offset - n_a * slope * a + slope * n_b * (offset - b)
    root = np.sqrt(np.maximum(linear**2 + 4 * square * n_a * a * offset, 0.0))
    x = (root - linear) / np.maximum(2 * square, _TINY)
    margin = 1e-9 * (highest - lowest)
    return np.clip(x, lowest + margin, highest - margin)


def _log_sum_exp(values: Array) -> Array:
    """(r,) Over the last axis; at least one value of each row is finite."""
    top = values.max(axis=1)
    return top + np.log(np.exp(values - top[:, None]).sum(axis=1))
