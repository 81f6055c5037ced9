"""Weights that are no numbers: one NaN or infinity in a checkpoint makes every answer of the model nonsense.

The files are read as a stream, tensor by tensor, whatever their size: of a checkpoint that comes in, of one that hours of
quantizing begin with, and of one that is measured.
"""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from registry.errors import SourceInvalid

_EXPONENTS = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
    "F8_E5M2": ("u1", 0x7C),
    "F8_E4M3": ("u1", 0x7F),
}
"""How a type lies in memory, and its bits that are all set in a NaN or an infinity, and in nothing else.

F8_E4M3 has no infinity: only all bits set are NaN.
"""
_PIECE_BYTES = 16 << 20


def check_numbers(
    folder: Path, *, where: str, on_bytes: Callable[[float], None] = lambda _: None
) -> None:
    """Refuses weights with a NaN or an infinity in them; the headers have been checked already.

    Raises:
        SourceInvalid: a tensor has one. The message says which, and how many.
    """
    for path in sorted(folder.rglob("*.safetensors")):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header: dict[str, Any] = json.loads(file.read(length))
            for name, told in header.items():
                if name == "__metadata__" or told["dtype"] not in _EXPONENTS:
                    continue
                start, stop = told["data_offsets"]
                file.seek(8 + length + start)
                bad = _count(file, stop - start, told["dtype"])
                on_bytes(stop - start)
                if bad:
                    message = (
                        f"{name} in {path.name} of {where} holds {bad} NaN or infinities, so every answer would be nonsense. "
                        "The training, conversion or recipe that wrote it went wrong: take an earlier checkpoint, or another recipe."
                    )
                    raise SourceInvalid(message)


def _count(file: Any, size: int, dtype: str) -> int:
    import numpy as np

    kind, bits = _EXPONENTS[dtype]
    bad = 0
    while size > 0:
        piece = file.read(min(size, _PIECE_BYTES))
        size -= len(piece)
        bad += int(np.count_nonzero((np.frombuffer(piece, dtype=kind) & bits) == bits))
    return bad
