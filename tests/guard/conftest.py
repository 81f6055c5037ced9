"""A running guard for tests that need one."""

import queue
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from limits.aio.storage import memory as limits_in_memory

from deploy_targets.guard import answered, cache_store, limit_store, sticky
from deploy_targets.guard.protocol import ProtocolName
from deploy_targets.guard.steps import Steps
from deploy_targets.guard_policy import GuardPolicy
from tests.guard.stub import KEY, keys_json
from tests.guard.world import NO_POLICY, NO_STEPS, World


@pytest.fixture
def lines() -> "Iterator[queue.Queue[dict[str, Any]]]":
    """Every log line, as it is written."""
    told: queue.Queue[dict[str, Any]] = queue.Queue()

    def keep(_: object, __: str, fields: Any) -> Any:
        told.put(dict(fields))
        raise structlog.DropEvent

    structlog.configure(processors=[keep])
    yield told
    structlog.reset_defaults()


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.json"
    path.write_text(keys_json(owner=KEY))
    return path


@pytest.fixture(autouse=True)
def patience_with_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here a Redis that is there has its time to answer; one that is gone says so at once."""
    for module in (answered, cache_store, limit_store, sticky):
        monkeypatch.setattr(module, "_PATIENCE_S", 30.0)


@pytest.fixture
def start_world(
    lines: "queue.Queue[dict[str, Any]]", keys_file: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., World]]:
    worlds: list[World] = []
    # In memory `limits` counts by the clock's minutes, and one that turns lets more through: here one has just begun.
    late_s = time.time() % 60
    monkeypatch.setattr(
        limits_in_memory, "time", SimpleNamespace(time=lambda: time.time() - late_s)
    )

    def start(
        *,
        upstream_url: str | None = None,
        timeout_s: float = 10,
        auth: bool = True,
        protocol: ProtocolName = "openai",
        steps: Steps = NO_STEPS,
        policy: GuardPolicy = NO_POLICY,
        redis_url: str | None = None,
        spool_folder: Path | None = None,
    ) -> World:
        world = World(lines, protocol, steps, policy, redis_url, spool_folder)
        world.start(
            keys_file=keys_file if auth else None, upstream_url=upstream_url, timeout_s=timeout_s
        )
        worlds.append(world)
        return world

    yield start
    for world in worlds:
        world.stop()


@pytest.fixture
def world(start_world: Callable[..., World]) -> World:
    return start_world()
