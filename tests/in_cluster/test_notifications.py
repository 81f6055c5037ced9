"""A real controller of a cluster tells a real webhook what it did, and keeps that webhook's address to itself."""

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from registry.promotion import MoveAlias
from tests.builders import a_version
from tests.in_cluster.outside import Outside, Processes
from tests.rollout.chat import SECRET, Chat, a_chat_room

pytestmark = pytest.mark.real


@pytest.fixture
def chat() -> Iterator[Chat]:
    with a_chat_room() as room:
        yield room


def test_a_refusal_reaches_the_chat_with_its_reason_and_a_link(
    outside: Outside, processes: Processes, servers: Any, chat: Chat
) -> None:
    model = f"model-{uuid4().hex[:8]}"
    outside.file.write_text(outside.file.read_text().replace("smollm2", model))
    version = a_version("1", passed=False, reasons=("perplexity is 9 % worse",))
    servers.registry.register(model, source=version.source, run_id=None, tags=version.tags)
    servers.registry.write(model, MoveAlias(alias="challenger", version="1"))
    told = {
        "SHIPWAY_NOTIFY_URL": chat.url,
        "SHIPWAY_NOTIFY_MLFLOW_URL": "https://mlflow.example.com",
    }

    port = processes.start(**servers.environment, **told)

    (text,) = chat.until(1)
    headline, reason, link = text.splitlines()
    assert headline == f"chat ({model}): v1 was refused, nothing serves"
    assert "perplexity is 9 % worse" in reason
    assert link == f"https://mlflow.example.com/#/models/{model}/versions/1"
    assert processes.end(port) == 0
    assert SECRET not in processes.log(port)


def test_a_controller_does_not_start_with_an_address_that_others_could_read(
    processes: Processes,
) -> None:
    port = processes.start(SHIPWAY_NOTIFY_URL=f"http://hooks.example.com/{SECRET}")
    assert processes.running[port].wait(60) == 2
    assert "SHIPWAY_NOTIFY_URL must be an https:// address" in processes.log(port)
    assert SECRET not in processes.log(port)
