"""GPTQ by gptqmodel: on a GPU where there is one, else on the CPU. The method: https://arxiv.org/abs/2210.17323."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from pipelines.loading import has_gpu
from pipelines.quantize.recipes import GptqRecipe

Loss = tuple[str, float]
"""A layer and its mean squared error, weighted by the activations."""


def quantize(
    base: Path,
    out: Path,
    *,
    recipe: GptqRecipe,
    windows: Sequence[dict[str, list[list[int]]]],
    scratch: Path,
    on_block: Callable[[float], None],
) -> tuple[Loss, ...]:
    """Writes the quantized checkpoint into `out`; returns each layer's loss.

    Finished blocks wait in `scratch` (about the size of the model), so that memory holds few at a time.
    `on_block` is called with 1 for each block of the model that is done.
    """
    import gptqmodel
    from gptqmodel.looper import loop_processor

    library: Any = gptqmodel
    # It writes a log into ./logs and has no switch for that.
    looper: Any = loop_processor
    looper._PROJECT_LOG_DIR = scratch / "logs"  # noqa: SLF001 - pinned to this version, and a test would notice
    config = library.QuantizeConfig(
        bits=recipe.bits,
        group_size=recipe.group_size,
        format=recipe.checkpoint_format,
        offload_to_disk_path=str(scratch),
    )
    samples = [{key: rows[0] for key, rows in window.items()} for window in windows]
    with _failing_aloud():
        model = library.GPTQModel.load(str(base), config, device="cuda:0" if has_gpu() else "cpu")
        model.layer_callback = _Blocks(on_block)
        log = model.quantize(samples, batch_size=1)
        model.save(str(out))
    return tuple(
        (f"{entry['layer']}.{entry['module']}", float(entry["loss"]))
        for entries in log.values()
        for entry in entries
        if _is_number(entry.get("loss"))
    )


@contextmanager
def _failing_aloud() -> Generator[None]:
    """Raises what failed in a thread of gptqmodel's, which would end the whole process on the spot, cleaning up nothing."""
    from gptqmodel.utils import threadx

    workers: Any = threadx
    worker: Any = workers._DeviceWorker  # noqa: SLF001 - there is no switch for this either
    failures: list[BaseException] = []

    def note(_: object, failure: BaseException) -> None:
        failures.append(failure)

    with patch.object(worker, "_abort_process", note):
        try:
            yield
        except Exception as error:
            if failures:
                raise failures[0] from error
            raise
    if failures:
        raise failures[0]


class _Blocks:
    """gptqmodel tells of each block twice: when it is done, and when it is written."""

    def __init__(self, on_block: Callable[[float], None]) -> None:
        self._on_block = on_block

    def layer_complete(self, *, layer_idx: int, submodule_finalized: bool) -> None:  # noqa: ARG002 - its signature
        if submodule_finalized:
            self._on_block(1)


def _is_number(text: Any) -> bool:
    try:
        float(text)
    except (TypeError, ValueError):
        return False
    return True
