"""Sticky shares: exact at every weight, stable as weights grow, fair over users."""

import itertools
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy_targets.routing.buckets import (
    BUCKETS,
    bucket_of,
    bucket_text,
    digest_of,
    pattern,
    shares,
    split_name,
)
from deploy_targets.routing.traffic import Traffic

PAIRS = [("6", "7"), ("7", "6"), ("9", "10"), ("10", "9"), ("99", "100")]


@pytest.mark.parametrize(("champion", "challenger"), PAIRS)
def test_every_weight_gets_exactly_so_many_buckets_and_keeps_those_of_the_weight_before(
    champion: str, challenger: str
) -> None:
    before = set[int]()
    for percent in range(1, 100):
        taken = shares(Traffic.split(champion, challenger, percent))
        mine, others = set(taken[challenger]), set(taken[champion])
        assert len(mine) == percent
        assert mine | others == set(range(BUCKETS))
        assert not mine & others
        assert mine > before
        before = mine


@pytest.mark.parametrize("percent", range(101))
def test_the_pattern_matches_its_buckets_and_nothing_else(percent: int) -> None:
    own = shares(Traffic.split("6", "7", percent)).get("7", ())
    if percent in {0, 100}:
        assert own == ()
        return
    matched = [n for n in range(BUCKETS) if re.search(pattern(own), bucket_text(n))]
    assert tuple(matched) == own
    for other in ("", "100", "007", f"0{own[0]:02}", f"{own[0]:02} ", "-1", "x"):
        assert not re.search(pattern(own), other)


@given(st.lists(st.integers(1, 99), unique=True, min_size=1, max_size=4))
def test_more_than_two_versions_share_all_buckets(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), 100]
    weights = {str(n): high - low for n, (low, high) in enumerate(itertools.pairwise(edges), 1)}
    taken = shares(Traffic(weights=weights))
    assert {version: len(own) for version, own in taken.items()} == weights
    assert sorted(bucket for own in taken.values() for bucket in own) == list(range(BUCKETS))


def test_another_challenger_meets_other_users_first() -> None:
    first = [set(shares(Traffic.split("6", str(n), 10))[str(n)]) for n in range(7, 17)]
    assert len(set[int]().union(*first)) > 50
    assert all(len(one & other) < 8 for one in first for other in first if one is not other)


def test_ten_thousand_users_fall_evenly_into_buckets() -> None:
    counts = Counter(
        bucket_of(digest_of(f"user-{n}", endpoint="chat", salt="s")) for n in range(10_000)
    )
    assert len(counts) == BUCKETS
    # Chi-square with 99 degrees of freedom: beyond 180 in less than one of 10^6.
    assert sum((count - 100) ** 2 / 100 for count in counts.values()) < 180


def test_the_bucket_of_a_user_is_written_down_for_those_who_compute_it_elsewhere() -> None:
    digest = digest_of("u-1", endpoint="chat", salt="spring")
    assert digest.hex() == "f021dff0a81cbb042ba2e5b362add95f3957f4cb0567852e660fa9fe57bcec35"
    assert bucket_text(bucket_of(digest)) == "48"


def test_salt_and_endpoint_make_other_buckets() -> None:
    def buckets(endpoint: str, salt: str) -> list[int]:
        return [bucket_of(digest_of(str(n), endpoint=endpoint, salt=salt)) for n in range(50)]

    assert (
        len({tuple(buckets(*one)) for one in (("a", ""), ("a", "x"), ("b", ""), ("b", "x"))}) == 4
    )


def test_the_name_of_a_split_stays_while_its_weights_move() -> None:
    names = {split_name(Traffic.split("9", "10", percent)) for percent in range(1, 100)}
    assert names == {"9,10"}
