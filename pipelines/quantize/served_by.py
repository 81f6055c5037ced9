"""How weights are written, and which engine can serve them so. Pure; docs/quantization.md shows the table.

What stands in the table was seen serving; the exception is vLLM with 8 bits, which its documentation promises. What does
not stand in it is refused before it is deployed.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, cast

from pipelines.quantize.recipes import GptqRecipe, Int8Recipe, Nf4Recipe, NoRecipe, Recipe
from registry.engines import ENGINES_TAG, FORMAT_TAG, ServingEngine, render_engines
from registry.errors import RecipeInvalid, SourceInvalid, StageFailed

_GPTQ_BITS_OF_VLLM = (4, 8)


class WeightFormat(StrEnum):
    """How the weights of a checkpoint are written."""

    PLAIN = "plain"
    GPTQ = "gptq"
    """GPTQ's first format, which every reader knows, auto-gptq too."""
    GPTQ_V2 = "gptq_v2"
    """gptqmodel's own, whose zero points are not off by one."""
    INT8 = "torchao-int8"
    NF4 = "bitsandbytes-nf4"


_ALL = frozenset(ServingEngine)
SERVED_BY: Mapping[WeightFormat, frozenset[ServingEngine]] = {
    WeightFormat.PLAIN: _ALL,
    WeightFormat.GPTQ: frozenset({ServingEngine.TRANSFORMERS, ServingEngine.VLLM}),
    WeightFormat.GPTQ_V2: frozenset({ServingEngine.TRANSFORMERS}),
    WeightFormat.INT8: frozenset({ServingEngine.TRANSFORMERS, ServingEngine.TRITON_PYTHON}),
    WeightFormat.NF4: frozenset({ServingEngine.TRANSFORMERS}),
}
"""vLLM wants bitsandbytes beside it for NF4, which its images do not bring."""


def format_of(config: Mapping[str, Any]) -> WeightFormat | None:
    """How the weights are written, going by a parsed config.json; None for a way that no recipe of ours writes."""
    quantized: Any = config.get("quantization_config")
    if quantized is None:
        return WeightFormat.PLAIN
    told = cast("Mapping[str, Any]", quantized if isinstance(quantized, dict) else {})
    method = told.get("quant_method")
    if method == "gptq":
        written = told.get("checkpoint_format", told.get("format", "gptq"))
        return {"gptq": WeightFormat.GPTQ, "gptq_v2": WeightFormat.GPTQ_V2}.get(str(written))
    if method == "torchao":
        return WeightFormat.INT8
    if method == "bitsandbytes" and told.get("bnb_4bit_quant_type") == "nf4":
        return WeightFormat.NF4
    return None


def engines_of(config: Mapping[str, Any]) -> frozenset[ServingEngine] | None:
    """Who can serve a checkpoint with this config.json; None where that is not known."""
    written = format_of(config)
    if written is None:
        return None
    quantized: Mapping[str, Any] = config.get("quantization_config") or {}
    return _engines(written, quantized.get("bits"))


def format_by(recipe: Recipe) -> WeightFormat | None:
    """How the recipe's weights will be written; None where the source alone says."""
    match recipe:
        case GptqRecipe():
            return WeightFormat(recipe.checkpoint_format)
        case Int8Recipe():
            return WeightFormat.INT8
        case Nf4Recipe():
            return WeightFormat.NF4
        case NoRecipe():
            return None


def format_facts(config: Mapping[str, Any]) -> dict[str, str]:
    """The tags that say how a checkpoint is written and who can serve it; none of what is not known."""
    written, able = format_of(config), engines_of(config)
    if written is None or able is None:
        return {}
    return {FORMAT_TAG: written, ENGINES_TAG: render_engines(able)}


def check_format(recipe: Recipe, config: Mapping[str, Any], *, where: str) -> None:
    """Refuses a checkpoint that is not written as the recipe says, going by its config.json.

    Raises:
        StageFailed: a library wrote something else than it was asked for.
        SourceInvalid: a source that is taken as it is has a format that the recipe does not allow.
    """
    written, asked = format_of(config), format_by(recipe)
    if asked is None:
        allowed = recipe.checkpoint_format if isinstance(recipe, NoRecipe) else None
        if written is WeightFormat.GPTQ_V2 and allowed != written:
            message = (
                f"{where} is written as gptq_v2, which auto-gptq and vLLM cannot read. Take a checkpoint of format gptq, "
                "or allow it in the recipe: `checkpoint_format: gptq_v2`."
            )
            raise SourceInvalid(message)
        return
    quantized: Mapping[str, Any] = config.get("quantization_config") or {}
    differing = [f"written as {written}, not {asked}"] if written is not asked else []
    if isinstance(recipe, GptqRecipe):
        differing += [
            f"{name} is {quantized.get(name)}, not {value}"
            for name, value in (("bits", recipe.bits), ("group_size", recipe.group_size))
            if quantized.get(name) != value
        ]
    if differing:
        message = (
            f"{recipe.method} did not write what the recipe asks for: {'; '.join(differing)}. "
            "Nothing was handed on; this is a fault of the library's version, see constraints.txt."
        )
        raise StageFailed(message)


def check_served(recipe: Recipe, engine: ServingEngine) -> None:
    """Refuses a recipe whose result `engine` cannot serve.

    Raises:
        RecipeInvalid: it cannot.
    """
    written = format_by(recipe)
    if written is None:
        return
    able = _engines(written, recipe.bits if isinstance(recipe, GptqRecipe) else None)
    if engine not in able:
        message = (
            f"Weights made by the recipe `{recipe}` are written as {written}, which {engine} cannot serve: "
            f"{' or '.join(sorted(able))} can. Use another recipe (docs/quantization.md has the table), or another engine."
        )
        raise RecipeInvalid(message)


def _engines(written: WeightFormat, bits: object) -> frozenset[ServingEngine]:
    able = SERVED_BY[written]
    if written is WeightFormat.GPTQ and bits not in _GPTQ_BITS_OF_VLLM:
        return able - {ServingEngine.VLLM}
    return able
