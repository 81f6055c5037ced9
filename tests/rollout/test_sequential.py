"""The promise of each sequence in `sequential`: under its null no interval is expected to gain evidence. Enumerated."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, hypergeom

from deploy_targets.rollout.sequential import (
    ODDS,
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

requests = st.integers(1, 14)
rate = st.integers(0, 1000).map(lambda parts: parts / 1000)


def tables(n_a: int, n_b: int) -> tuple[Table, np.ndarray, np.ndarray]:
    """Every outcome of an interval with so many requests, one a row."""
    a, b = (grid.ravel() for grid in np.mgrid[0 : n_a + 1, 0 : n_b + 1])
    ones = np.ones(a.size)
    return Table(n_a * ones, a.astype(float), n_b * ones, b.astype(float)), a, b


def a_table(*counts: float) -> Table:
    return Table(*(np.array([float(count)]) for count in counts))


@given(champion=st.integers(1, 60), challenger=st.integers(1, 60), part=rate, odds=rate)
def test_given_an_intervals_totals_no_evidence_is_expected_unless_the_challenger_is_worse(
    champion: int, challenger: int, part: float, odds: float
) -> None:
    """Enumerates the exact law of the challenger's bad answers, at equal rates and at lower odds."""
    bad = round(part * (champion + challenger))
    counts = np.arange(max(0, bad - champion), min(bad, challenger) + 1).astype(float)
    ones = np.ones(counts.size)
    factors = np.exp(
        conditional_log_e(Table(champion * ones, bad - counts, challenger * ones, counts))
    )
    equal = hypergeom(champion + challenger, challenger, bad).pmf(counts)
    lower = equal * odds ** (counts - counts[0])  # Fisher's noncentral law
    np.testing.assert_allclose(equal @ factors, np.ones(ODDS.size), rtol=1e-6)
    assert np.all(lower @ factors <= lower.sum() * (1 + 1e-6))


@given(
    n=requests,
    fewer=st.integers(0, 13),
    law=st.dictionaries(st.integers(0, 14), st.floats(0.01, 1), min_size=1, max_size=8),
)
def test_whatever_bursts_there_are_versions_alike_are_expected_to_give_no_evidence(
    n: int, fewer: int, law: dict[int, float]
) -> None:
    """Any law of the bad ones among n requests, the same for both; of the challenger's, some may be missing."""
    n_b = max(1, n - fewer)
    total = sum(law.values())
    expected = np.zeros(ODDS.size)
    for (a, p_a), (b, p_b) in itertools.product(law.items(), repeat=2):
        table = a_table(n, min(a, n), n_b, min(b, n_b))
        expected += p_a * p_b / total**2 * np.exp(fraction_log_e(table))[0]
    assert np.all(expected <= 1 + 1e-9)


@given(n=st.integers(0, 80), limit=st.floats(0.01, 0.5), part=rate)
def test_below_the_limit_no_evidence_is_expected(n: int, limit: float, part: float) -> None:
    bad = np.arange(n + 1).astype(float)
    none = np.zeros(n + 1)
    factors = np.exp(limit_log_e(Table(none, none, np.full(n + 1, float(n)), bad), limit))
    assert np.all(binom(n, limit * part).pmf(bad) @ factors <= 1 + 1e-9)


LINES = Lines(
    slope=np.array([1.0, 1.0, 1.0, 0.5, 2.0, 0.0]),
    offset=np.array([0.0, 0.05, -0.1, 0.0, 0.0, 0.2]),
)
past = st.tuples(st.integers(0, 200), rate, st.integers(0, 200), rate)


@given(n_a=requests, n_b=requests, past=past, a=rate, b=rate)
def test_on_the_nulls_side_of_a_line_no_evidence_is_expected(
    n_a: int, n_b: int, past: tuple[int, float, int, float], a: float, b: float
) -> None:
    """Whatever was seen before, and wherever on its side the true rates lie."""
    table, bad_a, bad_b = tables(n_a, n_b)
    m_a, r_a, m_b, r_b = past
    ones = np.ones(bad_a.size)
    totals = Table(m_a * ones, np.floor(m_a * r_a) * ones, m_b * ones, np.floor(m_b * r_b) * ones)
    above, below = line_log_e(table, totals, LINES)
    law = binom(n_a, a).pmf(bad_a) * binom(n_b, b).pmf(bad_b)
    at_most = LINES.slope * a + LINES.offset >= b
    at_least = LINES.slope * a + LINES.offset <= b
    assert np.all((law @ np.exp(above))[at_most] <= 1 + 1e-9)
    assert np.all((law @ np.exp(below))[at_least] <= 1 + 1e-9)


@given(
    outcomes=st.lists(st.tuples(rate, rate, st.floats(0.01, 1)), min_size=1, max_size=6),
    earlier=st.lists(st.tuples(rate, rate), max_size=5),
)
def test_a_bounded_bet_is_fair_for_any_joint_law_of_an_intervals_means(
    outcomes: list[tuple[float, float, float]], earlier: list[tuple[float, float]]
) -> None:
    a, b, weight = np.array(outcomes).T
    law = weight / weight.sum()
    ones = np.ones(a.size)
    moments = np.zeros((1, 6))
    for x, y in earlier:
        moments += moments_of(a_table(1, x, 1, y))
    above, below = bounded_log_e(
        Table(10 * ones, 10 * a, 10 * ones, 10 * b), np.repeat(moments, a.size, axis=0), LINES
    )
    mean = law @ b - LINES.slope * (law @ a) - LINES.offset
    assert np.all((law @ np.exp(above))[mean <= 0] <= 1 + 1e-9)
    assert np.all((law @ np.exp(below))[mean >= 0] <= 1 + 1e-9)


@pytest.mark.parametrize("counts", [(0, 0, 50, 50), (50, 50, 0, 0), (0, 0, 0, 0)])
def test_an_interval_without_both_sides_teaches_nothing(counts: tuple[int, ...]) -> None:
    table, lines = a_table(*counts), Lines(slope=np.ones(1), offset=np.full(1, 0.02))
    assert not conditional_log_e(table).any()
    assert not fraction_log_e(table).any()
    for gained in (
        *line_log_e(table, a_table(90, 1, 10, 1), lines),
        *bounded_log_e(table, np.ones((1, 6)), lines),
    ):
        assert not gained.any()


def test_thousands_of_bad_answers_in_one_interval_are_no_trouble() -> None:
    gained = conditional_log_e(a_table(80_000, 4_000, 20_000, 3_000))
    assert np.all(np.isfinite(gained))
    assert gained.max() > 100


def test_the_mixture_is_a_mean_of_its_parts() -> None:
    e_values = np.array([[1.0, 2.0, 3.0, 4.0, 5.0], [7.0] * 5])
    np.testing.assert_allclose(np.exp(mixture_log_e(np.log(e_values))), [3.0, 7.0])


def test_runs_beside_each_other_do_not_touch_each_other() -> None:
    apart = [conditional_log_e(a_table(90, bad, 10, 2))[0] for bad in (0, 1, 40)]
    together = conditional_log_e(
        Table(np.full(3, 90.0), np.array([0.0, 1.0, 40.0]), np.full(3, 10.0), np.full(3, 2.0))
    )
    np.testing.assert_allclose(together, apart, rtol=1e-12)
    assert math.isfinite(together.sum())
