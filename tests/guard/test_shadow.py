"""Mirrored requests, through a real guard in front of two versions."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from deploy_targets.guard_policy import GuardPolicy
from tests.guard.stub import FAULT, a_chat, served
from tests.guard.stub_triton import ANSWERS as TRITON
from tests.guard.two_versions import CHALLENGER, TwoVersions, page_counts, until
from tests.guard.world import World

COMPARED = "llm_shadow_compared_total"


@dataclass
class Mirrored:
    world: World
    split: TwoVersions

    def name(self, version: str | None = CHALLENGER, for_s: float = 60) -> None:
        word = {"version": version, "for_s": for_s}
        httpx2.put(f"{self.world.admin_url}/shadow", json=word).raise_for_status()

    def results(self) -> dict[str, float]:
        return page_counts(self.world.admin_url, COMPARED, "result")

    def until_results(self, **expected: float) -> None:
        until(lambda: self.results() == expected)

    def by_route(self, name: str) -> dict[str, float]:
        return page_counts(self.world.admin_url, name, "route")


Start = Callable[..., Mirrored]


@pytest.fixture
def start(start_world: Callable[..., World]) -> Iterator[Start]:
    def started(**shadow: Any) -> Mirrored:
        split = TwoVersions()
        prices = {
            "prompt_micros_per_million": 1_000_000,
            "completion_micros_per_million": 2_000_000,
        }
        policy = {"shadow": {"sample": 1, **shadow}, "prices": prices}
        world = start_world(
            upstream_url=serve(split.app), policy=GuardPolicy.model_validate(policy)
        )
        return Mirrored(world, split)

    with served() as serve:
        yield started


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_live_request_is_asked_of_the_named_version_as_well(
    start: Start, *, is_streamed: bool
) -> None:
    mirrored = start()
    mirrored.name()
    response = mirrored.world.post(a_chat("Capital?", stream=is_streamed, seed=3))
    assert response.headers["x-shipway-version"] == "7"
    mirrored.until_results(same=1)
    (asked,) = mirrored.split.pinned
    assert (asked["messages"][-1]["content"], asked["seed"]) == ("Capital?", 3)
    assert not asked.get("stream")
    assert "stream_options" not in asked


def test_it_is_counted_on_a_route_of_its_own_and_charged_to_no_key(start: Start) -> None:
    mirrored = start()
    mirrored.name()
    mirrored.world.post()
    mirrored.until_results(same=1)
    assert mirrored.by_route("llm_inference_requests_total") == {"shadow": 1}
    assert mirrored.by_route("llm_inference_duration_seconds_count") == {"shadow": 1}
    assert mirrored.by_route("llm_inference_cost_micros_total") == {"shadow": 3 + 2 * 2}
    assert page_counts(mirrored.world.admin_url, "llm_guard_key_cost_micros_total", "key") == {}
    assert mirrored.world.counted() == (1, 0)


@pytest.mark.parametrize(
    ("answer", "result", "errors"),
    [
        ("Paris is the capital of France!", "similar", {}),
        ("I do not know anything about that.", "different", {}),
        (JSONResponse(FAULT, status_code=500), "failed", {"shadow": 1}),
        (PlainTextResponse("<html>"), "failed", {"shadow": 1}),
        (JSONResponse(FAULT, status_code=429), "failed", {}),
    ],
)
def test_the_two_answers_are_compared(
    start: Start, answer: Any, result: str, errors: dict[str, float]
) -> None:
    mirrored = start()
    mirrored.split.challenger = answer
    mirrored.name()
    assert mirrored.world.post().status_code == 200
    mirrored.until_results(**{result: 1})
    assert mirrored.by_route("llm_inference_errors_total") == errors


def test_a_client_has_its_answer_while_the_mirrored_request_still_waits(start: Start) -> None:
    mirrored = start()
    mirrored.split.go_on.clear()
    mirrored.name()
    assert mirrored.world.post().status_code == 200
    assert mirrored.split.begun.acquire(timeout=20)
    assert mirrored.world.line()["outcome"] == "answered"
    assert mirrored.results() == {}
    mirrored.split.go_on.set()
    mirrored.until_results(same=1)


def test_what_is_over_the_places_is_dropped_and_counted(start: Start) -> None:
    mirrored = start(concurrent=1)
    mirrored.split.go_on.clear()
    mirrored.name()
    for _ in range(3):
        assert mirrored.world.post().status_code == 200
    mirrored.until_results(dropped=2)
    mirrored.split.go_on.set()
    mirrored.until_results(same=1, dropped=2)


def test_what_is_over_the_days_money_is_dropped_and_counted(start: Start) -> None:
    # Reserved: 3 bytes of prompt make 1 token and 8 around it, 8 of answer at 2; used: 3 and 2 at 2.
    mirrored = start(micros_per_day=9 + 16 + 7)
    mirrored.name()
    for expected in ({"same": 1}, {"same": 2}, {"same": 2, "dropped": 1}):
        mirrored.world.post(a_chat("abc"))
        mirrored.until_results(**expected)


def test_nothing_is_mirrored_while_no_version_is_named(start: Start) -> None:
    mirrored = start()
    mirrored.world.post()
    mirrored.name()
    mirrored.name(None)
    mirrored.world.post()
    mirrored.name(for_s=0.001)
    threading.Event().wait(0.01)
    mirrored.world.post()
    mirrored.name()
    mirrored.world.post()
    mirrored.until_results(same=1)
    assert len(mirrored.split.pinned) == 1


def test_pinned_requests_and_those_that_the_named_version_answered_are_not_mirrored(
    start: Start,
) -> None:
    mirrored = start()
    mirrored.name("7")
    mirrored.world.post()
    mirrored.name()
    mirrored.world.post(**{"x-shipway-version": CHALLENGER})
    mirrored.world.post(a_chat(n=2))
    mirrored.world.post()
    mirrored.until_results(same=1)
    assert len(mirrored.split.pinned) == 2  # the pinned one, and the last one's mirror


def test_a_version_that_is_not_there_is_no_failure_of_it(start: Start) -> None:
    mirrored = start()
    mirrored.split.is_deployed = False
    mirrored.name()
    mirrored.world.post()
    mirrored.until_results(dropped=1)
    assert mirrored.by_route("llm_inference_requests_total") == {}


def test_a_mirrored_request_ends_with_the_guard(start: Start) -> None:
    mirrored = start()
    mirrored.split.hangs = True
    mirrored.name()
    assert mirrored.world.post().status_code == 200
    assert mirrored.split.begun.acquire(timeout=20)
    mirrored.world.stop()
    assert mirrored.split.ended.wait(20)


def test_only_the_sample_is_mirrored(start: Start) -> None:
    mirrored = start(sample=1e-9)
    mirrored.name()
    mirrored.world.post()
    mirrored.world.line()
    assert mirrored.split.pinned == []


@pytest.mark.parametrize(
    "word",
    [
        b"",
        b"{}",
        b'{"version": "../8", "for_s": 1}',
        b'{"version": "8", "for_s": 1e9}',
        b"x" * 9999,
    ],
)
def test_a_word_that_is_none_is_refused(start: Start, word: bytes) -> None:
    mirrored = start()
    assert httpx2.put(f"{mirrored.world.admin_url}/shadow", content=word).status_code == 400


def test_without_the_policy_there_is_nothing_to_name(world: World) -> None:
    assert httpx2.put(f"{world.admin_url}/shadow", json={}).status_code == 404


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize(
    ("says", "result", "errors"),
    [
        ("whole", "same", {}),
        ("error", "failed", {"shadow": 1}),
        ("no end", "failed", {"shadow": 1}),
        ("refused", "failed", {}),
    ],
)
def test_a_triton_is_mirrored_to_in_its_own_words(
    start_world: Callable[..., World],
    says: str,
    result: str,
    errors: dict[str, float],
    *,
    is_streamed: bool,
) -> None:
    async def answer(request: Request) -> Response:
        pin = request.headers.get("x-shipway-version")
        events = TRITON["pieces" if pin is None else says]
        headers = {"x-shipway-version": pin or "7"}
        return Response(events, headers=headers, media_type="text/event-stream")

    path = "/v2/models/chat/generate_stream"
    split = Starlette(routes=[Route(path, answer, methods=["POST"])])
    policy = GuardPolicy.model_validate({"shadow": {"sample": 1}})
    with served() as serve:
        world = start_world(upstream_url=serve(split), protocol="triton", policy=policy)
        mirrored = Mirrored(world, TwoVersions())
        mirrored.name()
        assert world.post(a_chat(stream=is_streamed)).headers["x-shipway-version"] == "7"
        mirrored.until_results(**{result: 1})
        assert mirrored.by_route("llm_inference_errors_total") == errors
        assert mirrored.by_route("llm_inference_requests_total") == {"shadow": 1}


def test_a_budget_without_prices_is_refused() -> None:
    with pytest.raises(ValidationError, match="shadow: micros_per_day would never be reached"):
        GuardPolicy.model_validate({"shadow": {"micros_per_day": 5}})
