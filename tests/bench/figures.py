"""What a bench found, in one form: a line for whoever runs it, and the same as JSON for `tests.bench.report`."""

import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

FILE = "BENCH_FIGURES"
"""The environment variable that names the file to which figures are added, one JSON object a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number, and what was hoped for."""

    what: str
    value: float
    unit: str = ""
    """`x` for a ratio."""
    beside: str = ""
    """What it was measured beside, in the same run."""
    at_most: float | None = None
    at_least: float | None = None

    @property
    def aim(self) -> str:
        """What was hoped for; empty where nothing was."""
        sides = (("at most", self.at_most), ("at least", self.at_least))
        return ", ".join(
            f"{word} {bound:g} {self.unit}" for word, bound in sides if bound is not None
        )

    @property
    def is_met(self) -> bool:
        """Whether the aim is reached; without an aim it is."""
        return not (
            (self.at_most is not None and self.value > self.at_most)
            or (self.at_least is not None and self.value < self.at_least)
        )

    def __str__(self) -> str:
        """The line that is printed."""
        aim = f"   ({self.aim}: {'met' if self.is_met else 'MISSED'})" if self.aim else ""
        beside = f", beside {self.beside}" if self.beside else ""
        return f"{self.what}{beside}: {self.value:.4g} {self.unit}{aim}"


def tell(*figures: Figure) -> tuple[str, ...]:
    """Prints them, and adds them to the file that the environment names; what those say whose aim is missed."""
    path = os.environ.get(FILE)
    for figure in figures:
        print(figure, flush=True)
        if path:
            with Path(path).open("a") as file:
                file.write(json.dumps(asdict(figure)) + "\n")
    return tuple(figure.what for figure in figures if not figure.is_met)


def machine() -> str:
    """Where numbers are taken, in words: processor, cores, memory, Python."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cores, memory = len(os.sched_getaffinity(0)), psutil.virtual_memory().total / (1 << 30)
    model = models[0] if models else platform.machine()
    return f"{model}, {cores} cores, {memory:.0f} GiB, Python {platform.python_version()}"
