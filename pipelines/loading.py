"""Load a model or a tokenizer from a local folder: never from the network, never from a pickle, never with its code."""

from pathlib import Path
from typing import Any


def load_tokenizer(folder: Path, **options: Any) -> Any:
    """The tokenizer of the checkpoint in `folder`; `options` are those of `from_pretrained`."""
    import transformers

    tokenizers: Any = transformers.AutoTokenizer
    return tokenizers.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False, **options
    )


def load_model(folder: Path, **options: Any) -> Any:
    """The causal language model of the checkpoint in `folder`; `options` are those of `from_pretrained`."""
    import transformers

    models: Any = transformers.AutoModelForCausalLM
    return models.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False, use_safetensors=True, **options
    )


_GPU_DEVICES = ("nvidia[0-9]*", "kfd", "dxg", "nvhost-gpu", "nvgpu")
"""What a kernel that drives a GPU shows below /dev: NVIDIA, AMD, Windows' subsystem for Linux, NVIDIA's own boards."""


def has_gpu() -> bool:
    """Whether models run on a GPU here. Without a device, torch is not asked: importing it takes seconds."""
    if not any(found for name in _GPU_DEVICES for found in Path("/dev").glob(name)):
        return False
    import torch

    return torch.cuda.is_available()
