"""What a model checkpoint must be to be let in: safetensors weights, no pickles, no code, a chat template.

Only headers are read here, never weights, and nothing of a checkpoint is ever executed.
"""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

from registry.errors import SourceInvalid

PICKLES = frozenset(
    {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill", ".h5", ".keras"}
)
"""Endings of files that run code when they are loaded."""
_CODE = (".py", ".pyc", ".so", ".dll", ".dylib", ".sh")
_MAGIC = {
    b"\x80\x02": "a pickle", b"\x80\x03": "a pickle", b"\x80\x04": "a pickle", b"\x80\x05": "a pickle",
    b"PK\x03\x04": "a zip archive, as torch.save writes pickles", b"\x7fELF": "a program", b"MZ": "a program",
    b"\x89HDF": "an HDF5 file",
}  # fmt: skip
"""How files begin that have no business in a checkpoint, whatever their name says."""
_EMBEDDINGS = (
    "embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight",
    "tok_embeddings.weight",
)  # fmt: skip
_BLOCK = re.compile(r"\.(layers|h|blocks|block)\.\d+\.")
_INDEX = "model.safetensors.index.json"
_ADAPTER = "adapter_config.json"


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
    code = [name for name in listed if name.lower().endswith(_CODE)]
    if code:
        message = (
            f"{where} brings code of its own ({_some(code)}), which is never run. "
            "Only architectures that transformers knows itself can be served; remove the code if it is not needed."
        )
        raise SourceInvalid(message)
    _check_has_weights(listed, where=where)


def check_checkpoint(folder: Path, *, where: str) -> None:
    """Refuses what cannot be served safely; `where` is what the user calls the checkpoint.

    Raises:
        SourceInvalid: a pickle, code, an unreadable or missing weights file, no config, no tokenizer or chat template.
    """
    check_names((p.relative_to(folder).as_posix() for p in folder.rglob("*")), where=where)
    config = read_config(folder, where=where)
    tokenizer = _read_json(folder / "tokenizer_config.json", where) or {}
    _check_content(folder, where=where)
    for path in sorted(folder.glob("*config*.json")):
        _check_config(path, where=where)
    check_weights(folder, where=where)
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
    _check_vocabulary(folder, config, where=where)


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
    return {
        name.removesuffix(".weight"): shape[1]
        for name, shape in _shapes(folder)
        if _BLOCK.search(name) and name.endswith(".weight") and len(shape) == 2  # noqa: PLR2004 - (out, in)
    }


def _shapes(folder: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Each tensor's name and shape, by the headers alone."""
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        opened: Any = safe_open(path, framework="numpy")
        with opened as weights:
            for name in weights.keys():  # noqa: SIM118 - it is no mapping
                yield name, tuple(weights.get_slice(name).get_shape())


def _check_config(path: Path, *, where: str) -> None:
    """Refuses a configuration that has code loaded, wherever in it it says so, or an adapter put onto the weights."""
    if path.name == _ADAPTER:
        message = (
            f"{where} holds an adapter ({_ADAPTER}), which one engine puts onto the weights unasked and another does not. "
            "Merge it into its base, and give the folder that holds only the result."
        )
        raise SourceInvalid(message)
    for key, value in _settings(_read_json(path, where) or {}):
        is_code = key in {"auto_map", "custom_pipelines"}
        is_kernel = key.endswith("_implementation") and "/" in str(value)
        if is_code or is_kernel:
            message = (
                f"{path.name} of {where} asks for code of its own ({_some([key])}), which is never run. "
                "Use a model that transformers knows itself."
            )
            raise SourceInvalid(message)


def _settings(document: Any) -> Iterator[tuple[str, Any]]:
    """Each key of a JSON document with its value, at any depth."""
    items: list[Any] = [document]
    while items:
        item = items.pop()
        if isinstance(item, dict):
            yield from cast("dict[str, Any]", item).items()
            items += cast("dict[str, Any]", item).values()
        elif isinstance(item, list):
            items += cast("list[Any]", item)


def _check_content(folder: Path, *, where: str) -> None:
    """Refuses a file that is another thing than its name says."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                begins = file.read(4)
            kind = next((kind for magic, kind in _MAGIC.items() if begins.startswith(magic)), None)
            if kind is not None:
                message = (
                    f"{path.name} of {where} begins like {kind}, which may run code. "
                    "A checkpoint holds safetensors weights and text only; take this file out."
                )
                raise SourceInvalid(message)


def _check_vocabulary(folder: Path, config: dict[str, Any], *, where: str) -> None:
    """Refuses a tokenizer that knows tokens for which the model has no embedding."""
    embeddings = (shape[0] for name, shape in _shapes(folder) if name.endswith(_EMBEDDINGS))
    rows, said_by = next(embeddings, None), "the embedding"
    if rows is None:
        rows, said_by = config.get("vocab_size"), "config.json"
    elif isinstance(stated := config.get("vocab_size"), int) and stated != rows:
        message = (
            f"config.json of {where} says vocab_size {stated}, but the embedding has {rows} rows. "
            "The two are of different models; copy or download them again."
        )
        raise SourceInvalid(message)
    tokens = _token_count(_read_json(folder / "tokenizer.json", where) or {})
    if isinstance(rows, int) and tokens > rows:
        message = (
            f"The tokenizer of {where} knows {tokens} tokens, but {said_by} has {rows} rows, so some words would "
            "break the model. Use the tokenizer that it was trained with, or resize the embedding "
            "(model.resize_token_embeddings) and train it."
        )
        raise SourceInvalid(message)


def _token_count(tokenizer: dict[str, Any]) -> int:
    """One more than the highest number of a token; 0 where the file does not say."""
    vocabulary = _mapping(tokenizer.get("model")).get("vocab")
    added = tokenizer.get("added_tokens")
    numbers: list[Any] = [-1]
    if isinstance(vocabulary, list):
        numbers.append(len(cast("list[Any]", vocabulary)) - 1)
    numbers += _mapping(vocabulary).values()
    for token in cast("list[Any]", added) if isinstance(added, list) else []:
        numbers.append(_mapping(token).get("id"))
    return max(number for number in numbers if isinstance(number, int)) + 1


def _mapping(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _check_has_weights(names: list[str], *, where: str) -> None:
    if not any(name.endswith(".safetensors") for name in names):
        message = (
            f"{where} holds no *.safetensors weights (it holds: {_some(names) or 'nothing'}). "
            "Give a checkpoint as save_pretrained writes it, or a .gguf file."
        )
        raise SourceInvalid(message)


def check_weights(folder: Path, *, where: str) -> None:
    """Refuses weights that are missing or cut short; reads the headers only, which the library compares with the lengths.

    Raises:
        SourceInvalid: they are.
    """
    from safetensors import SafetensorError, safe_open

    _check_has_weights(sorted(path.name for path in folder.rglob("*")), where=where)
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
        there = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
        missing = sorted(name for name in shards if Path(name) not in there)
        if missing:
            message = (
                f"{where} lacks {_some(missing)}, which {_INDEX} names. Copy or download it again."
            )
            raise SourceInvalid(message)


def read_json(path: Path, *, where: str) -> dict[str, Any]:
    """The JSON object in a file of the checkpoint that the user calls `where`.

    Raises:
        SourceInvalid: it is not there, or holds another thing.
    """
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        message = f"{path.name} of {where} cannot be read ({error}). Copy or download it again."
        raise SourceInvalid(message) from error
    if not isinstance(document, dict):
        message = f"{path.name} of {where} is not a JSON object. Copy or download it again."
        raise SourceInvalid(message)
    return cast("dict[str, Any]", document)


def _read_json(path: Path, where: str) -> dict[str, Any] | None:
    return read_json(path, where=where) if path.exists() else None


def _some(names: list[str]) -> str:
    """The first few of `names`, in words that can be printed."""
    told = ", ".join(names[:3]).encode(errors="backslashreplace").decode()
    return told + (f" and {len(names) - 3} more" if len(names) > 3 else "")  # noqa: PLR2004
