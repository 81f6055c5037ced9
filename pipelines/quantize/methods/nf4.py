"""NF4 by bitsandbytes: on a GPU where there is one, else on the CPU; no calibration."""

from pathlib import Path

from pipelines.loading import has_gpu, load_model


def quantize(base: Path, out: Path) -> None:
    """Writes the quantized checkpoint into `out`; takes seconds. Activations are multiplied in bf16."""
    import torch
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )
    device = "cuda:0" if has_gpu() else "cpu"
    model = load_model(base, dtype="auto", device_map=device, quantization_config=config)
    model.save_pretrained(out)
