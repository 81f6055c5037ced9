"""Are the weights of a base numbers? Looked at once, as hours of work begin; `checkpoint.check_weights` has looked at the headers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from registry.errors import SourceInvalid


def check_numbers(folder: Path, *, on_tensor: Callable[[float], None] = lambda _: None) -> None:
    """Refuses weights with a NaN or an infinity among them: one spoils every layer behind it. Reads every tensor once.

    Raises:
        SourceInvalid: there is one.
    """
    from safetensors import safe_open

    for file in sorted(folder.glob("*.safetensors")):
        opened: Any = safe_open(file, framework="pt")
        with opened as weights:
            for name in weights.keys():  # noqa: SIM118 - it is no mapping
                tensor = weights.get_tensor(name)
                if tensor.is_floating_point() and not _is_finite(tensor):
                    message = (
                        f"{name} in {file.name} of {folder} holds a NaN or an infinity, so nothing made of it could answer. "
                        "Take the weights from before training went wrong, or download them again."
                    )
                    raise SourceInvalid(message)
                on_tensor(1)


def _is_finite(tensor: Any) -> bool:
    """By its extremes, which are NaN where any number is: a tenth of the time of asking each number."""
    if tensor.numel() == 0:
        return True
    low, high = (tensor.float() if tensor.itemsize == 1 else tensor).aminmax()
    return bool(low.isfinite() and high.isfinite())
