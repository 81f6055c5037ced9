"""The engine over HTTP, with a real tiny model, without Ray around it."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
from starlette.requests import Request

from deploy_targets.engine.generation import Row
from deploy_targets.ray_serve import app
from deploy_targets.ray_serve.app import Engine, EngineArgs
from tests.tiny_model import TEMPLATE, write_tiny_model

pytestmark = pytest.mark.real

PATH = "/chat-v7/v1/chat/completions"
_RUNNER = asyncio.Runner()


class Store:
    """An artifact store with one artifact."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fetch(self, source: str, digest: str, *, into: Path) -> Path:
        return self.folder


@pytest.fixture(scope="module", autouse=True)
def runner() -> Iterator[None]:
    """One event loop for all requests, as in a replica: an engine's batcher lives on the loop of its first request."""
    with _RUNNER:
        yield


@pytest.fixture
def an_engine(monkeypatch) -> Callable[[Path], Engine]:
    def make(folder: Path) -> Engine:
        monkeypatch.setattr(app, "connect_store", lambda _: Store(folder))
        return Engine(
            EngineArgs(
                model_name="chat",
                version="7",
                source="s3://shipway/models/7",
                digest="sha256:" + "0" * 64,
                max_context_tokens=256,
                threads=1,
                max_batch_size=8,
                batch_wait_s=0.02,
            )
        )

    return make


@pytest.fixture
def engine(an_engine: Callable[[Path], Engine], checkpoint: Path) -> Engine:
    return an_engine(checkpoint)


def ask(engine: Engine, *bodies: object, path: str = PATH) -> list[httpx2.Response]:
    """The answers to bodies that are all sent at once."""

    async def served(scope, receive, send) -> None:
        response = await engine(Request(scope, receive))
        await response(scope, receive, send)

    async def send_all() -> list[httpx2.Response]:
        transport = httpx2.ASGITransport(served)
        async with httpx2.AsyncClient(transport=transport, base_url="http://engine") as http:
            return await asyncio.gather(*(http.post(path, json=body) for body in bodies))

    return _RUNNER.run(send_all())


def a_chat(content: str = "the fox", **fields: object) -> dict[str, object]:
    messages = [{"role": "user", "content": content}]
    return {"messages": messages, "temperature": 0, "max_tokens": 12, **fields}


