"""Same inputs, same bytes: what libraries leave in a checkpoint by accident is taken out or put in order.

They write temporary paths, timings and even the calibration texts into the configuration, and the entries of a
safetensors header in the order of a hash table.
"""

import json
import struct
from pathlib import Path
from typing import Any, cast

from registry.errors import StageFailed

_LEAKS = frozenset({"offload_to_disk_path", "dataset", "tokenizer", "cache_block_outputs"})
"""Keys of a quantization configuration that say how the work was done, not what the weights are."""
_KEPT_OF_BASE = (
    "chat_template.jinja", "chat_template.json", "tokenizer.json", "tokenizer.model",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "generation_config.json",
)  # fmt: skip


def make_canonical(folder: Path, *, base: Path) -> None:
    """Leaves in `folder` only what depends on the inputs; tokenizer and generation settings are `base`'s, unchanged."""
    (folder / "quant_log.csv").unlink(missing_ok=True)
    for name in ("config.json", "quantize_config.json"):
        path = folder / name
        if path.exists():
            document = _without_leaks(json.loads(path.read_text()))
            path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")
    for name in _KEPT_OF_BASE:
        if (base / name).exists():
            (folder / name).write_bytes((base / name).read_bytes())
    for path in folder.glob("*.safetensors"):
        sort_header(path)
        path.chmod(0o644)


def sort_header(path: Path) -> None:
    """Puts the metadata of a safetensors header into alphabetical order, in place.

    Only the order changes, so the header keeps its length and the weights their place
    (format: 8 bytes of length, JSON padded with spaces, then the tensors).
    """
    with path.open("r+b") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        metadata = header.get("__metadata__")
        if not metadata:
            return
        header["__metadata__"] = dict(sorted(metadata.items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) > length:
            message = f"The header of {path.name} grew from {length} to {len(text)} bytes when it was put in order."
            raise StageFailed(message)
        file.seek(8)
        file.write(text.ljust(length))


def _without_leaks(value: Any) -> Any:
    if isinstance(value, dict):
        entries = cast("dict[str, Any]", value)
        return {key: _without_leaks(item) for key, item in entries.items() if key not in _LEAKS}
    if isinstance(value, list):
        return [_without_leaks(item) for item in cast("list[Any]", value)]
    return value
