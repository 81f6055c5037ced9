"""What the load generator sends, and what it calls a failure."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from deploy_targets.load import LoadPlan, LoadReport, generate_load
from tests.guard.stub import KEY, StubEngine, served

Serve = Callable[..., tuple[StubEngine, LoadPlan]]


@pytest.fixture
def serve() -> Iterator[Serve]:
    with served() as start:

        def plan(behaviour: str = "ok", **fields: Any) -> tuple[StubEngine, LoadPlan]:
            stub = StubEngine(always=behaviour)
            url = start(stub.app)
            defaults = {"requests": 10, "clients": 2, "timeout_s": 10}
            return stub, LoadPlan(url=url, model="chat", api_key=KEY, **{**defaults, **fields})

        yield plan


def generate(plan: LoadPlan, **hooks: Any) -> LoadReport:
    return asyncio.run(generate_load(plan, **hooks))


def test_it_sends_as_many_as_it_was_told_and_counts_them_by_version(serve: Serve) -> None:
    stub, plan = serve(requests=25, clients=4)
    report = generate(plan)
    assert len(stub.bodies) == 25
    assert (report.requests, report.failures, report.faults) == (25, 0, {})
    told = json.loads(json.dumps(report.to_json()))
    version = told["versions"]["7"]
    assert (version["requests"], version["failures"]) == (25, 0)
    assert 0 < version["p50_s"] <= version["p95_s"]
    assert told["completion_tokens_per_s"] > 0
    assert sum(part["requests"]["7"] for part in told["timeline"]) == 25


def test_the_mix_is_as_asked_for_and_the_same_each_time(serve: Serve) -> None:
    mix: list[list[Any]] = []
    for _ in range(2):
        stub, plan = serve(
            requests=200, clients=1, system_share=0.4, stream_share=0.2, max_tokens=3
        )
        assert generate(plan).failures == 0
        mix.append([json.loads(body) for body in stub.bodies])
    assert mix[0] == mix[1]
    systems = sum(body["messages"][0]["role"] == "system" for body in mix[0])
    streams = sum(body["stream"] for body in mix[0])
    assert (round(systems / 200, 1), round(streams / 200, 1)) == (0.4, 0.2)
    assert len({body["messages"][-1]["content"] for body in mix[0]}) >= 40
    assert {body["max_tokens"] for body in mix[0]} == {3}
    assert stub.headers[0]["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("behaviour", "streamed", "fault"),
    [
        ("500", 0, "status 500"),
        ("429", 0, "status 429"),
        ("error in 200", 0, "no answer in a 200"),
        ("garbage", 0, "no answer in a 200"),
        ("error in 200", 1, "broken stream"),
        ("truncate", 1, "broken stream"),
        ("truncate in a line", 1, "no answer in a stream"),
        ("error chunk", 1, "error in a stream"),
        ("break", 1, "connection lost"),
        ("break at once", 1, "connection lost"),
    ],
)
def test_what_a_client_would_call_a_failure_is_one(
    serve: Serve, behaviour: str, streamed: int, fault: str
) -> None:
    stub, plan = serve(behaviour, requests=4, stream_share=streamed)
    stub.go_on.set()
    report = generate(plan)
    assert (report.requests, report.failures, report.faults) == (4, 4, {fault: 4})
    assert report.versions["7"].failures == 4
    assert report.timeline[0].failures == {"7": 4}


def test_no_answer_in_time_is_a_failure(serve: Serve) -> None:
    _, plan = serve("hang", requests=2, timeout_s=0.1)
    assert generate(plan).faults == {"time-out": 2}


def test_a_door_that_is_shut_is_a_failure_and_not_hammered_at() -> None:
    plan = LoadPlan(url="http://127.0.0.1:1", model="chat", api_key=KEY, requests=3, clients=1)
    began = time.monotonic()
    assert generate(plan).faults == {"no connection": 3}
    assert time.monotonic() - began > 0.25


def test_time_ends_it_as_well(serve: Serve) -> None:
    _, plan = serve(requests=10**6, seconds=0.3)
    report = generate(plan)
    assert 0 < report.requests < 10**6
    assert report.failures == 0


def test_it_stops_when_told_and_finishes_what_it_began(serve: Serve) -> None:
    stub, plan = serve(requests=10**6, clients=3)
    seen: list[int] = []

    def watch(report: LoadReport) -> None:
        seen.append(report.requests)

    report = generate(plan, stop=lambda: len(seen) >= 10, on_result=watch)
    assert report.requests == len(seen) == len(stub.bodies)
    assert 10 <= report.requests <= 13
    assert report.failures == 0


def test_the_key_is_not_shown() -> None:
    assert KEY not in repr(LoadPlan(url="u", model="m", api_key=KEY))
