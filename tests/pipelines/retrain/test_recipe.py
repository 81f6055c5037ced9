"""An adapter's recipe: what it may say, and how many steps follow."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.retrain.recipe import AdapterRecipe, check_targets, parse_adapter
from registry.errors import RecipeInvalid

RECIPES = Path(__file__).parents[3] / "recipes" / "adapters"


@pytest.mark.parametrize("file", sorted(RECIPES.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_adapter_recipe_of_the_project_can_be_read(file) -> None:
    recipe = parse_adapter(file.read_text(), where=str(file))
    assert file.stem.startswith(recipe.method)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "a.yaml cannot be used"),
        ("{", "a.yaml is not YAML"),
        ("rank: 8", "method"),
        ("{method: dora}", "method"),
        ("{method: lora, rank: 0}", "rank"),
        ("{method: lora, dropout: 1}", "dropout"),
        ("{method: lora, targets: []}", "targets"),
        ("{method: lora, targets: ['../x']}", "targets"),
        ("{method: lora, learning_rate: 0}", "learning_rate"),
        ("{method: lora, learning_rate: .nan}", "learning_rate"),
        ("{method: lora, epoch: 1}", "epoch"),
        ("{method: lora, holdout_percent: 0}", "holdout_percent"),
    ],
)
def test_an_unknown_word_or_value_is_refused_by_name(text, says) -> None:
    with pytest.raises(RecipeInvalid, match=says):
        parse_adapter(text, where="a.yaml")


def test_a_target_that_the_model_lacks_is_refused_with_those_it_has() -> None:
    recipe = AdapterRecipe(method="lora", targets=("q_proj", "c_attn"))
    with pytest.raises(
        RecipeInvalid, match=r"c_attn are no linear layers of here, which has k_proj, q_proj"
    ):
        check_targets(recipe, ["model.layers.0.q_proj", "model.layers.0.k_proj"], where="here")


@given(st.integers(1, 500), st.integers(1, 40), st.integers(1, 4), st.integers(1, 50) | st.none())
def test_the_steps_are_those_that_the_batches_make(examples, batch, epochs, most) -> None:
    from pipelines.retrain.lora import batches

    recipe = AdapterRecipe(method="lora", batch=batch, epochs=epochs, max_steps=most)
    made = list(batches(examples, recipe))
    assert len(made) == recipe.steps(examples)
    if most is None:
        seen = [at for one in made for at in one]
        assert sorted(seen) == sorted(list(range(examples)) * epochs)


@given(st.integers(1, 300))
def test_the_learning_rate_rises_and_falls_between_zero_and_the_recipes(total) -> None:
    from pipelines.retrain.lora import learning_rate

    recipe = AdapterRecipe(method="lora")
    rates = [learning_rate(step, total, recipe) for step in range(total)]
    top = rates.index(max(rates))
    assert all(0 < rate <= recipe.learning_rate for rate in rates)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
