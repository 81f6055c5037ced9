"""When a retraining would make what is there already."""

import json
from dataclasses import replace

import pytest

from pipelines.retrain.made import Wanted, find_made
from registry.gate import Margins, decide
from registry.release import (
    ADAPTER_TAG,
    GATE_TAG,
    PARENT_TAG,
    RECIPE_TAG,
    SCORECARD_TAG,
    TRAINING_DATA_TAG,
    ModelVersion,
)
from tests.builders import a_digest, a_scorecard, a_version

CARD = a_scorecard()
PARENT = a_version("1")
WANTED = Wanted(
    parent=PARENT,
    is_whatever_serves=True,
    data=a_digest("data"),
    adapter="{adapter}",
    recipe="{recipe}",
    margins=Margins(),
    evaluation=CARD.evaluation,
)


def trained(version: str = "2", **changes: str) -> ModelVersion:
    """A version that is what is wanted, but for `changes` of its tags."""
    gate = decide(CARD, base=CARD, champion=None, margins=Margins())
    tags = {
        PARENT_TAG: f"models:/{PARENT.model}/1",
        TRAINING_DATA_TAG: json.dumps({"address": "here", "digest": a_digest("data")}),
        ADAPTER_TAG: "{adapter}",
        RECIPE_TAG: "{recipe}",
        GATE_TAG: gate.to_json(),
        SCORECARD_TAG: CARD.to_json(),
    }
    return replace(a_version(version), tags=tags | changes)


def test_the_same_parent_data_adapter_recipe_and_judgement_are_nothing_new() -> None:
    made = trained()
    assert find_made([a_version("3"), made, PARENT], WANTED) == made


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        (PARENT_TAG, "models:/other/1"),
        (TRAINING_DATA_TAG, json.dumps({"digest": a_digest("others")})),
        (TRAINING_DATA_TAG, "[]"),
        (TRAINING_DATA_TAG, "[" * 5000),
        (ADAPTER_TAG, "{other}"),
        (RECIPE_TAG, "{other}"),
        (GATE_TAG, "{}"),
        (SCORECARD_TAG, "{"),
    ],
)
def test_what_differs_in_one_thing_is_another(tag: str, value: str) -> None:
    assert find_made([trained(**{tag: value})], WANTED) is None


@pytest.mark.parametrize(
    "change", [{"margins": Margins(accuracy_drop=0.2)}, {"evaluation": "other texts"}]
)
def test_other_margins_or_texts_want_another_judgement(change: dict[str, object]) -> None:
    assert find_made([trained()], replace(WANTED, **change)) is None


def test_a_champion_that_learned_these_data_is_not_taught_them_again_unless_it_is_named() -> None:
    champion = trained("2")
    assert find_made([champion], replace(WANTED, parent=champion)) == champion
    named = replace(WANTED, parent=champion, is_whatever_serves=False)
    assert find_made([champion], named) is None
