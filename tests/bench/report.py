"""`make bench`: runs each bench in a process of its own and writes docs/benchmarks.md from what they found.

`python -m tests.bench.report guard gptq` runs these alone; the figures of the others stay as they were measured, each
with its machine and day, in docs/benchmarks.json. Nothing in the page is typed by hand.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.bench.figures import FILE, Figure, machine

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "docs" / "benchmarks.json"
PAGE = ROOT / "docs" / "benchmarks.md"
BENCHES: Mapping[str, str] = {
    "render": "Manifests of an endpoint, rendered and printed",
    "controller": "A controller with a hundred endpoints, and a thousand models",
    "cold": "A controller with five hundred endpoints of which nothing is known",
    "gptq": "The quantize stage",
    "evaluate": "The evaluate stage",
    "cached_release": "A release whose stages are all cached",
    "transfer": "Artifacts to S3 and back",
    "guard": "The guard",
    "hour": "An hour of one rollout after the other",
}
"""What is measured together, and what it is about."""
_COMMANDS: Mapping[str, tuple[str, ...]] = {
    "controller": ("controller", "clicks", "polls", "rest"),
    "cold": ("controller", "cold"),
}
"""The module of this package that tells the figures, and its arguments, where that is not a module of the same name."""
_ASIDE = frozenset({"hour"})
"""Measured where it is named alone."""
_PICTURES: Mapping[str, str] = {"hour": "images/hour.png"}
"""What a bench draws."""
_TOP = """# Benchmarks

Written by `make bench` from what it measured; `make load` adds an hour of rollouts, and `python -m tests.bench.report NAME`
measures one part anew. A peer is measured in the same run, in turns with ours, so a ratio holds on other machines though times
do not. The rates of wrong verdicts and what they cost are measured too, in [guarantee](guarantee.md).
"""


def main() -> int:
    """Runs the benches that the command line names, or all; 1 where one of them failed."""
    chosen = sys.argv[1:] or [name for name in BENCHES if name not in _ASIDE]
    if unknown := sorted(set(chosen) - BENCHES.keys()):
        sys.exit(f"There is no bench {', '.join(unknown)}. There are {', '.join(BENCHES)}.")
    kept: dict[str, Any] = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    failed: list[str] = []
    for name in chosen:
        print(f"== {name}", flush=True)
        figures, code = run_bench(name)
        if code:
            failed.append(f"{name} ended with {code}")
        if figures:
            kept[name] = {
                "machine": machine(),
                "at": f"{datetime.now(UTC):%Y-%m-%d}",
                "figures": figures,
            }
            KEPT.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
            PAGE.write_text(page(kept))
    print("\n".join(failed))
    return bool(failed)


def run_bench(name: str) -> tuple[list[dict[str, Any]], int]:
    """What that bench told, and its exit code."""
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "figures"
        told.touch()
        module, *words = _COMMANDS.get(name, (name,))
        command = [sys.executable, "-m", f"tests.bench.{module}", *words]
        ended = subprocess.run(command, cwd=ROOT, env=os.environ | {FILE: str(told)}, check=False)
        return [json.loads(line) for line in told.read_text().splitlines()], ended.returncode


def page(kept: Mapping[str, Any]) -> str:
    """The whole page, in Markdown."""
    parts = [_TOP]
    for name, about in BENCHES.items():
        if name not in kept:
            continue
        found = kept[name]
        command = " ".join(_COMMANDS.get(name, (name,)))
        parts.append(
            f"## {about}\n\n`tests.bench.{command}`, {found['at']}, on {found['machine']}.\n"
        )
        rows = [_row(Figure(**figure)) for figure in found["figures"]]
        head = ["| What | Beside | Measured | Aim | |", "|---|---|---:|---|---|"]
        parts.append("\n".join([*head, *rows]) + "\n")
        if picture := _PICTURES.get(name):
            parts.append(f"![{about}]({picture})\n")
    return "\n".join(parts)


def _row(figure: Figure) -> str:
    met = "" if not figure.aim else "met" if figure.is_met else "**missed**"
    cells = (figure.what, figure.beside, f"{figure.value:.4g} {figure.unit}", figure.aim, met)
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
