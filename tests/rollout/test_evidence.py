"""What a metric's test remembers: it can be saved and goes on, what was proven stays, and its sequences cover the truth."""

import numpy as np
import pytest
from scipy.stats import binom

from deploy_targets.rollout import evidence as ev
from deploy_targets.rollout.sequential import Table
from deploy_targets.rollout.simulate import draw_bad

RUNS = 1_000


def a_test(kind: ev.Kind = ev.Kind.COUNTED, *, limit: float | None = None) -> ev.MetricTest:
    return ev.metric_test(
        "errors",
        kind,
        limit=limit,
        margin=0.0,
        tolerance=0.02,
        harm_alpha=0.05,
        claim_alpha=0.05,
    )


def draw(rng: np.random.Generator, kind: ev.Kind, *, a: float, b: float, share: float) -> Table:
    """An interval of 60 requests of each run; in bursts of 3 where the test is for bursts."""
    size = 3.0 if kind is ev.Kind.BURSTY else 1.0
    n_b = rng.binomial(60, share, RUNS)
    n_a = 60 - n_b
    bad_a = draw_bad(rng, n_a, a, burst_size=size)
    bad_b = draw_bad(rng, n_b, b, burst_size=size)
    return Table(*(part.astype(float) for part in (n_a, bad_a, n_b, bad_b)))


@pytest.mark.parametrize("kind", [ev.Kind.COUNTED, ev.Kind.BURSTY])
@pytest.mark.parametrize("share", [0.5, 0.1])
def test_difference_and_ratio_stay_within_their_ends_at_every_look(
    kind: ev.Kind, share: float
) -> None:
    """The rates drift together so that the difference, or the ratio, stays what it is."""
    test = a_test(kind)
    for is_ratio, truth in ((False, 0.03), (True, 2.0)):
        rng = np.random.default_rng(20261125)
        memory = ev.nothing_learned(test, RUNS)
        missed = np.zeros(RUNS, dtype=bool)
        for look in range(150):
            a = 0.03 + 0.02 * np.sin(look / 7)
            b = a * truth if is_ratio else a + truth
            memory = ev.learn(test, memory, draw(rng, kind, a=a, b=b, share=share))
            low, high = ev.bounds(test, memory, ratio=is_ratio)
            missed |= (low > truth) | (high < truth)
        assert missed.sum() <= binom(RUNS, 0.1).ppf(0.999)
        assert np.isfinite(high).mean() > 0.5


def test_a_first_releases_rate_stays_within_its_ends() -> None:
    test, rng = a_test(limit=0.05), np.random.default_rng(20261125)
    memory, none = ev.nothing_learned(test, RUNS), np.zeros(RUNS)
    missed = np.zeros(RUNS, dtype=bool)
    for _ in range(100):
        bad = rng.binomial(40, 0.04, RUNS).astype(float)
        memory = ev.learn(test, memory, Table(none, none, np.full(RUNS, 40.0), bad))
        low, high = ev.bounds(test, memory)
        missed |= (low > 0.04) | (high < 0.04)
    assert missed.sum() <= binom(RUNS, 0.1).ppf(0.999)
    assert np.median(high) <= 0.07


def a_table(*counts: float) -> Table:
    return Table(*(np.array([float(count)]) for count in counts))


@pytest.mark.parametrize("kind", list(ev.Kind))
def test_a_saved_memory_goes_on_as_if_it_had_never_been_away(kind: ev.Kind) -> None:
    test = a_test(kind)
    first, then = a_table(90, 2, 10, 1), a_table(80, 1, 20, 3)
    kept = ev.learn(test, ev.learn(test, ev.nothing_learned(test, 1), first), then)
    saved = ev.save(test, ev.learn(test, ev.nothing_learned(test, 1), first))
    again = ev.learn(test, ev.load(test, saved), then)
    for one, other in zip(kept, again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_memory_of_other_rules_is_not_taken_up() -> None:
    saved = ev.save(
        a_test(), ev.learn(a_test(), ev.nothing_learned(a_test(), 1), a_table(9, 1, 9, 1))
    )
    other = a_test(ev.Kind.BURSTY)
    assert not ev.load(other, saved).totals.any()


def test_what_was_proven_stays_proven_and_the_ends_only_come_closer() -> None:
    test = a_test()
    memory = ev.nothing_learned(test, 1)
    lows, highs = [], []
    for look in range(60):
        table = a_table(100, 1, 100, 1) if look < 40 else a_table(100, 0, 100, 9)
        memory = ev.learn(test, memory, table)
        low, high = ev.bounds(test, memory)
        lows.append(low[0])
        highs.append(high[0])
    assert lows == sorted(lows)
    assert highs == sorted(highs, reverse=True)
    assert ev.is_claimed(test, memory)[0]


def test_a_run_with_a_gap_learns_nothing_beside_one_that_learns() -> None:
    test = a_test()
    table = Table(np.array([90.0, 0]), np.array([5.0, 0]), np.array([10.0, 0]), np.array([3.0, 0]))
    memory = ev.learn(test, ev.nothing_learned(test, 2), table)
    assert memory.of(np.array([False, True])).totals.sum() == 0
    assert memory.peak[0] > memory.peak[1] == 0
