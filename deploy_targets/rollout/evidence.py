"""One metric's test: which sequences it runs, what it remembers between intervals, and what they say.

A `MetricTest` is compiled from the policy; a `Memory` holds everything learned so far, for R runs side by side. The
controller has one run and keeps its memory in the rollout's state (`save`, `load`); `shipway judge` and `shipway
simulate` have many and keep arrays. The verdict over all metrics is `judge`'s business.
"""

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deploy_targets.rollout.sequential import (
    ODDS,
    Array,
    Lines,
    Table,
    bounded_log_e,
    conditional_log_e,
    fraction_log_e,
    limit_log_e,
    line_log_e,
    mixture_log_e,
    moments_of,
)
from deploy_targets.rollout.state import MetricEvidence

_STEPS = (0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5)
_RATIOS = (0.25, 0.5, 0.67, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 10.0, 20.0)
"""Where the ends of the reported confidence sequences may lie."""


class Kind(StrEnum):
    """What a metric's increments are."""

    COUNTED = "counted"
    """Bad ones among n requests that fail independently of one another."""
    BURSTY = "bursty"
    """Bad ones among n requests of which one may follow from another in the same interval."""
    BOUNDED = "bounded"
    """A sum over n requests, each between 0 and 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricTest:
    """What is asked of one metric's increments, and how."""

    name: str
    kind: Kind
    limit: float | None
    """The absolute limit where there is no champion; None compares with the champion."""
    margin: float
    tolerance: float
    harm_alpha: float
    """This metric's part of the rate of false rollbacks."""
    claim_alpha: float
    """The rate of false promotions, whole: a promotion needs every metric's claim, so none can spend it for another."""
    lines: Lines = field(repr=False, compare=False)
    """The hypotheses whose evidence is followed: first that of harm, then that of the claim, then the reported ones."""

    @property
    def harm_bound(self) -> float:
        """The e-value of harm that rolls back."""
        return 1 / self.harm_alpha

    @property
    def signature(self) -> str:
        """Names everything that a memory depends on: one of another signature is of no use."""
        ends = ",".join(
            f"{s:g}:{o:g}" for s, o in zip(self.lines.slope, self.lines.offset, strict=True)
        )
        return f"{self.kind} {self.harm_alpha:g} {self.claim_alpha:g} {ends}"


class Memory(NamedTuple):
    """What one metric's test has learned."""

    totals: Array
    """(R, 4) As `Table`."""
    moments: Array
    """(R, 6) See `sequential.moments_of`."""
    mixture: Array
    """(R, J) The log e-process of harm under each alternative."""
    at_most: Array
    """(R, G) Log evidence against "at most on the line"."""
    at_least: Array
    """(R, G) Log evidence against "at least on it"."""
    peak: Array
    """(R,) The highest log e-value of harm so far: the test rejects by its running maximum."""

    def of(self, rows: NDArray[np.bool_]) -> "Memory":
        """That of the runs in `rows`."""
        return Memory(*(part[rows] for part in self))


class Bounds(NamedTuple):
    """A confidence sequence as it stands, (R,) each. An end that is not known yet is infinite."""

    low: Array
    high: Array


def metric_test(  # noqa: PLR0913 - each is a rule of its own
    name: str,
    kind: Kind,
    *,
    limit: float | None,
    margin: float,
    tolerance: float,
    harm_alpha: float,
    claim_alpha: float,
    is_reported: bool = True,
) -> MetricTest:
    """The test by these rules. With `is_reported` it follows the whole grid of ends, else only what decides."""
    slope = 0.0 if limit is not None else 1.0
    ends = [(slope, limit or margin), (slope, limit or tolerance)]
    if is_reported and limit is not None:
        ends += [(0.0, end) for end in _STEPS if end != limit]
    elif is_reported:
        steps = {0.0, *_STEPS, *(-end for end in _STEPS)} - {margin, tolerance}
        ends += [(1.0, end) for end in sorted(steps)]
        ends += [(ratio, 0.0) for ratio in _RATIOS if ratio != 1.0]
    slopes, offsets = zip(*ends, strict=True)
    return MetricTest(
        name=name,
        kind=kind,
        limit=limit,
        margin=margin,
        tolerance=tolerance,
        harm_alpha=harm_alpha,
        claim_alpha=claim_alpha,
        lines=Lines(slope=np.array(slopes), offset=np.array(offsets)),
    )


def nothing_learned(test: MetricTest, runs: int) -> Memory:
    """The memory before the first interval."""
    lines = test.lines.slope.size
    widths = (4, 6, ODDS.size, lines, lines)
    return Memory(*(np.zeros((runs, width)) for width in widths), peak=np.zeros(runs))


