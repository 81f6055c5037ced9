"""Whether a model's scores let it through."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.evaluate.gate import MIN_SAMPLES, GateResult, Margins, check_scores
from pipelines.evaluate.score import Kind, Score, Scorecard

MARGINS = Margins(perplexity_ratio=1.5, accuracy_drop=0.15)


def a_card(
    *, loss: float = 3.0, right: int = 60, windows: int = 10, asked: int = 80, evaluation: str = "e"
) -> Scorecard:
    """Each window with the same loss, and `right` of the questions answered."""
    scores = {
        "perplexity": Score.of(Kind.PERPLEXITY, [loss] * windows),
        "task": Score.of(Kind.ACCURACY, [1.0] * right + [0.0] * (asked - right)),
    }
    return Scorecard(evaluation=evaluation, scores=scores)


def check(
    candidate: Scorecard, base: Scorecard | None = None, champion: Scorecard | None = None
) -> GateResult:
    return check_scores(candidate, base=base or a_card(), champion=champion, margins=MARGINS)


def test_a_model_like_its_base_passes_with_its_numbers() -> None:
    result = check(a_card())
    assert (result.passed, result.reasons) == (True, ())
    assert result.numbers["perplexity.loss_to_base"] == 1
    assert result.numbers["task.loss_to_base_upper"] == 0
    assert result.numbers["champion_compared"] == 0


@pytest.mark.parametrize(("loss", "passes"), [(2.0, True), (3.4, True), (3.41, False), (9, False)])
def test_perplexity_may_rise_to_the_margin_and_no_further(loss, passes) -> None:
    result = check(a_card(loss=loss))
    assert result.passed is passes
    assert [reason.split()[0] for reason in result.reasons] == ([] if passes else ["perplexity"])


@pytest.mark.parametrize(("right", "passes"), [(80, True), (57, True), (53, False), (20, False)])
def test_accuracy_may_fall_by_the_margin_less_noise(right, passes) -> None:
    result = check(a_card(right=right))
    assert result.passed is passes
    assert [reason.split()[0] for reason in result.reasons] == ([] if passes else ["task"])


def test_every_reason_is_told() -> None:
    assert len(check(a_card(loss=9, right=0)).reasons) == 2


def test_a_champion_of_the_same_evaluation_is_compared_with_too() -> None:
    result = check(a_card(), champion=a_card(loss=1.0))
    assert not result.passed
    assert "below" not in result.reasons[0]
    assert "times the champion's" in result.reasons[0]
    assert result.numbers["champion_compared"] == 1


def test_a_champion_that_was_measured_on_other_texts_is_not_compared_with() -> None:
    result = check(a_card(), champion=a_card(loss=1.0, evaluation="old"))
    assert result.passed
    assert result.numbers["champion_compared"] == 0


def test_a_base_that_was_measured_on_other_texts_never_passes() -> None:
    result = check(a_card(), base=a_card(evaluation="old"))
    assert result.reasons == ("the base was measured on other texts or tasks",)


def test_nothing_measured_never_passes() -> None:
    nothing = Scorecard(evaluation="e")
    assert check(nothing, base=nothing).reasons == ("nothing was measured",)


def test_a_metric_that_is_missing_never_passes() -> None:
    card = a_card()
    only = dataclasses.replace(card, scores={"task": card.scores["task"]})
    assert check(only).reasons == ("perplexity was measured of the base, but not of this model",)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("who", ["model", "base"])
def test_a_number_that_is_none_never_passes(value, who) -> None:
    broken = a_card()
    score = dataclasses.replace(broken.scores["perplexity"], value=value)
    broken = dataclasses.replace(broken, scores={**broken.scores, "perplexity": score})
    result = check(broken) if who == "model" else check(a_card(), base=broken)
    assert not result.passed
    assert "compares nothing" in result.reasons[0]


@pytest.mark.parametrize(
    ("windows", "asked", "passes"), [(8, 30, True), (7, 30, False), (8, 29, False)]
)
def test_too_few_samples_never_pass(windows, asked, passes) -> None:
    assert {Kind.PERPLEXITY: 8, Kind.ACCURACY: 30} == MIN_SAMPLES
    card = a_card(windows=windows, asked=asked, right=20)
    assert check(card, base=card).passed is passes


@given(st.floats(0, 10), st.floats(0, 10), st.integers(0, 80), st.integers(0, 80))
def test_a_better_model_is_never_refused_where_a_worse_one_passes(loss, other, right, more) -> None:
    worse = check(a_card(loss=max(loss, other), right=min(right, more)))
    better = check(a_card(loss=min(loss, other), right=max(right, more)))
    assert better.passed or not worse.passed
