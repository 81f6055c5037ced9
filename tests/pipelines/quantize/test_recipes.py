"""Recipes: what they may say, and which models they fit."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.quantize.recipes import (
    GptqRecipe,
    Int8Recipe,
    Method,
    Nf4Recipe,
    NoRecipe,
    check_fits,
    parse_recipe,
    pin_calibration,
)
from registry.errors import RecipeInvalid

ONE, OTHER = ("sha256:" + letter * 64 for letter in "ab")

RECIPES = Path(__file__).parents[3] / "recipes"


@pytest.mark.parametrize("file", sorted(RECIPES.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_recipe_of_the_project_can_be_read(file) -> None:
    recipe = parse_recipe(file.read_text(), where=str(file))
    assert file.stem.startswith(recipe.method.value.partition("-")[0])


@pytest.mark.parametrize(
    ("text", "recipe"),
    [
        ("method: gptq", GptqRecipe(method=Method.GPTQ)),
        ("{method: gptq-optimum, bits: 8}", GptqRecipe(method=Method.GPTQ_OPTIMUM, bits=8)),
        ("method: int8", Int8Recipe(method=Method.INT8)),
        ("method: nf4", Nf4Recipe(method=Method.NF4)),
        ("method: none", NoRecipe(method=Method.NONE)),
    ],
)
def test_what_is_not_said_has_a_sensible_value(text, recipe) -> None:
    assert parse_recipe(text, where="r.yaml") == recipe


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "r.yaml cannot be used"),
        ("- method: gptq", "r.yaml cannot be used"),
        ("{", "r.yaml is not YAML"),
        ("bits: 4", "method"),
        ("method: awq", "awq"),
        ("{method: gptq, bits: 5}", "bits"),
        ("{method: gptq, group_size: 100}", "group_size"),
        ("{method: gptq, group_size: -1}", "group_size"),
        ("{method: gptq, samples: 0}", "samples"),
        ("{method: gptq, sequence_lenght: 512}", "sequence_lenght"),
        ("{method: int8, bits: 8}", "bits"),
        ("{method: nf4, group_size: 64}", "group_size"),
        ("{method: gptq, calibration: sha256:12}", "calibration"),
        ("{method: gptq, checkpoint_format: marlin}", "checkpoint_format"),
        ("{method: gptq-optimum, checkpoint_format: gptq_v2}", "optimum writes"),
    ],
)
def test_an_unknown_word_or_value_is_refused_by_name(text, says) -> None:
    with pytest.raises(RecipeInvalid, match=says):
        parse_recipe(text, where="r.yaml")


def test_a_group_that_does_not_divide_is_refused_with_those_that_do() -> None:
    recipe = GptqRecipe(method=Method.GPTQ, group_size=128)
    with pytest.raises(RecipeInvalid) as refused:
        check_fits(recipe, {"a": 576, "b": 1536}, where="smollm2")
    assert "input width 576 of a in smollm2 (1 of 2 layers)" in str(refused.value)
    assert "Use group_size 16 or 32 or 64." in str(refused.value)


def test_where_no_group_fits_another_method_is_named() -> None:
    with pytest.raises(RecipeInvalid, match="Use method int8"):
        check_fits(GptqRecipe(method=Method.GPTQ), {"a": 90}, where="odd")


def test_a_model_without_linear_layers_is_refused() -> None:
    with pytest.raises(RecipeInvalid, match="no linear layers"):
        check_fits(GptqRecipe(method=Method.GPTQ), {}, where="odd")


@pytest.mark.parametrize(
    "recipe",
    [
        Int8Recipe(method=Method.INT8),
        Nf4Recipe(method=Method.NF4),
        NoRecipe(method=Method.NONE),
    ],
)
def test_what_needs_no_groups_fits_everything(recipe) -> None:
    check_fits(recipe, {"a": 7}, where="odd")


@given(
    st.sampled_from([16, 32, 64, 128, 256]),
    st.dictionaries(st.text(min_size=1), st.integers(1, 8192), min_size=1, max_size=5),
)
def test_a_recipe_fits_exactly_when_its_groups_divide_every_width(size, widths) -> None:
    divides = all(width % size == 0 for width in widths.values())
    try:
        check_fits(GptqRecipe(method=Method.GPTQ, group_size=size), widths, where="m")
    except RecipeInvalid:
        assert not divides
    else:
        assert divides


def test_the_calibration_texts_that_were_used_are_named_in_the_recipe_whether_it_asked_or_not() -> (
    None
):
    asked = GptqRecipe(method=Method.GPTQ, calibration=ONE)
    assert pin_calibration(GptqRecipe(method=Method.GPTQ), ONE) == asked
    assert pin_calibration(asked, ONE) == asked


def test_other_calibration_texts_than_the_recipe_names_are_refused() -> None:
    with pytest.raises(RecipeInvalid, match=f"{ONE}, but those at hand have {OTHER}"):
        pin_calibration(GptqRecipe(method=Method.GPTQ, calibration=ONE), OTHER)


def test_a_recipe_that_needs_no_calibration_names_none() -> None:
    recipe = Int8Recipe(method=Method.INT8)
    assert pin_calibration(recipe, ONE) == recipe
