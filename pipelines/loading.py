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


def has_gpu() -> bool:
    """Whether models run on a GPU here."""
    import torch

    return torch.cuda.is_available()
