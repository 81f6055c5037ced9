"""A GGUF file becomes a plain bf16 checkpoint: its blocks are expanded, tokenizer and chat template come along."""

import struct
from pathlib import Path

from pipelines.loading import load_model, load_tokenizer
from registry.errors import SourceInvalid


def convert_gguf(file: Path, into: Path) -> None:
    """Writes the checkpoint that `file` holds into the folder `into`.

    Memory: the weights once in float32. The bytes written depend on the file and the libraries alone.

    Raises:
        SourceInvalid: it is no GGUF file, is cut short, or its architecture is not known.
    """
    import torch
    from transformers import GgufConfig

    try:
        tokenizer = load_tokenizer(file.parent, gguf_file=file.name)
        model = load_model(
            file.parent,
            gguf_file=file.name,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
        )
    except (
        OSError,
        ValueError,
        LookupError,
        NotImplementedError,
        OverflowError,
        struct.error,
    ) as error:
        message = (
            f"{file.name} cannot be read as a GGUF model ({type(error).__name__}: {error}). "
            "Copy or download it again; if it is whole, its architecture is not supported."
        )
        raise SourceInvalid(message) from error
    model.to(torch.bfloat16).save_pretrained(into)
    tokenizer.save_pretrained(into)


def read_gguf_facts(file: Path) -> dict[str, str]:
    """What the header of a readable GGUF file states of `licence` and `base_model`."""
    from gguf import GGUFReader

    fields = GGUFReader(file).fields
    told = {"licence": "general.license", "base_model": "general.name"}
    return {
        name: str(fields[key].contents())
        for name, key in told.items()
        if fields.get(key) is not None
    }
