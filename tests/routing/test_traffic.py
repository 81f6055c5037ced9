"""Weights by version: they sum to 100 or there are none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy_targets.routing.traffic import Traffic

VERSIONS = st.integers(1, 9).map(str)


@given(champion=st.none() | VERSIONS, percent=st.integers(0, 100))
def test_a_split_gives_the_challenger_its_percent_and_the_champion_the_rest(
    champion: str | None, percent: int
) -> None:
    split = Traffic.split(champion, "10", percent)
    assert sum(split.weights.values()) in ({100} if champion or percent else {0})
    assert 0 not in split.weights.values()
    if champion:
        assert (split.percent("10"), split.percent(champion)) == (percent, 100 - percent)
    else:
        assert split.percent("10") == (100 if percent else 0)


@given(st.dictionaries(VERSIONS, st.integers(-10, 110), max_size=4))
def test_weights_that_do_not_add_up_are_refused(weights: dict[str, int]) -> None:
    if all(1 <= weight <= 100 for weight in weights.values()) and sum(weights.values()) in {0, 100}:
        assert Traffic(weights=weights).weights == weights
    else:
        with pytest.raises(ValueError, match="percent"):
            Traffic(weights=weights)


def test_a_version_without_weight_has_none() -> None:
    assert Traffic.all_to("6").percent("7") == 0
    assert Traffic.all_to("6").percent(None) == 0
    assert Traffic.all_to(None) == Traffic()


def test_equal_weights_are_equal_in_any_order() -> None:
    assert Traffic(weights={"6": 95, "7": 5}) == Traffic(weights={"7": 5, "6": 95})
