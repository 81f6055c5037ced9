"""How long rendering takes, in milliseconds for each endpoint: `python -m tests.bench.render`.

The goal is under 5 ms for an endpoint, the printed text included. The times are those of this machine and of now, so
they are printed and not tested.
"""

import statistics
import time
from collections.abc import Callable

from deploy_targets.control_plane import read_endpoint_file
from deploy_targets.ray_serve import manifest as ray_service
from deploy_targets.rendering import render_documents
from deploy_targets.triton import manifest as inference_service
from tests.bench.figures import Figure, tell
from tests.builders import a_release
from tests.repo.reference import ROOT

ROUNDS = 200
_GOAL_MS = 5


def measure_ms(act: Callable[[], object]) -> tuple[float, float]:
    """Median and 95th percentile of `ROUNDS` calls, after one that is not counted."""
    act()
    taken: list[float] = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        act()
        taken.append((time.perf_counter() - start) * 1000)
    return statistics.median(taken), statistics.quantiles(taken, n=20)[-1]


def main() -> None:
    """Print a line for the objects alone and one for their text, for each endpoint of the guide."""
    release = a_release("1")
    ray, triton = read_endpoint_file(ROOT / "examples" / "guide" / "endpoints.yaml").endpoints
    acts: dict[str, Callable[[], object]] = {
        f"{ray.name}, objects": lambda: ray_service.render_all(ray, release),
        f"{triton.name}, objects": lambda: inference_service.render_all(
            triton, release, repository=release.source
        ),
    }
    for endpoint in (ray, triton):
        acts[f"{endpoint.name}, YAML"] = lambda endpoint=endpoint: render_documents(
            (endpoint,), version="1", source="s3://models/llm", registry=None
        )
    for name, act in acts.items():
        median, p95 = measure_ms(act)
        tell(Figure(what=f"{name}, median", value=median, unit="ms", at_most=_GOAL_MS))
        tell(Figure(what=f"{name}, p95", value=p95, unit="ms"))


if __name__ == "__main__":
    main()
