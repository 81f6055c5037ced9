"""How others judge a canary: z-tests, thresholds on windows, confidence sequences of each rate apart.

The rules are those that their documentation suggests; each looks at the counts of an hour and says when it rolls back.
"""

import importlib.util
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from deploy_targets.rollout.sequential import Array

STATED = 0.01
CONFSEQ = "confseq: two Bernoulli confidence sequences apart (300 rollouts)"
SLOW_RUNS = 300
"""It takes a quarter of a millisecond a look."""


class Watched(NamedTuple):
    """Counts of R runs, in T intervals: (R, T) each."""

    champion_n: Array
    champion_bad: Array
    challenger_n: Array
    challenger_bad: Array


Peer = Callable[[Watched], NDArray[np.int64]]
"""The interval in which each run is rolled back; T where it is not."""


def _first(hits: NDArray[np.bool_]) -> NDArray[np.int64]:
    return np.where(hits.any(axis=1), hits.argmax(axis=1), hits.shape[1])


def _z(n_a: Array, bad_a: Array, n_b: Array, bad_b: Array) -> Array:
    """The pooled two-proportion z statistic; 0 where it is not defined."""
    pooled = (bad_a + bad_b) / np.maximum(n_a + n_b, 1)
    spread = np.sqrt(pooled * (1 - pooled) * (1 / np.maximum(n_a, 1) + 1 / np.maximum(n_b, 1)))
    difference = bad_b / np.maximum(n_b, 1) - bad_a / np.maximum(n_a, 1)
    return np.where(spread > 0, difference / np.where(spread > 0, spread, 1), 0.0)


def _sums(watched: Watched) -> Watched:
    return Watched(*(np.cumsum(part, axis=1) for part in watched))


def peeked_z(watched: Watched) -> NDArray[np.int64]:
    """A z-test at 1 %, one-sided, on everything so far, looked at every minute."""
    hits = _z(*_sums(watched)) > norm.isf(STATED)
    hits[:, np.arange(hits.shape[1]) % 6 != 5] = False
    return _first(hits)


def fixed_z(share: float) -> Peer:
    """A z-test at 1 %, one-sided, looked at once, when 1 → 3 % would be missed in 5 % of the rollouts."""
    a, b = 0.01, 0.03
    pooled = (1 - share) * a + share * b
    null = np.sqrt(pooled * (1 - pooled) / (share * (1 - share)))
    other = np.sqrt(a * (1 - a) / (1 - share) + b * (1 - b) / share)
    needed = ((norm.isf(STATED) * null + norm.isf(0.05) * other) / (b - a)) ** 2

    def judge(watched: Watched) -> NDArray[np.int64]:
        sums = _sums(watched)
        at = np.argmax((sums.champion_n + sums.challenger_n) >= needed, axis=1)
        rows = np.arange(at.size)
        hit = _z(*(part[rows, at] for part in sums)) > norm.isf(STATED)
        return np.where(hit, at, watched.champion_n.shape[1])

    return judge


def threshold_rule(*, minutes: int, limit: float, failures: int) -> Peer:
    """The challenger's error rate in windows of so many minutes; too many windows above the limit roll back."""
    width = 6 * minutes

    def judge(watched: Watched) -> NDArray[np.int64]:
        runs, intervals = watched.challenger_n.shape
        windows = intervals // width
        shape = (runs, windows, width)
        n = watched.challenger_n[:, : windows * width].reshape(shape).sum(axis=2)
        bad = watched.challenger_bad[:, : windows * width].reshape(shape).sum(axis=2)
        failed = np.cumsum((n > 0) & (bad > limit * n), axis=1) >= failures
        first = _first(failed)
        return np.where(first < windows, (first + 1) * width - 1, intervals)

    return judge


def separate_confidence_sequences(watched: Watched) -> NDArray[np.int64]:
    """confseq's Bernoulli confidence sequences of both rates, every minute: the challenger's above the champion's.

    Each at 1 % on both sides, so that both ends together miss with at most 1 %.
    """
    interval: Any = importlib.import_module("confseq.boundaries").bernoulli_confidence_interval
    sums = _sums(watched)
    runs, intervals = watched.champion_n.shape
    ends = np.full(runs, intervals)
    for run, look in itertools.product(range(runs), range(5, intervals, 6)):
        if ends[run] == intervals:
            n_a, bad_a, n_b, bad_b = (float(part[run, look]) for part in sums)
            highest = interval(bad_a, int(n_a), STATED, 2_000)[1]
            lowest = interval(bad_b, int(n_b), STATED, 2_000)[0]
            if lowest > highest:
                ends[run] = look
    return ends


def peers(share: float) -> dict[str, Peer]:
    """What others do, as their documentation suggests; confseq where it is installed (`pip install confseq`)."""
    known: dict[str, Peer] = {}
    if importlib.util.find_spec("confseq") is not None:
        known[CONFSEQ] = separate_confidence_sequences
    return known | {
        "z-test, one look": fixed_z(share),
        "z-test, a look every minute": peeked_z,
        "Flagger-like: 1-minute windows above 2 %, 5 of them": threshold_rule(
            minutes=1, limit=0.02, failures=5
        ),
        "Argo-like: 5-minute windows above 5 %, more than 3": threshold_rule(
            minutes=5, limit=0.05, failures=4
        ),
    }
