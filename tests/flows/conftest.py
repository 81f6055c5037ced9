"""Stacks that are started side by side, one in each worker of the run, never want the same ports."""

from collections.abc import Iterator

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
