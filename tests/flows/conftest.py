"""Stacks that are started side by side, one in each worker of the run, never want the same ports; and what they serve."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy_targets.local import stack


@pytest.fixture(scope="session", autouse=True)
def own_ports(worker_id: str) -> Iterator[None]:
    """Moves the usual ports apart; those of a run without workers stay."""
    apart = 100 * (1 + int(worker_id[2:])) if worker_id.startswith("gw") else 0
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_USUAL_PORTS", "_ENDPOINT_PORTS"):
            usual: dict[str, int] = getattr(stack, name)
            patch.setattr(stack, name, {part: port + apart for part, port in usual.items()})
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a tiny model; `prefix` comes before its chat template."""
    from tests.tiny_model import TEMPLATE, write_tiny_model

    def write(seed: int, prefix: str = "") -> Path:
        folder = tmp_path_factory.mktemp("tiny")
        return write_tiny_model(folder, seed=seed, template=prefix + TEMPLATE)

    return write


@pytest.fixture
def next_version(running: Any, tmp_path: Path) -> str:
    """Another version of the model that a stack of the module's own (`failing_stack`) serves."""
    from tests.flows.test_killed_anywhere import write_model

    return running.register(write_model(tmp_path, 1 + len(running.registry.versions("tiny"))))
