"""Scores and how two models are compared."""

import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import IntegrityError
from registry.scorecard import NOISE, Kind, Score, Scorecard, compare

LOSSES = st.lists(st.floats(0, 12), min_size=2, max_size=40)
ANSWERS = st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=40)


def unpaired(score: Score) -> Score:
    return Score(kind=score.kind, value=score.value, stderr=score.stderr, n=score.n)


def test_perplexity_is_exp_of_the_mean_loss() -> None:
    score = Score.of(Kind.PERPLEXITY, [1.0, 3.0])
    assert score.value == pytest.approx(math.e**2)
    assert score.stderr == pytest.approx(math.e**2 * math.sqrt(2) / math.sqrt(2))
    assert score.n == 2


def test_accuracy_is_the_mean() -> None:
    score = Score.of(Kind.ACCURACY, [0, 1, 1, 1])
    assert score.value == 0.75
    assert score.stderr == pytest.approx(0.25)


@pytest.mark.parametrize(("samples", "value"), [([], math.nan), ([0.5], 0.5)])
def test_with_fewer_than_two_samples_nothing_is_certain(samples, value) -> None:
    score = Score.of(Kind.ACCURACY, samples)
    assert score.value == pytest.approx(value, nan_ok=True)
    assert score.stderr == math.inf


def test_too_many_samples_are_summed_up_and_compared_unpaired() -> None:
    score = Score.of(Kind.ACCURACY, [0, 1] * 1001)
    assert (score.n, score.value, score.samples) == (2002, 0.5, ())
    assert not compare(score, score).is_paired


@pytest.mark.parametrize("kind", list(Kind))
@given(data=st.data())
def test_a_model_is_not_worse_than_itself(kind, data) -> None:
    samples = data.draw(LOSSES if kind is Kind.PERPLEXITY else ANSWERS)
    loss = compare(Score.of(kind, samples), Score.of(kind, samples))
    neutral = 1.0 if kind is Kind.PERPLEXITY else 0.0
    assert (loss.value, loss.upper, loss.is_paired) == (neutral, neutral, True)


@given(LOSSES, st.floats(0, 3))
def test_a_loss_that_is_the_same_everywhere_has_no_noise_when_paired(samples, more) -> None:
    score = Score.of(Kind.PERPLEXITY, [sample + more for sample in samples])
    loss = compare(score, Score.of(Kind.PERPLEXITY, samples))
    assert loss.value == pytest.approx(math.exp(more), rel=1e-5)
    assert loss.upper == pytest.approx(loss.value, rel=1e-5)


@given(st.lists(st.tuples(st.floats(0, 9), st.floats(0, 9)), min_size=2, max_size=40))
def test_paired_or_not_the_estimate_is_the_same_and_noise_only_adds(pairs) -> None:
    score = Score.of(Kind.PERPLEXITY, [a for a, _ in pairs])
    reference = Score.of(Kind.PERPLEXITY, [b for _, b in pairs])
    paired, apart = compare(score, reference), compare(unpaired(score), unpaired(reference))
    assert (paired.is_paired, apart.is_paired) == (True, False)
    assert paired.value == pytest.approx(apart.value, rel=1e-6)
    for loss in (paired, apart):
        assert loss.upper >= loss.value


@given(ANSWERS, ANSWERS)
def test_without_common_questions_the_errors_add_up(left, right) -> None:
    score, reference = Score.of(Kind.ACCURACY, left), Score.of(Kind.ACCURACY, right)
    loss = compare(unpaired(score), unpaired(reference))
    assert loss.value == pytest.approx(reference.value - score.value)
    noise = NOISE * math.hypot(score.stderr, reference.stderr)
    assert loss.upper == pytest.approx(min(1.0, loss.value + noise))


def test_pairing_sees_a_small_loss_that_the_noise_of_the_texts_hides() -> None:
    dice = random.Random(1)
    base = [dice.gauss(3, 1) for _ in range(10)]
    worse = [sample + dice.gauss(0.1, 0.02) for sample in base]
    score, reference = Score.of(Kind.PERPLEXITY, worse), Score.of(Kind.PERPLEXITY, base)
    assert compare(score, reference).upper < 1.2
    assert compare(unpaired(score), unpaired(reference)).upper > 2


@given(st.lists(LOSSES, min_size=1, max_size=3))
def test_a_scorecard_is_read_back_as_it_was_written(measured) -> None:
    scores = {f"t{n}": Score.of(Kind.PERPLEXITY, samples) for n, samples in enumerate(measured)}
    card = Scorecard(evaluation="e", scores=scores)
    assert Scorecard.from_document(json.loads(card.to_json())) == card


def test_an_infinite_error_survives_the_way_through_json() -> None:
    card = Scorecard(evaluation="e", scores={"t": Score.of(Kind.ACCURACY, [1])})
    assert "Infinity" not in card.to_json()
    assert Scorecard.from_document(json.loads(card.to_json())) == card


@pytest.mark.parametrize(
    "document",
    [
        None,
        {},
        [],
        {"schema": 2, "evaluation": "e", "scores": {}},
        {"schema": 1, "evaluation": "e", "scores": []},
        {"schema": 1, "evaluation": "e", "scores": {"t": {}}},
        {"schema": 1, "scores": {}},
        {
            "schema": 1,
            "evaluation": "e",
            "scores": {"t": {"kind": "speed", "value": 1, "stderr": 1, "n": 1, "samples": []}},
        },
    ],
)
def test_a_broken_scorecard_is_an_integrity_error(document) -> None:
    with pytest.raises(IntegrityError, match="scorecard"):
        Scorecard.from_document(document)
