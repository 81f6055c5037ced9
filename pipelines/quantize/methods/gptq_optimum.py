"""GPTQ by Optimum, the second library for the same format."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.quantize.recipes import GptqRecipe


def quantize(
    base: Path,
    out: Path,
    *,
    recipe: GptqRecipe,
    windows: Sequence[dict[str, list[list[int]]]],
) -> None:
    """Writes the quantized checkpoint into `out`, in the common format `gptq` (not Optimum's own `gptq_v2`)."""
    import torch
    from optimum.gptq import GPTQQuantizer
    from transformers import AutoModelForCausalLM

    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    model: Any = AutoModelForCausalLM.from_pretrained(
        base, dtype="auto", local_files_only=True, use_safetensors=True, device_map=device
    )
    quantizer: Any = GPTQQuantizer(
        bits=recipe.bits,
        group_size=recipe.group_size,
        dataset=list(windows),
        model_seqlen=recipe.sequence_length,
    )
    quantizer.save(quantizer.quantize_model(model), str(out))
