"""One rollout after the other under load, for an hour: what grows? `python -m tests.bench.hour [MINUTES] [PICTURE]`.

The local stack, every part the real one, with two tiny models that take turns as challenger. What is flat is told by the
last quarter beside the second one; the first is that in which everything warms up.
"""

import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Drawing

from deploy_targets.load import LoadPlan, LoadReport
from deploy_targets.local import stack
from deploy_targets.local.demo_traffic import Clients
from deploy_targets.local.home import Home
from deploy_targets.rollout.journal import past_rollouts
from registry.promotion import CHAMPION
from tests.bench.figures import Figure, tell
from tests.flows.test_killed_anywhere import write_model
from tests.flows.test_the_stack import Stack

MINUTES = 60
PICTURE = Path(__file__).parents[2] / "docs" / "images" / "hour.png"
SAMPLE_S = 10
LOOK_S = 0.5
LIMIT_S = 240
MIB = 1 << 20
_DRAWN_MIB = 0.05
"""What takes less on disk is not drawn."""
_FLAT = 1.1
_STEADY = 1.3
"""Of latencies, which differ more from one minute to the next."""
_ENDPOINTS = """
apiVersion: shipway/v1
endpoints:
  - name: chat
    model: tiny
    resources: {cpus: 0.1, memory_gib: 0.1}
    engine: {max_context_tokens: 256}
    rollout:
      steps: [{weight: 25, dwell_s: 2, requests: 20}, {weight: 50, dwell_s: 2, requests: 50}]
      settle_s: 1
      promote: {by: exposure, requests: 200}
      drain_s: 1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One moment."""

    at_s: float
    rollouts: int
    """That have ended so far."""
    memory: dict[str, float]
    """Part to MiB, all its processes together."""
    handles: dict[str, float]
    """Part to open files, sockets included."""
    disk: dict[str, float]
    """What is kept to MiB."""
    latency: dict[str, float]
    """In ms: of the clients since the sample before, and of one question to MLflow."""


@dataclass(slots=True)
class Clock:
    """The clients' answers since the last time that somebody asked."""

    clients: Clients
    _seen: dict[str, int] = field(default_factory=dict[str, int])

    def durations_s(self) -> list[float]:
        """In the order of their versions."""
        found: list[float] = []
        for version, load in list(self.clients.report.versions.items()):
            known = len(load.durations_s)
            found += load.durations_s[self._seen.get(version, 0) : known]
            self._seen[version] = known
        return found


