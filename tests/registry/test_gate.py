"""Whether a model's scores let it through, and whether they still do when it is to be promoted."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import IntegrityError
from registry.gate import (
    MIN_SAMPLES,
    Champion,
    Gate,
    GateResult,
    Margins,
    check_again,
    check_scores,
    decide,
)
from registry.promotion import check_gate
from registry.release import DIGEST_TAG, GATE_TAG, SCORECARD_TAG, ModelVersion, Refused, Release
from registry.scorecard import Kind, Score, Scorecard
from tests.builders import a_digest
from tests.builders import a_scorecard as a_card

MARGINS = Margins(perplexity_ratio=1.5, accuracy_drop=0.15, format_drop=0.2)


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
    assert "times the champion's" in result.reasons[0]
    assert result.numbers["champion_compared"] == 1


def test_a_champion_that_was_measured_on_other_texts_never_passes() -> None:
    result = check(a_card(), champion=a_card(loss=9.0, evaluation="old"))
    assert result.reasons == ("the champion was measured on other texts or tasks",)


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
    assert (MIN_SAMPLES[Kind.PERPLEXITY], MIN_SAMPLES[Kind.ACCURACY]) == (8, 30)
    card = a_card(windows=windows, asked=asked, right=20)
    assert check(card, base=card).passed is passes


@given(st.floats(0, 10), st.floats(0, 10), st.integers(0, 80), st.integers(0, 80))
def test_a_better_model_is_never_refused_where_a_worse_one_passes(loss, other, right, more) -> None:
    worse = check(a_card(loss=max(loss, other), right=min(right, more)))
    better = check(a_card(loss=min(loss, other), right=max(right, more)))
    assert better.passed or not worse.passed


ALL_KINDS = {
    Kind.DIVERGENCE: ([0.0] * 32, [0.1] * 32, [0.9] * 32),
    Kind.AGREEMENT: ([1.0] * 32, [0.8] * 32, [0.4] * 32),
    Kind.GOLDEN: ([1.0] * 24, [1.0] * 22 + [0.0] * 2, [1.0] * 12 + [0.0] * 12),
    Kind.FORMAT: ([1.0] * 24, [1.0] * 22 + [0.0] * 2, [1.0] * 12 + [0.0] * 12),
    Kind.REPETITION: ([0.1] * 24, [0.2] * 24, [0.7] * 24),
}


@pytest.mark.parametrize("kind", list(ALL_KINDS))
def test_each_kind_may_lose_something_and_not_much(kind) -> None:
    base, near, far = (
        Scorecard(evaluation="e", scores={"m": Score.of(kind, samples)})
        for samples in ALL_KINDS[kind]
    )
    assert check(near, base).passed
    [reason] = check(far, base).reasons
    assert reason.startswith("m is ")
    assert f"and {MARGINS.of(kind):g} is allowed" in reason


@pytest.mark.parametrize("kind", list(Kind))
def test_each_kind_needs_its_samples(kind) -> None:
    samples = [0.5] * (MIN_SAMPLES[kind] - 1)
    card = Scorecard(evaluation="e", scores={"m": Score.of(kind, samples)})
    assert f"and {MIN_SAMPLES[kind]} are needed" in check(card, card).reasons[0]


def test_a_model_of_three_times_the_perplexity_fails_though_it_still_answers() -> None:
    """The int8 ONNX of FACTS: 89.5 against 29.6, and the capital of France is Paris in both."""
    answers = {"golden": Score.of(Kind.GOLDEN, [1.0] * 24)}
    base, onnx = (
        Scorecard(
            evaluation="e",
            scores={**answers, "perplexity": Score.of(Kind.PERPLEXITY, [loss] * 10)},
        )
        for loss in (3.388, 4.494)
    )
    [reason] = check(onnx, base).reasons
    assert reason.startswith("perplexity is 89.48, 3.02 times the base's 29.61")


def test_a_margin_of_everything_lets_everything_through() -> None:
    """A drop of 1 with noise on top would be above 1, which no drop can be."""
    base, lost = (
        Scorecard(evaluation="e", scores={"format": Score.of(Kind.FORMAT, samples)})
        for samples in ([1.0] * 11 + [0.0], [0.0] * 12)
    )
    assert check_scores(lost, base=base, champion=None, margins=Margins()).passed


def a_champion(version: str = "6", **card: object) -> Champion:
    return Champion(version=version, digest=a_digest(version), scorecard=a_card(**card))  # type: ignore[arg-type]


def gate_of(card: Scorecard, champion: Champion | None = None) -> Gate:
    return decide(card, base=a_card(), champion=champion, margins=MARGINS)


def forged(gate: Gate) -> Gate:
    """Somebody wrote that it passed."""
    return dataclasses.replace(gate, result=dataclasses.replace(gate.result, passed=True))


def test_a_gate_still_holds_where_nothing_changed() -> None:
    gate = gate_of(a_card(), a_champion())
    assert check_again(a_card(), gate, serving=a_champion()) == ()
    assert check_again(a_card(), gate_of(a_card()), serving=None) == ()


def test_what_failed_is_not_asked_again() -> None:
    gate = gate_of(a_card(loss=9))
    assert check_again(a_card(), gate, serving=None) == gate.result.reasons


def test_a_forged_answer_is_found_out_by_the_scores() -> None:
    worse = a_card(loss=9)
    [said] = check_again(worse, forged(gate_of(worse)), serving=None)
    assert said.startswith("its gate says passed, but its scores do not: perplexity is")


def test_scores_worse_than_the_champion_of_then_are_found_out_too() -> None:
    gate = forged(gate_of(a_card(), a_champion(loss=1)))
    [said] = check_again(a_card(), gate, serving=None)
    assert "times the champion's" in said


def test_another_champion_than_the_gate_knew_is_compared_with_by_its_own_scores() -> None:
    gate = gate_of(a_card(), a_champion("6"))
    assert check_again(a_card(), gate, serving=a_champion("7")) == ()
    [said] = check_again(a_card(), gate, serving=a_champion("7", loss=1))
    assert said.startswith("it was compared with v6, but v7 serves now: perplexity is")


def test_a_champion_that_came_after_a_gate_without_one_is_compared_with() -> None:
    [said] = check_again(a_card(), gate_of(a_card()), serving=a_champion(loss=1))
    assert said.startswith("it was compared with no champion, but v6 serves now: perplexity is")


def test_another_champion_of_other_texts_asks_for_a_new_evaluation() -> None:
    gate = gate_of(a_card(), a_champion("6"))
    [said] = check_again(a_card(), gate, serving=a_champion("7", evaluation="old"))
    assert "v7 serves now, which was measured on other texts or tasks" in said
    assert "evaluate this version again" in said


def test_the_champion_of_the_gate_counts_by_the_scores_that_the_gate_took() -> None:
    """It was measured anew on the candidate's texts, while its own tag is of the old ones."""
    gate = gate_of(a_card(), a_champion("6"))
    assert check_again(a_card(), gate, serving=a_champion("6", evaluation="old")) == ()


