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
    """Writes the quantized checkpoint into `out`, in the common format `gptq` (not Optimum's own `gptq_v2`)."""
    from optimum import gptq

    make: Any = gptq.GPTQQuantizer
    model = load_model(base, dtype="auto", device_map="cuda:0" if has_gpu() else "cpu")
    quantizer = make(
        bits=recipe.bits,
        group_size=recipe.group_size,
        dataset=list(windows),
        model_seqlen=recipe.sequence_length,
    )
    quantizer.save(quantizer.quantize_model(model), str(out))
