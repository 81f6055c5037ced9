"""What a release costs whose stages are all cached, beyond `mlflow run`'s own start: `python -m tests.bench.cached_release`.

A project that does nothing and a cached release of a tiny model take turns, on real servers. Wall clock and CPU time
of each, and the medians' difference; the issue allows 10 s.
"""

import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.figures import Figure, tell
from tests.pipelines.conftest import RECIPE
from tests.servers import start_servers
from tests.tiny_model import write_tiny_model

ROUNDS = 3
_AIM_S = 10
NOTHING = "name: nothing\nentry_points:\n  main:\n    command: python -c pass\n"


def main() -> None:
    """Runs the rounds and prints them."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        model = write_tiny_model(folder / "model", opinion=0.02)
        (folder / "recipe.yaml").write_text(RECIPE)
        (folder / "nothing").mkdir()
        (folder / "nothing" / "MLproject").write_text(NOTHING)
        root = Path(__file__).parents[2]
        run = ("-m", "mlflow", "run", "--env-manager", "local")
        nothing = (*run, str(folder / "nothing"))
        release = (
            *run, str(root), "-e", "release", "-P", f"source={model}", "-P", "name=bench",
            "-P", f"recipe={folder / 'recipe.yaml'}",
        )  # fmt: skip
        with start_servers(folder / "servers") as servers:
            environment = {
                **os.environ, **servers.environment, "SHIPWAY_HOME": str(folder / "home"),
                "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root),
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            }  # fmt: skip
            _time(release, environment)
            rounds = [
                (_time(nothing, environment), _time(release, environment)) for _ in range(ROUNDS)
            ]
    for at, what in enumerate(("wall", "CPU")):
        idle, cached = (statistics.median(pair[who][at] for pair in rounds) for who in (0, 1))
        tell(
            Figure(
                what=f"{what} beyond `mlflow run`'s own",
                value=cached - idle,
                unit="s",
                beside=f"{idle:.1f} s for a project that does nothing",
                at_most=_AIM_S if what == "wall" else None,
            )
        )


def _time(words: tuple[str, ...], environment: dict[str, str]) -> tuple[float, float]:
    """Wall clock and CPU seconds of a Python process and its children."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = subprocess.run(
        [sys.executable, *words], env=environment, capture_output=True, text=True, check=False
    )
    if ended.returncode:
        sys.exit(f"{' '.join(words)} failed:\n{ended.stdout}\n{ended.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - began, cpu_s


if __name__ == "__main__":
    main()