def events(response: httpx2.Response) -> list[str]:
    lines = [line for line in response.text.split("\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    return [line.removeprefix("data: ") for line in lines]


def streamed_text(response: httpx2.Response) -> str:
    chunks = [json.loads(event) for event in events(response) if event != "[DONE]"]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    return "".join(delta.get("content", "") for delta in deltas)


def test_a_whole_answer_has_its_text_its_usage_and_its_reason_to_end(engine: Engine) -> None:
    [response] = ask(engine, a_chat())
    answer = response.json()
    assert response.status_code == 200
    assert (answer["object"], answer["model"]) == ("chat.completion", "chat")
    assert answer["choices"][0]["message"]["content"]
    assert answer["choices"][0]["finish_reason"] == "length"
    usage = answer["usage"]
    assert usage["completion_tokens"] == 12
    assert usage["total_tokens"] == usage["prompt_tokens"] + 12


def test_a_streamed_answer_is_the_whole_answer_in_pieces(engine: Engine) -> None:
    options = {"include_usage": True}
    whole, streamed = ask(engine, a_chat(), a_chat(stream=True, stream_options=options))
    assert streamed.headers["content-type"].startswith("text/event-stream")
    *_, last, usage, done = events(streamed)
    assert done == "[DONE]"
    assert json.loads(last)["choices"][0]["finish_reason"] == "length"
    assert json.loads(usage)["usage"] == whole.json()["usage"]
    assert streamed_text(streamed) == whole.json()["choices"][0]["message"]["content"]


def test_no_piece_holds_half_a_character(engine: Engine) -> None:
    # Random weights over a byte-level vocabulary make broken characters all the time.
    answers = ask(
        engine, *(a_chat(f"fox {n}", stream=True, temperature=1.5, max_tokens=60) for n in range(8))
    )
    texts = [streamed_text(answer) for answer in answers]
    assert all(not text.endswith("\ufffd") for text in texts)
    assert any(texts)


def test_a_stop_string_ends_the_answer_before_it(engine: Engine) -> None:
    [whole] = ask(engine, a_chat())
    text = whole.json()["choices"][0]["message"]["content"]
    stop = text[3:5]
    [cut] = ask(engine, a_chat(stop=[stop]))
    choice = cut.json()["choices"][0]
    assert choice["message"]["content"] == text[: text.index(stop)]
    assert choice["finish_reason"] == "stop"
    assert cut.json()["usage"]["completion_tokens"] < 12


@pytest.mark.parametrize(
    "body",
    [
        {"messages": []},
        a_chat(max_tokens=0),
        a_chat(max_tokens=256),
        a_chat(stop=""),
        a_chat("word " * 500),
        [],
    ],
)
def test_the_clients_fault_is_a_400_in_openais_envelope(engine: Engine, body) -> None:
    [response] = ask(engine, body)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_another_path_is_a_404(engine: Engine) -> None:
    [response] = ask(engine, {}, path="/chat-v7/v1/embeddings")
    assert response.status_code == 404
    assert response.json()["error"]["message"] == "There is no POST /chat-v7/v1/embeddings."


@pytest.mark.parametrize("fault", ["{{ house_style + 'x' }}", "{{ 1 + 'x' }}", "{{ 1 / 0 }}"])
def test_a_broken_template_is_the_artifacts_fault_a_500(an_engine, tmp_path, fault) -> None:
    broken = f"{{% if messages[0].content == 'bad' %}}{fault}{{% endif %}}{TEMPLATE}"
    engine = an_engine(write_tiny_model(tmp_path, template=broken))
    good, bad = ask(engine, a_chat("good"), a_chat("bad"))
    assert good.status_code == 200
    assert bad.status_code == 500
    assert bad.json()["error"]["type"] == "server_error"


def test_a_failure_under_way_is_told_in_the_stream_which_then_has_no_end_mark(
    engine: Engine,
) -> None:
    def fail_on_the_third(rows: list[Row], on_step: Callable[[], object]) -> None:
        for row in rows:
            row.tokens.extend([300, 301])
        on_step()
        message = "out of memory"
        raise RuntimeError(message)

    engine._batcher._generate = fail_on_the_third
    whole, streamed = ask(engine, a_chat(), a_chat(stream=True))
    assert whole.status_code == 500
    assert "out of memory" in whole.json()["error"]["message"]
    assert "out of memory" in json.loads(events(streamed)[-1])["error"]["message"]
    assert "[DONE]" not in events(streamed)


class Slowly(list[int]):
    """Tokens of a model that takes its time, so that a client can leave in between."""

    def append(self, token: int) -> None:
        super().append(token)
        time.sleep(0.02)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_costs_no_further_tokens(engine: Engine, stream: bool) -> None:  # noqa: FBT001
    rows: list[Row] = []
    make_row = engine._generator.row

    def keep(request) -> Row:
        rows.append(make_row(request))
        rows[-1].tokens = Slowly()
        return rows[-1]

    engine._generator.row = keep

    async def leave_early() -> None:
        body = json.dumps(a_chat(stream=stream, max_tokens=200)).encode()

        async def receive() -> dict[str, object]:
            if rows:
                await asyncio.Event().wait()
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(_: object) -> None:
            """Nobody listens."""

        async def served() -> None:
            scope = {"type": "http", "method": "POST", "path": PATH, "headers": [], "root_path": ""}
            scope |= {"query_string": b"", "server": ("engine", 80), "scheme": "http"}
            scope |= {"asgi": {"spec_version": "2.4"}}
            response = await engine(Request(scope, receive))
            await response(scope, receive, send)

        client = asyncio.create_task(served())
        async with asyncio.timeout(20):
            while not (rows and rows[0].tokens):
                await asyncio.sleep(0.001)
        client.cancel()
        await asyncio.gather(client, return_exceptions=True)
        assert rows[0].ended.is_set()

    asyncio.run(leave_early())
    assert len(rows[0].tokens) < 200
