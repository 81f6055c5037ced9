"""Which engine can serve what, and that a library wrote what it was asked for."""

import re

import pytest

from pipelines.quantize.recipes import Method, parse_recipe
from pipelines.quantize.served_by import (
    SERVED_BY,
    WeightFormat,
    check_format,
    check_served,
    engines_of,
    format_by,
    format_facts,
    format_of,
)
from registry.engines import ServingEngine
from registry.errors import RecipeInvalid, SourceInvalid, StageFailed
from tests.repo.reference import ROOT

CONFIGS = {
    WeightFormat.PLAIN: {},
    WeightFormat.GPTQ: {"quant_method": "gptq", "bits": 4, "group_size": 64},
    WeightFormat.GPTQ_V2: {"quant_method": "gptq", "checkpoint_format": "gptq_v2", "bits": 4},
    WeightFormat.INT8: {"quant_method": "torchao"},
    WeightFormat.NF4: {"quant_method": "bitsandbytes", "bnb_4bit_quant_type": "nf4"},
}


def a_config(written: WeightFormat, **changes) -> dict:
    quantized = {**CONFIGS[written], **changes}
    return {"model_type": "llama", **({"quantization_config": quantized} if quantized else {})}


def a_recipe(text: str):
    return parse_recipe(text, where="r.yaml")


@pytest.mark.parametrize("written", WeightFormat)
def test_a_checkpoint_s_own_configuration_says_how_it_is_written_and_who_serves_it(written) -> None:
    config = a_config(written)
    assert format_of(config) is written
    assert engines_of(config) == SERVED_BY[written]
    assert format_facts(config) == {
        "shipway.checkpoint_format": written,
        "shipway.engines": ",".join(sorted(SERVED_BY[written])),
    }


@pytest.mark.parametrize(
    "quantized", [{"quant_method": "awq"}, {"quant_method": "gptq", "format": "marlin"}, {}, "x"]
)
def test_of_a_format_that_nobody_knows_nothing_is_claimed(quantized) -> None:
    assert format_facts({"quantization_config": quantized}) == {}


def test_vllm_is_not_promised_odd_numbers_of_bits() -> None:
    assert ServingEngine.VLLM not in (engines_of(a_config(WeightFormat.GPTQ, bits=3)) or ())


@pytest.mark.parametrize(
    ("recipe", "engine"),
    [
        ("method: nf4", "vllm"),
        ("method: nf4", "triton-python"),
        ("method: int8", "vllm"),
        ("method: gptq", "triton-python"),
        ("{method: gptq, checkpoint_format: gptq_v2}", "vllm"),
        ("{method: gptq, bits: 3}", "vllm"),
    ],
)
def test_a_recipe_that_the_engine_cannot_serve_is_refused_with_those_that_can(
    recipe, engine
) -> None:
    with pytest.raises(RecipeInvalid, match=f"which {engine} cannot serve: .*transformers.* can"):
        check_served(a_recipe(recipe), ServingEngine(engine))


@pytest.mark.parametrize("engine", ServingEngine)
def test_a_source_taken_as_it_is_is_judged_by_itself_not_by_the_recipe(engine) -> None:
    check_served(a_recipe("method: none"), engine)


@pytest.mark.parametrize("method", [method for method in Method if method is not Method.NONE])
def test_transformers_serves_whatever_a_recipe_makes(method) -> None:
    check_served(a_recipe(f"method: {method}"), ServingEngine.TRANSFORMERS)


def test_what_the_recipe_asks_for_passes() -> None:
    check_format(a_recipe("method: gptq"), a_config(WeightFormat.GPTQ), where="m")
    check_format(a_recipe("method: nf4"), a_config(WeightFormat.NF4), where="m")
    check_format(a_recipe("method: none"), a_config(WeightFormat.GPTQ), where="m")


@pytest.mark.parametrize(
    ("recipe", "config", "says"),
    [
        ("method: gptq", a_config(WeightFormat.GPTQ_V2, group_size=64), "gptq_v2, not gptq"),
        ("method: gptq", a_config(WeightFormat.GPTQ, group_size=32), "group_size is 32, not 64"),
        ("method: gptq", a_config(WeightFormat.GPTQ, bits=8), "bits is 8, not 4"),
        ("method: int8", a_config(WeightFormat.PLAIN), "plain, not torchao-int8"),
    ],
)
def test_a_library_that_wrote_something_else_is_found_out(recipe, config, says) -> None:
    with pytest.raises(StageFailed, match=says):
        check_format(a_recipe(recipe), config, where="m")


def test_gptq_v2_is_let_in_only_where_the_recipe_allows_it() -> None:
    config = a_config(WeightFormat.GPTQ_V2)
    with pytest.raises(SourceInvalid, match="checkpoint_format: gptq_v2"):
        check_format(a_recipe("method: none"), config, where="m")
    check_format(a_recipe("{method: none, checkpoint_format: gptq_v2}"), config, where="m")


def test_the_page_shows_the_table_of_the_code() -> None:
    page = (ROOT / "docs" / "quantization.md").read_text().split("## Who can serve what")[1]
    rows = dict(re.findall(r"^\| `([a-z0-9_-]+)` \|.*\| ([^|]+) \|$", page, flags=re.MULTILINE))
    shown = {name: {e.strip(" `") for e in able.split(",")} for name, able in rows.items()}
    assert shown == {str(written): set(able) for written, able in SERVED_BY.items()}


def test_every_method_is_on_the_page() -> None:
    page = (ROOT / "docs" / "quantization.md").read_text()
    recipes = [f"method: {method}" for method in Method]
    assert [r for r in recipes if f"`{r.partition(': ')[2]}`" not in page] == []
    assert {format_by(a_recipe(r)) for r in recipes} <= {None, *WeightFormat}
