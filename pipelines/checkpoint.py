"""What a model checkpoint must be to be let in: safetensors weights, no pickles, no code, a chat template.

Only headers are read here, never weights, and nothing of a checkpoint is ever executed.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from registry.errors import SourceInvalid

PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"})
"""Endings of files that run code when they are loaded."""
_BLOCK = re.compile(r"\.(layers|h|blocks|block)\.\d+\.")
_INDEX = "model.safetensors.index.json"


def check_names(names: Iterable[str], *, where: str) -> None:
    """Refuses a checkpoint by the names of its files alone.

    Raises:
        SourceInvalid: it brings pickles, code, or no safetensors weights.
    """
    listed = sorted(names)
    pickles = [name for name in listed if Path(name).suffix.lower() in PICKLES]
    if pickles:
        message = (
            f"{where} holds pickle files ({_some(pickles)}), which may run any code when they are loaded. "
            "Load the model where you trust it, write it with save_pretrained(..., safe_serialization=True), "
            "and give the folder that holds only the result."
        )
        raise SourceInvalid(message)
    code = [name for name in listed if name.endswith((".py", ".so", ".pyc"))]
    if code:
        message = (
            f"{where} brings code of its own ({_some(code)}), which is never run. "
            "Only architectures that transformers knows itself can be served; remove the code if it is not needed."
        )
        raise SourceInvalid(message)
    if not any(name.endswith(".safetensors") for name in listed):
        message = (
            f"{where} holds no *.safetensors weights (it holds: {_some(listed) or 'nothing'}). "
            "Give a checkpoint as save_pretrained writes it, or a .gguf file."
        )
        raise SourceInvalid(message)


def check_checkpoint(folder: Path, *, where: str) -> None:
    """Refuses what cannot be served safely; `where` is what the user calls the checkpoint.

    Raises:
        SourceInvalid: a pickle, code, an unreadable or missing weights file, no config, no tokenizer or chat template.
    """
    check_names((p.relative_to(folder).as_posix() for p in folder.rglob("*")), where=where)
    config = read_config(folder, where=where)
    tokenizer = _read_json(folder / "tokenizer_config.json", where) or {}
    for name, document in (("config.json", config), ("tokenizer_config.json", tokenizer)):
        if "auto_map" in document:
            message = (
                f"{name} of {where} asks for code of its own (auto_map), which is never run. "
                "Use a model that transformers knows itself."
            )
            raise SourceInvalid(message)
    _check_weights(folder, where=where)
    if not any(
        (folder / name).exists() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")
    ):
        message = f"{where} has no tokenizer (tokenizer.json). Save the model's tokenizer beside its weights."
        raise SourceInvalid(message)
    if not has_chat_template(folder, tokenizer):
        message = (
            f"{where} has no chat template, so it cannot answer /v1/chat/completions. Give an instruction-tuned "
            "model, or put the template into the folder as chat_template.jinja."
        )
        raise SourceInvalid(message)


def read_config(folder: Path, *, where: str) -> dict[str, Any]:
    """The parsed config.json.

    Raises:
        SourceInvalid: there is none, or it is no JSON object.
    """
    config = _read_json(folder / "config.json", where)
    if config is None:
        message = f"{where} has no config.json. Give a checkpoint as save_pretrained writes it."
        raise SourceInvalid(message)
    return config


def has_chat_template(folder: Path, tokenizer_config: dict[str, Any]) -> bool:
    """Whether transformers would find a chat template there."""
    return bool(tokenizer_config.get("chat_template")) or any(
        (folder / name).is_file() and (folder / name).stat().st_size > 0
        for name in ("chat_template.jinja", "chat_template.json")
    )


def block_in_features(folder: Path) -> dict[str, int]:
    """The input width of every linear layer inside the transformer's blocks, by the layer's name.

    These are the layers that weight quantization treats; embeddings and the output head are left out.
    """
    from safetensors import safe_open

    widths: dict[str, int] = {}
    for path in sorted(folder.glob("*.safetensors")):
        opened: Any = safe_open(path, framework="numpy")
        with opened as weights:
            for name in weights.keys():  # noqa: SIM118 - it is no mapping
                if not (_BLOCK.search(name) and name.endswith(".weight")):
                    continue
                shape = weights.get_slice(name).get_shape()
                if len(shape) == 2:  # noqa: PLR2004 - a matrix (out, in)
                    widths[name.removesuffix(".weight")] = int(shape[1])
    return widths


def _check_weights(folder: Path, *, where: str) -> None:
    """Reads each weights file's header; the library compares it with the file's length."""
    from safetensors import SafetensorError, safe_open

    for path in sorted(folder.rglob("*.safetensors")):
        try:
            with safe_open(path, framework="numpy"):
                pass
        except (SafetensorError, OSError) as error:
            message = (
                f"{path.name} of {where} is cut short or not a safetensors file ({error}). "
                "Copy or download it again."
            )
            raise SourceInvalid(message) from error
    index = _read_json(folder / _INDEX, where)
    if index is not None:
        weight_map = index.get("weight_map")
        if not isinstance(weight_map, dict):
            message = f"{_INDEX} of {where} has no weight_map. Copy or download it again."
            raise SourceInvalid(message)
        shards = {str(name) for name in cast("dict[str, Any]", weight_map).values()}
        missing = sorted(name for name in shards if not (folder / name).is_file())
        if missing:
            message = (
                f"{where} lacks {_some(missing)}, which {_INDEX} names. Copy or download it again."
            )
            raise SourceInvalid(message)


def _read_json(path: Path, where: str) -> dict[str, Any] | None:
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        message = f"{path.name} of {where} cannot be read ({error}). Copy or download it again."
        raise SourceInvalid(message) from error
    if not isinstance(document, dict):
        message = f"{path.name} of {where} is not a JSON object. Copy or download it again."
        raise SourceInvalid(message)
    return cast("dict[str, Any]", document)


def _some(names: list[str]) -> str:
    """The first few of `names`, in words."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")  # noqa: PLR2004
