"""OpenAI's protocol before a stub Triton that answers in each of the ways in which the real one does."""

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from deploy_targets.engine.chat import ChatRequest
from deploy_targets.guard.outcome import Outcome, StreamScan, whole_outcome
from deploy_targets.routing.traffic import VERSION_HEADER
from deploy_targets.triton.front import Front, TritonModel, triton_session
from deploy_targets.triton.tensors import TEXT_INPUT, Piece
from tests.guard.stub import a_chat, served

pytestmark = pytest.mark.real


def piece(text: str, finish: str = "", tokens: int = 1) -> dict[str, Any]:
    return {
        "text_output": text,
        "finish_reason": finish,
        "num_input_tokens": 3,
        "num_output_tokens": tokens,
    }


WHOLE = (piece("Paris.", "stop", 2),)
ANSWERS: dict[str, tuple[dict[str, Any], ...]] = {
    "whole": WHOLE,
    "pieces": (piece("Par"), piece("is.", "stop", 2)),
    "error": ({"error": "out of memory"},),
    "cached failure": ({"model_name": "chat", "model_version": "7"},),
    "error under way": (piece("Par"), {"error": "out of memory"}),
    "no end": (piece("Par"),),
    "nothing": (),
    "refused": (piece('{"message":"too long","param":"messages"}', "refused"),),
}


class StubTriton:
    def __init__(self) -> None:
        self.left = threading.Event()
        self.app = Starlette(
            routes=[
                Route("/v2/models/chat/versions/7/generate_stream", self._answer, methods=["POST"])
            ]
        )

    async def _answer(self, request: Request) -> Response:
        inputs = await request.json()
        asked = json.loads(inputs[TEXT_INPUT])[-1]["content"]
        if asked == "status":
            body = 'data: {"error":"UndefinedError: no such name"}\n\n'
            return Response(body, status_code=400, media_type="text/event-stream")
        return StreamingResponse(self._events(asked), media_type="text/event-stream")

    async def _events(self, asked: str) -> AsyncGenerator[bytes]:
        if asked == "hang":
            try:
                while True:
                    yield f"data: {json.dumps(piece('x'))}\n\n".encode()
                    await asyncio.sleep(0.01)
            finally:
                self.left.set()
        for one in ANSWERS[asked]:
            yield f"data: {json.dumps(one)}\n\n".encode()


@pytest.fixture(scope="module")
def triton() -> StubTriton:
    return StubTriton()


@pytest.fixture(scope="module")
def url(triton: StubTriton) -> Iterator[str]:
    with served() as serve:
        behind = serve(triton.app)

        async def generate(asked: ChatRequest) -> AsyncGenerator[Piece]:
            async with triton_session() as session:
                model = TritonModel(session, url=lambda: behind, name="chat", version="7")
                async for one in model.generate(asked):
                    yield one

        front = Front(generate, model_name="chat", version="7", status=lambda: {"is": "fine"})
        yield serve(front.app())


def ask(url: str, asked: str, **fields: object) -> httpx2.Response:
    return httpx2.post(f"{url}/v1/chat/completions", json=a_chat(asked, **fields), timeout=20)


def outcome(answer: httpx2.Response, *, is_streamed: bool) -> Outcome | None:
    """What the guard makes of it."""
    if answer.headers["content-type"].startswith("text/event-stream"):
        scan = StreamScan()
        scan.feed(answer.content)
        # A stream that ends without its end mark was broken off.
        return scan.outcome or Outcome.FAILED
    return whole_outcome(answer.status_code, answer.content, is_streamed=is_streamed)


@pytest.mark.parametrize("asked", ["whole", "pieces"])
def test_an_answer_comes_whole_with_its_usage_however_triton_sends_it(url: str, asked: str) -> None:
    answer = ask(url, asked)

    body = answer.json()
    assert (answer.status_code, answer.headers[VERSION_HEADER]) == (200, "7")
    assert body["choices"][0]["message"]["content"] == "Paris."
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


@pytest.mark.parametrize("asked", ["whole", "pieces"])
def test_an_answer_is_streamed_however_triton_sends_it(url: str, asked: str) -> None:
    answer = ask(url, asked, stream=True, stream_options={"include_usage": True})

    *events, end = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    documents = [json.loads(event) for event in events]
    deltas = [one["choices"][0]["delta"] for one in documents if one["choices"]]
    assert "".join(delta.get("content", "") for delta in deltas) == "Paris."
    assert documents[-1]["usage"]["completion_tokens"] == 2
    assert end == "[DONE]"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("asked", ["status", "error", "cached failure", "nothing"])
def test_what_fails_at_once_is_a_500_though_triton_says_200(url: str, asked: str, stream) -> None:
    answer = ask(url, asked, stream=stream)

    assert answer.status_code == 500
    assert answer.headers[VERSION_HEADER] == "7"
    assert answer.json()["error"]["type"] == "server_error"
    assert outcome(answer, is_streamed=stream) is Outcome.FAILED


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("asked", ["error under way", "no end"])
def test_what_fails_under_way_counts_against_the_version(url: str, asked: str, stream) -> None:
    answer = ask(url, asked, stream=stream)

    assert answer.status_code == (200 if stream else 500)
    assert outcome(answer, is_streamed=stream) is Outcome.FAILED


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_model_refuses_is_the_clients_fault(url: str, stream) -> None:
    answer = ask(url, "refused", stream=stream)

    assert answer.status_code == 400
    assert answer.json()["error"] == {
        "message": "too long", "type": "invalid_request_error", "param": "messages", "code": None,
    }  # fmt: skip
    assert outcome(answer, is_streamed=stream) is Outcome.ANSWERED


def test_a_body_that_cannot_be_read_never_reaches_triton(url: str) -> None:
    assert ask(url, "whole", max_tokens=0).status_code == 400


def test_a_client_that_leaves_a_stream_ends_the_work_behind_it(
    url: str, triton: StubTriton
) -> None:
    triton.left.clear()
    body = a_chat("hang", stream=True)
    with httpx2.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=20) as answer:
        next(answer.iter_bytes())

    assert triton.left.wait(10)


def test_a_client_that_does_not_wait_for_its_whole_answer_ends_the_work_behind_it(
    url: str, triton: StubTriton
) -> None:
    triton.left.clear()
    with pytest.raises(httpx2.TimeoutException):
        httpx2.post(f"{url}/v1/chat/completions", json=a_chat("hang"), timeout=0.5)

    assert triton.left.wait(10)


def test_it_says_how_it_stands(url: str) -> None:
    assert httpx2.get(f"{url}/status").json() == {"is": "fine"}
