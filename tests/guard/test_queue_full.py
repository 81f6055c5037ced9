"""A queue that is full, as Ray Serve and Triton say it: what the client is told, and what is counted.

The stub lets one request work and one wait; its refusals are byte for byte those of a real Ray Serve 2.60 and of a real
Triton whose queues were filled.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from deploy_targets.guard.queue_full import is_queue_full, retry_after
from tests.guard.stub import COMPLETION, ENDPOINT, VERSION, a_chat, served
from tests.guard.stub_triton import ANSWERS
from tests.guard.world import World

REFUSALS: dict[str, Response] = {
    "openai": PlainTextResponse(
        "Request dropped due to backpressure (num_queued_requests=1, max_queued_requests=1).",
        status_code=503,
        headers={**VERSION, "retry-after": "4"},
    ),
    "triton": Response(
        '{"error":"[request id: <id_unknown>] Exceeds maximum queue size"}',
        status_code=503,
        headers=VERSION,
        media_type="application/json",
    ),
}
ANSWERED: dict[str, Response] = {
    "openai": JSONResponse(COMPLETION, headers=VERSION),
    "triton": Response(ANSWERS["whole"], headers=VERSION, media_type="text/event-stream"),
}
PATHS = {
    "openai": "/v1/chat/completions",
    "triton": f"/v2/models/{ENDPOINT}/generate_stream",
}


class BoundedEngine:
    """One request at work, one that waits, and a refusal for the others."""

    def __init__(self, protocol: str) -> None:
        self._protocol = protocol
        self._within = 0
        self._at_work = asyncio.Lock()
        self.is_free = threading.Event()
        self.came = threading.Semaphore(0)
        self.app = Starlette(routes=[Route(PATHS[protocol], self._answer, methods=["POST"])])

    async def _answer(self, request: Request) -> Response:
        await request.body()
        if self._within == 2:
            return REFUSALS[self._protocol]
        self._within += 1
        self.came.release()
        async with self._at_work:
            await asyncio.to_thread(self.is_free.wait, 10)
        self._within -= 1
        return ANSWERED[self._protocol]


@pytest.mark.parametrize(("protocol", "told"), [("openai", "4"), ("triton", "1")])
def test_who_finds_the_queue_full_is_told_when_to_come_again_and_the_others_are_answered(
    start_world: Callable[..., World], protocol: str, told: str
) -> None:
    engine = BoundedEngine(protocol)
    with served() as serve, ThreadPoolExecutor(2) as pool:
        world = start_world(upstream_url=serve(engine.app), protocol=protocol)
        first_two = [pool.submit(world.post) for _ in range(2)]
        for _ in first_two:
            assert engine.came.acquire(timeout=10)
        refused = [world.post(), world.post(a_chat(stream=True))]
        engine.is_free.set()
        assert [one.result(10).status_code for one in first_two] == [200, 200]
        for response in refused:
            error = response.json()["error"]
            assert (response.status_code, error["code"]) == (503, "queue_full")
            assert "wait for the model" in error["message"]
            assert response.headers["retry-after"] == told
        assert world.counted() == (4, 2)
        assert world.samples("llm_inference_queue_full_total")["7", "chat"] == 2


def test_another_503_is_no_full_queue_but_says_when_to_come_again_as_well(world: World) -> None:
    response = world.post(a_chat("text 503"))
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert response.json()["error"]["code"] == "upstream_503"
    assert world.samples("llm_inference_queue_full_total")["7", "chat"] == 0


def test_words_of_a_full_queue_in_an_answer_are_just_words() -> None:
    assert not is_queue_full(200, b"Exceeds maximum queue size")
    assert not is_queue_full(500, b"Exceeds maximum queue size")


def test_only_what_may_be_sent_again_says_when() -> None:
    assert retry_after(429, "9") == "9"
    assert retry_after(503, None) == "1"
    assert retry_after(500, None) is None