def learn(test: MetricTest, memory: Memory, table: Table) -> Memory:
    """The memory after one more interval. A run whose table is all zero had a gap, and learns nothing."""
    totals = Table(*memory.totals.T)
    if test.kind is Kind.COUNTED:
        above, below = line_log_e(table, totals, test.lines)
    else:
        above, below = bounded_log_e(table, memory.moments, test.lines)
    # A sequence that has rejected stays where it is: its bet may end at any time, and so what was proven stays proven.
    # The one that rolling back rests on goes on, for it may count as one of two; its maximum is kept instead.
    proven = memory.at_most >= math.log(test.harm_bound)
    proven[:, _HARM] = False
    claimed = memory.at_least >= -math.log(test.claim_alpha)
    learned = memory._replace(
        totals=memory.totals + np.stack(table, axis=1),
        moments=memory.moments + moments_of(table),
        mixture=memory.mixture + _mixture_gain(test, table),
        at_most=memory.at_most + np.where(proven, 0.0, above),
        at_least=memory.at_least + np.where(claimed, 0.0, below),
    )
    return learned._replace(peak=np.maximum(memory.peak, harm_log_e(test, learned)))


def harm_log_e(test: MetricTest, memory: Memory) -> Array:
    """(R,) The log e-value against "not worse": above the limit, or above the champion by more than the margin."""
    line = memory.at_most[:, _HARM]
    mixture = mixture_log_e(memory.mixture)
    if test.kind is Kind.BOUNDED or test.margin > 0:
        return line
    if test.kind is Kind.COUNTED:
        return mixture
    if test.limit is not None:
        return line
    return np.logaddexp(line, mixture) - math.log(2)


def is_claimed(test: MetricTest, memory: Memory) -> NDArray[np.bool_]:
    """(R,) Whether it is shown to be below the limit, or worse than the champion by less than the tolerance."""
    return memory.at_least[:, _CLAIM] >= -math.log(test.claim_alpha)


def has_data(test: MetricTest, memory: Memory) -> NDArray[np.bool_]:
    """(R,) Whether both sides (or the only one) were ever measured."""
    totals = Table(*memory.totals.T)
    return (totals.challenger_n > 0) if test.limit is not None else totals.is_paired


def bounds(test: MetricTest, memory: Memory, *, ratio: bool = False) -> Bounds:
    """The confidence sequence of the increase over the champion, of the ratio to it, or of the rate where there is none.

    The low end is missed with probability at most `harm_alpha`, the high end with `claim_alpha`. Each end is the grid
    point next to the outermost line that was not rejected, or what the verdicts' own tests have shown where that is
    more: so what a verdict says and what is reported never disagree.

    Source: inversion of tests, Howard, Ramdas, McAuliffe and Sekhon 2021, arXiv 1810.08240, section 2.
    """
    slope, offset = test.lines.slope, test.lines.offset
    along = slope if ratio else offset
    chosen = offset == 0.0 if ratio else slope == (0.0 if test.limit is not None else 1.0)
    _, first = np.unique(along[chosen], return_index=True)
    order = np.flatnonzero(chosen)[first]
    ends = np.array([-np.inf, *along[order], np.inf])  # rising, (g + 2,)
    is_open = memory.at_most[:, order] < math.log(test.harm_bound)
    lowest = np.where(is_open.any(axis=1), is_open.argmax(axis=1), order.size)
    is_open = memory.at_least[:, order] < -math.log(test.claim_alpha)
    highest = np.where(is_open.any(axis=1), order.size + 1 - is_open[:, ::-1].argmax(axis=1), 1)
    low, high = ends[lowest], ends[highest]
    is_harmful = memory.peak >= math.log(test.harm_bound)
    if ratio:
        # A margin above 0 says something of the difference alone, and so does a tolerance.
        is_larger = is_harmful & (test.margin == 0)
        return Bounds(low=np.where(is_larger, np.maximum(low, 1.0), low), high=high)
    margin = test.margin if test.limit is None else test.limit
    tolerance = test.tolerance if test.limit is None else test.limit
    return Bounds(
        low=np.where(is_harmful, np.maximum(low, margin), low),
        high=np.where(is_claimed(test, memory), np.minimum(high, tolerance), high),
    )


def save(test: MetricTest, memory: Memory) -> MetricEvidence:
    """The first run's memory as plain numbers, for a rollout's state."""
    one = {name: tuple(getattr(memory, name)[0].tolist()) for name in _PARTS}
    return MetricEvidence(signature=test.signature, peak=float(memory.peak[0]), **one)


def load(test: MetricTest, saved: MetricEvidence | None) -> Memory:
    """The memory that was saved; a fresh one where there is none, or one of a test by other rules."""
    if saved is None or saved.signature != test.signature:
        return nothing_learned(test, 1)
    parts = {name: np.array([getattr(saved, name)], dtype=np.float64) for name in _PARTS}
    return Memory(**parts, peak=np.array([saved.peak]))


_HARM, _CLAIM = 0, 1
_PARTS = ("totals", "moments", "mixture", "at_most", "at_least")


def _mixture_gain(test: MetricTest, table: Table) -> Array:
    if test.kind is Kind.COUNTED:
        if test.limit is not None:
            return limit_log_e(table, test.limit)
        return conditional_log_e(table)
    if test.kind is Kind.BURSTY and test.limit is None:
        return fraction_log_e(table)
    return np.zeros((table.champion_n.size, ODDS.size))