@given(st.floats(0, 10), st.booleans())
def test_a_gate_is_read_back_as_it_was_written(loss, has_champion) -> None:
    gate = gate_of(a_card(loss=loss), a_champion(loss=1) if has_champion else None)
    assert Gate.from_document(json.loads(gate.to_json())) == gate


def test_a_gate_on_what_is_no_number_can_be_written_and_fails_when_read() -> None:
    nan = Scorecard(
        evaluation="e",
        scores={**a_card().scores, "perplexity": Score.of(Kind.PERPLEXITY, [float("nan")] * 10)},
    )
    gate = Gate.from_document(json.loads(forged(gate_of(nan)).to_json()))
    read = Scorecard.from_document(json.loads(nan.to_json()))
    assert "perplexity is nan" in check_again(read, gate, serving=None)[0]


@pytest.mark.parametrize("lost", ["margins", "base", "champion", "numbers"])
def test_a_bare_answer_is_no_gate(lost) -> None:
    document = gate_of(a_card()).to_document()
    del document[lost]
    with pytest.raises(IntegrityError, match="does not say what it rests on"):
        Gate.from_document(document)


@pytest.mark.parametrize("value", [-5, 10**400, 1e400])
@pytest.mark.parametrize("field", ["value", "stderr", "n"])
@pytest.mark.parametrize("tag", [SCORECARD_TAG, GATE_TAG])
def test_impossible_numbers_in_a_tag_are_a_refusal_and_no_crash(value, field, tag) -> None:
    score = {"kind": "perplexity", "value": 5, "stderr": 0.1, "n": 50, "samples": []}
    cards = {
        which: {"schema": 1, "evaluation": "e", "scores": {"perplexity": dict(score)}}
        for which in (SCORECARD_TAG, GATE_TAG)
    }
    gate = {
        "passed": True, "reasons": [], "numbers": {}, "margins": dataclasses.asdict(Margins()),
        "base": cards[GATE_TAG], "champion": None,
    }  # fmt: skip
    tags = {DIGEST_TAG: "sha256:" + "0" * 64}

    def answer() -> Release | Refused:
        told = {GATE_TAG: json.dumps(gate), SCORECARD_TAG: json.dumps(cards[SCORECARD_TAG])}
        source = "s3://shipway/models/1"
        return check_gate(ModelVersion(model="m", version="1", source=source, tags=tags | told))

    assert isinstance(answer(), Release)
    cards[tag]["scores"]["perplexity"][field] = value
    assert isinstance(answer(), Refused) or (field == "n" and value > 50)


def test_a_score_that_is_not_what_its_samples_add_up_to_is_refused() -> None:
    card = Scorecard(evaluation="e", scores={"p": Score.of(Kind.PERPLEXITY, [1.0, 1.1] * 10)})
    document = card.to_document()
    assert Scorecard.from_document(document) == card
    document["scores"]["p"]["value"] = 2
    with pytest.raises(IntegrityError, match="add up"):
        Scorecard.from_document(document)
