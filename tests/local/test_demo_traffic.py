"""The demo's clients run beside the walk, and say so when they cannot."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.types import ASGIApp

from deploy_targets.load import LoadPlan
from deploy_targets.local import demo_traffic
from deploy_targets.local.demo_traffic import Clients, talk
from registry.errors import DemoFailed
from tests.guard.stub import KEY, StubEngine, served


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[[ASGIApp], str]]:
    with served() as serve:
        yield serve


@pytest.fixture(scope="module")
def stub(serve: Callable[[ASGIApp], str]) -> StubEngine:
    return StubEngine("ok")


@pytest.fixture(scope="module")
def url(serve: Callable[[ASGIApp], str], stub: StubEngine) -> str:
    return serve(stub.app)


def a_plan(url: str, **fields: Any) -> LoadPlan:
    return LoadPlan(url=url, model="chat", api_key=KEY, requests=100_000, **fields)


def test_clients_send_until_the_block_ends_and_finish_what_they_have_begun(
    url: str, stub: StubEngine
) -> None:
    with Clients(a_plan(url)) as clients:
        clients.wait_for_answers(10)

    assert clients.report.requests >= 10
    assert clients.report.failures == 0
    assert len(stub.bodies) == clients.report.requests


def test_waiting_for_answers_that_do_not_come_is_bounded(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_traffic, "_FIRST_ANSWERS_S", 0.3)
    with (
        Clients(LoadPlan(url=url, model="chat", api_key=KEY, requests=1)) as clients,
        pytest.raises(DemoFailed, match="not 2 answers within"),
    ):
        clients.wait_for_answers(2)


def test_clients_that_broke_down_are_not_waited_for(url: str) -> None:
    with (
        Clients(a_plan(url, max_tokens=object())) as clients,
        pytest.raises(DemoFailed, match="The load generator failed"),
    ):
        clients.wait_for_answers(1)


def test_nobody_listening_is_a_failure_of_each_request_not_of_the_clients() -> None:
    with Clients(a_plan("http://127.0.0.1:1", clients=1)) as clients:
        clients.wait_for_answers(1)
        clients.check()

    assert set(clients.report.faults) == {"no connection"}


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_is_the_same_whole_or_streamed(
    url: str, stub: StubEngine, *, stream: bool
) -> None:
    path = f"{url}/v1/chat/completions"
    assert talk(path, KEY, "chat", "hello", stream=stream) == "Paris."
    assert json.loads(stub.bodies[-1])["stream"] is stream


def test_an_error_is_shown_as_it_came(serve: Callable[[ASGIApp], str]) -> None:
    with pytest.raises(DemoFailed, match="answered 404"):
        talk(serve(Starlette()), KEY, "chat", "hello", stream=False)
