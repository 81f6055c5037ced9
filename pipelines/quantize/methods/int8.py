"""int8, weights only, by torchao: one scale for each output row, no calibration."""

from pathlib import Path
from typing import Any


def quantize(base: Path, out: Path) -> None:
    """Writes the quantized checkpoint into `out`. It is quantized on the CPU, which takes seconds."""
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import AutoModelForCausalLM, TorchAoConfig

    model: Any = AutoModelForCausalLM.from_pretrained(
        base,
        dtype="auto",
        local_files_only=True,
        use_safetensors=True,
        quantization_config=TorchAoConfig(Int8WeightOnlyConfig()),
    )
    model.save_pretrained(out)
