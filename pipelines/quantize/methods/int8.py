"""int8, weights only, by torchao: one scale for each output row, no calibration."""

from pathlib import Path

from pipelines.loading import load_model


def quantize(base: Path, out: Path) -> None:
    """Writes the quantized checkpoint into `out`. It is quantized on the CPU, which takes seconds."""
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    config = TorchAoConfig(Int8WeightOnlyConfig())
    model = load_model(base, dtype="auto", quantization_config=config)
    model.save_pretrained(out)
