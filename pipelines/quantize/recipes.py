"""What is asked of quantization: a recipe file, and whether it can work for a given model. Pure.

The seed picks the calibration windows; with the same model, texts and libraries, a recipe gives the same bytes.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from pipelines.declared import parse_declared
from registry.errors import RecipeInvalid

_GROUP_SIZES = (16, 32, 64, 128, 256)
"""What the kernels of gptqmodel and vLLM know."""


class Method(StrEnum):
    """Which library quantizes, and how."""

    GPTQ = "gptq"
    """gptqmodel's GPTQ, the default: 4 bits with calibration."""
    GPTQ_OPTIMUM = "gptq-optimum"
    """Optimum's GPTQ: the same format by the other library."""
    INT8 = "int8"
    """torchao's int8, weights only, no calibration."""
    NF4 = "nf4"
    """bitsandbytes' 4-bit NormalFloat, no calibration."""
    NONE = "none"
    """The checkpoint as it is."""


CheckpointFormat = Literal["gptq", "gptq_v2"]


class _Recipe(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GptqRecipe(_Recipe):
    """GPTQ by one of two libraries."""

    method: Literal[Method.GPTQ, Method.GPTQ_OPTIMUM]
    bits: Literal[2, 3, 4, 8] = 4
    group_size: Literal[16, 32, 64, 128, 256] = 64
    """This many input weights share one scale; must divide each layer's input width."""
    samples: Annotated[int, Field(ge=1, le=1024)] = 8
    """How many windows of the calibration texts are used."""
    sequence_length: Annotated[int, Field(ge=16, le=32768)] = 512
    """Tokens in a window."""
    seed: Annotated[int, Field(ge=0)] = 0
    calibration: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")] | None = None
    """The digest that the file of calibration texts must have. What was used is recorded, asked for or not."""
    checkpoint_format: CheckpointFormat = "gptq"
    """How the weights are written; auto-gptq and vLLM read `gptq` alone."""

    @model_validator(mode="after")
    def _is_written_by_its_library(self) -> Self:
        if self.method is Method.GPTQ_OPTIMUM and self.checkpoint_format != "gptq":
            message = "optimum writes checkpoint_format gptq alone; use method gptq for gptq_v2"
            raise ValueError(message)
        return self

    def __str__(self) -> str:
        return (
            f"{self.method}, {self.bits} bits, groups of {self.group_size}, "
            f"{self.samples} x {self.sequence_length} tokens"
        )


class Int8Recipe(_Recipe):
    """int8, weights only."""

    method: Literal[Method.INT8]

    def __str__(self) -> str:
        return "int8, weights only"


class Nf4Recipe(_Recipe):
    """NF4: blocks of 64 weights share one scale. See https://arxiv.org/abs/2305.14314."""

    method: Literal[Method.NF4]

    def __str__(self) -> str:
        return "NF4, weights only"


class NoRecipe(_Recipe):
    """No quantization."""

    method: Literal[Method.NONE]
    checkpoint_format: CheckpointFormat = "gptq"
    """Which of GPTQ's formats a source that is quantized already may have."""

    def __str__(self) -> str:
        return "as it is"


Recipe = GptqRecipe | Int8Recipe | Nf4Recipe | NoRecipe
_PARSER: TypeAdapter[Recipe] = TypeAdapter(Annotated[Recipe, Field(discriminator="method")])


def parse_recipe(text: str, *, where: str) -> Recipe:
    """The recipe that the YAML `text` spells; `where` is what the user calls it.

    Raises:
        RecipeInvalid: it is no YAML, or has an unknown word, a missing or an impossible value.
    """
    return parse_declared(
        text,
        _PARSER.validate_python,
        what=f"The recipe {where}",
        see="recipes/ for examples",
        refused=RecipeInvalid,
    )


def pin_calibration(recipe: Recipe, found: str) -> Recipe:
    """The recipe that names `found`, the digest of the calibration texts at hand, where it uses any.

    Raises:
        RecipeInvalid: it asks for others.
    """
    if not isinstance(recipe, GptqRecipe):
        return recipe
    if recipe.calibration not in {None, found}:
        message = (
            f"The recipe asks for calibration texts with the digest {recipe.calibration}, but those at hand have {found}. "
            "Give the data folder that it was written for, or name this digest in the recipe."
        )
        raise RecipeInvalid(message)
    return recipe.model_copy(update={"calibration": found})


def check_fits(recipe: Recipe, in_features: Mapping[str, int], *, where: str) -> None:
    """Refuses a recipe whose groups do not divide the input width of each layer that would be quantized.

    `in_features` is input width by layer name.

    Raises:
        RecipeInvalid: they do not, or there is no layer at all.
    """
    if not isinstance(recipe, GptqRecipe):
        return
    if not in_features:
        message = (
            f"{where} has no linear layers that GPTQ could quantize. Use method int8, nf4 or none."
        )
        raise RecipeInvalid(message)
    unfit = {name: width for name, width in in_features.items() if width % recipe.group_size}
    if not unfit:
        return
    name, width = min(unfit.items())
    fitting = [s for s in _GROUP_SIZES if all(w % s == 0 for w in in_features.values())]
    advice = (
        f"Use group_size {' or '.join(map(str, fitting))}"
        if fitting
        else "Use method int8 or nf4, which need no groups"
    )
    message = (
        f"group_size {recipe.group_size} does not divide the input width {width} of {name} in {where} "
        f"({len(unfit)} of {len(in_features)} layers). {advice}."
    )
    raise RecipeInvalid(message)