class Hour:
    """The stack, its clients, and what is seen of it from time to time."""

    def __init__(self, running: Stack, clients: Clients) -> None:
        self.samples: list[Sample] = []
        self.rollouts = 0
        self._running = running
        self._clock = Clock(clients)
        self._began = time.monotonic()
        self._over = threading.Event()
        self._lost: BaseException | None = None
        """What ended the sampling, if it did not go on to the end."""
        self._watching = threading.Thread(target=self._watch, name="samples", daemon=True)

    def run(self, versions: Sequence[str], seconds: float) -> None:
        """One rollout after the other; the one that is under way at the end is the last."""
        self._watching.start()
        try:
            while self._lost is None and time.monotonic() - self._began < seconds:
                champion = self._running.aliases[CHAMPION]
                (challenger,) = (version for version in versions if version != champion)
                self._running.point("challenger", challenger)
                self._until_quiet()
                self.rollouts += 1
        finally:
            self._over.set()
            self._watching.join()
        if self._lost is not None:
            raise self._lost

    def _until_quiet(self) -> None:
        began = time.monotonic()
        while not self._running.is_quiet():
            self._clock.clients.check()
            assert time.monotonic() - began < LIMIT_S, self._running.status
            time.sleep(LOOK_S)

    def _watch(self) -> None:
        try:
            while not self._over.wait(SAMPLE_S):
                self.samples.append(self._sample())
        except BaseException as error:  # noqa: BLE001 - raised by `run`
            self._lost = error

    def _sample(self) -> Sample:
        home = self._running.home
        began = time.monotonic()
        self._running.registry.aliases("tiny")
        mlflow_ms = (time.monotonic() - began) * 1000
        parts = {part: self._running.of_part(part) for part in self._running.info.processes}
        ended = sorted(self._clock.durations_s())
        latency = {"MLflow": mlflow_ms}
        if ended:
            latency |= {
                "clients, p50": 1000 * ended[len(ended) // 2],
                "clients, p95": 1000 * ended[int(0.95 * len(ended))],
            }
        return Sample(
            at_s=began - self._began,
            rollouts=self.rollouts,
            memory={
                part: total(processes, lambda one: one.memory_info().rss / MIB)
                for part, processes in parts.items()
            },
            handles={
                part: total(processes, lambda one: one.num_fds())
                for part, processes in parts.items()
            },
            disk={path.name: size(path) / MIB for path in sorted(home.path.iterdir())},
            latency=latency,
        )


def total(processes: Sequence[psutil.Process], of: Callable[[psutil.Process], float]) -> float:
    """The sum over those that are still there."""
    found = 0.0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            found += of(process)
    return found


def size(path: Path) -> int:
    """Bytes of the file, or of all files below the folder; one that goes meanwhile counts nothing."""
    files = [path] if path.is_file() else [Path(at) / n for at, _, ns in os.walk(path) for n in ns]
    found = 0
    for file in files:
        with suppress(FileNotFoundError):
            found += file.lstat().st_size
    return found


def quarter(samples: Sequence[Sample], number: int) -> Sequence[Sample]:
    """The samples of that one of the four quarters of the time, counted from 0."""
    end = samples[-1].at_s
    return [one for one in samples if number <= 4 * one.at_s / end <= number + 1]


def judged(samples: Sequence[Sample]) -> list[Figure]:
    """The last quarter beside the second."""
    before, after = quarter(samples, 1), quarter(samples, 3)
    figures: list[Figure] = []
    kinds = (("memory", "MiB", _FLAT), ("handles", "", _FLAT), ("latency", "ms", _STEADY))
    for kind, unit, at_most in kinds:
        for name in sorted({name for one in samples for name in getattr(one, kind)}):
            old, new = (
                statistics.median(
                    values[name] for one in part if name in (values := getattr(one, kind))
                )
                for part in (before, after)
            )
            figures.append(
                Figure(
                    what=f"{kind} of {name}",
                    beside=f"its {old:.4g} {unit}".rstrip(),
                    value=new / old,
                    unit="x",
                    at_most=at_most,
                )
            )
    for name in samples[-1].disk:
        old, new = (growth(part, name) for part in (before, after))
        if new or old:
            figures.append(
                Figure(
                    what=f"growth of `{name}` on disk",
                    beside=f"{old:.4g} before",
                    value=new,
                    unit="KiB a rollout",
                )
            )
    return figures


def growth(part: Sequence[Sample], name: str) -> float:
    """KiB for each rollout."""
    first, last = part[0], part[-1]
    grown = last.disk.get(name, 0.0) - first.disk.get(name, 0.0)
    return 1024 * grown / max(1, last.rollouts - first.rollouts)


def draw(samples: Sequence[Sample], path: Path) -> None:
    """Four panels over one axis of minutes."""
    drawing: Any = Drawing(figsize=(9, 11), dpi=100, layout="constrained")
    FigureCanvasAgg(drawing)
    panels = (
        ("memory", "memory, MiB", "log"),
        ("handles", "open files and sockets", "log"),
        ("latency", "latency, ms", "log"),
        ("disk", "on disk, MiB", "log"),
    )
    all_axes = drawing.subplots(len(panels), 1, sharex=True)
    minutes = [one.at_s / 60 for one in samples]
    for axes, (kind, label, scale) in zip(all_axes, panels, strict=True):
        for name in sorted({name for one in samples for name in getattr(one, kind)}):
            values = [getattr(one, kind).get(name, float("nan")) for one in samples]
            if kind != "disk" or values[-1] > _DRAWN_MIB:
                axes.plot(minutes, values, label=name)
        axes.set_ylabel(label)
        axes.set_yscale(scale)
        axes.grid(visible=True, alpha=0.3)
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize="small")
    all_axes[-1].set_xlabel("minutes of one rollout after the other")
    drawing.savefig(path)


def tell_answers(report: LoadReport, hour: Hour, running: Stack) -> None:
    """What came of the rollouts, and what the clients met."""
    past = past_rollouts(running.composition.tracking(), running.endpoint, limit=hour.rollouts)
    promoted = sum(one.status == "promoted" for one in past)
    print(f"failures: {dict(report.faults)}", flush=True)
    tell(
        Figure(what="rollouts", value=hour.rollouts),
        Figure(what="of these promoted", value=promoted, at_least=hour.rollouts),
        Figure(what="requests", value=report.requests),
        Figure(what="of these failed", value=report.failures, at_most=0),
    )


def main(minutes: float, picture: Path) -> None:
    """Print the figures, and draw the picture."""
    with tempfile.TemporaryDirectory(prefix="shipway-hour-") as name:
        folder = Path(name)
        os.environ |= {"SHIPWAY_POLL_S": "5", "SHIPWAY_TICK_S": "0.5"}
        try:
            running = Stack(folder, _ENDPOINTS)
            versions = [running.register(write_model(folder, seed)) for seed in (1, 2)]
            running.point("challenger", versions[0])
            running.until(running.is_quiet)
            plan = LoadPlan(
                url=running.info.url("chat", "guard"),
                model="chat",
                api_key=running.home.secrets().api_key,
                clients=1,
                requests=10_000_000,
                seconds=60 * minutes + LIMIT_S,
                max_tokens=4,
                timeout_s=30,
            )
            with Clients(plan) as clients:
                clients.wait_for_answers(1)
                hour = Hour(running, clients)
                hour.run(versions, 60 * minutes)
            draw(hour.samples, picture)
            tell_answers(clients.report, hour, running)
            tell(*judged(hour.samples))
        finally:
            stack.down(Home(folder / "home"), announce=print)


if __name__ == "__main__":
    minutes, picture = (*sys.argv[1:], *(str(MINUTES), str(PICTURE))[len(sys.argv) - 1 :])
    main(float(minutes), Path(picture))
