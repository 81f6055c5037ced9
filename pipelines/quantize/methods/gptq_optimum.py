"""GPTQ by Optimum, the second library for the same format."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.loading import has_gpu, load_model
from pipelines.quantize.recipes import GptqRecipe


def quantize(
    base: Path,
    out: Path,
    *,
    recipe: GptqRecipe,
    windows: Sequence[dict[str, list[list[int]]]],
) -> None:
    """Writes the quantized checkpoint into `out`, in the common format `gptq`.

    While saving Optimum turns its own `gptq_v2` into that, but leaves the old name in config.json, by which every zero
    point would be read off by one.
    """
    from optimum import gptq

    make: Any = gptq.GPTQQuantizer
    model = load_model(base, dtype="auto", device_map="cuda:0" if has_gpu() else "cpu")
    quantizer = make(
        bits=recipe.bits,
        group_size=recipe.group_size,
        dataset=list(windows),
        model_seqlen=recipe.sequence_length,
    )
    quantized = quantizer.quantize_model(model)
    told: dict[str, Any] = quantizer.to_dict()
    named = {"format": recipe.checkpoint_format, "checkpoint_format": recipe.checkpoint_format}
    quantized.config.quantization_config = {**told, **named}
    quantizer.save(quantized, str(out))
