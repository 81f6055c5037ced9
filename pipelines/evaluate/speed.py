"""How fast a model is on the machine at hand, and what memory it takes: told beside the scores, and never in the gate.

The numbers are those of transformers, one request at a time; the engine that serves is faster. They compare two models
on one machine, which is named with them.
"""

import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ROUNDS = 5
_NEW_TOKENS = 6
_QUESTION = "What is the capital of France?"
_MEDIAN_TO_MEAN = 1.2533
"""The standard error of a median over that of the mean, for many normal samples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Performance:
    """What one model took on one machine."""

    machine: str
    numbers: Mapping[str, float]
    """Each speed `x` with its standard error `x_se`; sizes are counted and have none."""


def name_machine() -> str:
    """Processor, cores and accelerator, in words."""
    import torch

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cpu = models[0] if models else platform.processor() or platform.machine()
    place = f"{torch.get_num_threads()} threads on {len(models) or 'some'} cores of {cpu}"
    return f"{torch.cuda.get_device_name(0)}; {place}" if torch.cuda.is_available() else place


def forget_peak() -> None:
    """Has the peak of this process's memory begin anew, where the kernel can do that: another stage may have had more."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")


def measure_speed(
    model: Any, tokenizer: Any, *, folder: Path, window_s: list[float], window_tokens: int
) -> Performance:
    """The speeds and sizes; `window_s` is what each window of the perplexity text took, which is reading alone."""
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": _QUESTION}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    ).to(model.device)

    def seconds(tokens: int) -> float:
        began = time.perf_counter()
        model.generate(
            **asked, min_new_tokens=tokens, max_new_tokens=tokens, do_sample=False,
            temperature=None, top_p=None, top_k=None, pad_token_id=tokenizer.eos_token_id,
        )  # fmt: skip
        return time.perf_counter() - began

    firsts, wholes = zip(*((seconds(1), seconds(_NEW_TOKENS)) for _ in range(_ROUNDS)), strict=True)
    pairs = zip(firsts, wholes, strict=True)
    decode = [(_NEW_TOKENS - 1) / max(whole - first, 1e-9) for first, whole in pairs]
    # The first window also pays for what is made once.
    prefill = [window_tokens / max(s, 1e-9) for s in window_s[1:] or window_s]
    numbers = {
        **_with_error("prefill_tokens_s", prefill, statistics.fmean),
        **_with_error("decode_tokens_s", decode, statistics.fmean),
        **_with_error("latency_p50_s", list(wholes), statistics.median),
        "peak_memory_bytes": float(_peak_bytes()),
        "weights_bytes": float(sum(p.stat().st_size for p in folder.rglob("*.safetensors"))),
    }
    return Performance(machine=name_machine(), numbers=numbers)


def _with_error(
    name: str, samples: list[float], middle: Callable[[list[float]], float]
) -> dict[str, float]:
    error = statistics.stdev(samples) / len(samples) ** 0.5 if len(samples) > 1 else float("inf")
    error *= _MEDIAN_TO_MEAN if middle is statistics.median else 1
    return {name: middle(samples)} | ({f"{name}_se": error} if error < float("inf") else {})


def _peak_bytes() -> int:
    """Of the accelerator's memory where there is one, else of this process."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    peaks = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")]
    return peaks[0] if peaks else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
