"""A stub engine that answers as it is told, and a way to serve apps on loopback from a test.

What it does is said by the last message of a request, so that a test reads in one place.
"""

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from deploy_targets.guard.http_heads import BoundedHeads

KEY = "sk-shipway-" + "k" * 43
ENDPOINT = "chat"
VERSION = {"x-shipway-version": "7"}


def a_chat(behaviour: str = "ok", **fields: object) -> dict[str, Any]:
    return {
        "model": ENDPOINT,
        "messages": [{"role": "user", "content": behaviour}],
        "max_tokens": 8,
        **fields,
    }


def keys_json(*, role: str = "operator", **keys: str) -> str:
    entries = [
        {"name": name, "sha256": sha256(key.encode()).hexdigest(), "role": role}
        for name, key in keys.items()
    ]
    return json.dumps({"keys": entries})


def event(document: object) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def chunk(text: str) -> bytes:
    return event(
        {
            "id": "c",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "m",
            "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}],
        }
    )


COMPLETION = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Paris."},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
}
FAULT = {"error": {"message": "out of memory", "type": "server_error", "param": None, "code": None}}
DONE = b"data: [DONE]\n\n"

ANSWERS: dict[str, Response] = {
    "500": JSONResponse(FAULT, status_code=500, headers=VERSION),
    "text 503": PlainTextResponse(
        "upstream connect error or disconnect/reset before headers",
        status_code=503,
        headers=VERSION,
    ),
    "error in 200": JSONResponse(FAULT, headers=VERSION),
    "garbage": PlainTextResponse("<html>", headers=VERSION),
    "429": JSONResponse(FAULT, status_code=429, headers={**VERSION, "retry-after": "7"}),
    "404": PlainTextResponse("no route", status_code=404),
    "redirect": Response(status_code=302, headers={**VERSION, "location": "/elsewhere"}),
}
"""What the stub says at once, by the message that asks for it."""

LAST_WORDS = {
    "truncate": b"\n",
    "truncate in a line": b'data: {"choices": [{"in',
    "error chunk": event(FAULT),
}
"""With what a stream ends that has no end mark."""


SAY = "say "
"""With which a message begins whose rest is to be the answer, in a stream two characters at a time."""


RAW = "raw "
"""With which a message begins whose rest is the answer's document, or its one event."""


def said_in_pieces(behaviour: str) -> list[str]:
    text = behaviour.removeprefix(SAY)
    return [text[at : at + 2] for at in range(0, len(text), 2)]


def _told(behaviour: str) -> Iterator[bytes] | None:
    """The events of an answer that the message itself spells; None where it does not."""
    if behaviour.startswith(RAW):
        return iter((event(json.loads(behaviour.removeprefix(RAW))), DONE))
    if not behaviour.startswith(SAY):
        return None
    end = event({"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    return iter((*map(chunk, said_in_pieces(behaviour)), end, DONE))


def _completion(behaviour: str) -> dict[str, Any]:
    if behaviour.startswith(RAW):
        return json.loads(behaviour.removeprefix(RAW))
    if not behaviour.startswith(SAY):
        return COMPLETION
    message = {"role": "assistant", "content": behaviour.removeprefix(SAY)}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": {"content": []}}
    return {**COMPLETION, "choices": [choice]}


class StubEngine:
    """Answers as it is told to."""

    def __init__(self, always: str | None = None) -> None:
        """`always` is what it does whatever it is asked."""
        self._always = always
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.begun = threading.Semaphore(0)
        self.ended = threading.Event()
        """A hanging request was ended by the other side."""
        self.go_on = threading.Event()
        self.app = Starlette(routes=[Route("/v1/chat/completions", self._chat, methods=["POST"])])

    async def _chat(self, request: Request) -> Response:
        body = await request.body()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        asked = json.loads(body)
        behaviour = self._always or asked["messages"][-1]["content"]
        self.begun.release()
        if behaviour == "hang":
            await self._until_gone(request)
        if behaviour == "slow":
            await asyncio.to_thread(self.go_on.wait, 10)
        elif behaviour in ANSWERS:
            return ANSWERS[behaviour]
        elif asked.get("stream"):
            counts = bool(asked.get("stream_options"))
            events = _told(behaviour) or self._events(behaviour, request, counts=counts)
            return StreamingResponse(events, media_type="text/event-stream", headers=VERSION)
        return JSONResponse(_completion(behaviour), headers=VERSION)

    async def _events(
        self, behaviour: str, request: Request, *, counts: bool
    ) -> AsyncIterator[bytes]:
        if behaviour == "break at once":
            raise _CutError
        yield chunk("Par")
        if behaviour in LAST_WORDS:
            yield LAST_WORDS[behaviour]
            return
        match behaviour:
            case "break":
                yield b'data: {"choices": [{"in'
                await asyncio.to_thread(self.go_on.wait, 10)
                raise _CutError
            case "hang in stream":
                await self._until_gone(request)
            case "drip":
                try:
                    while True:
                        yield chunk("x")
                        await asyncio.sleep(0.01)
                finally:
                    self.ended.set()
            case "long":
                async for piece in _endless():
                    yield piece
            case _:
                pass
        yield chunk("is.")
        if counts:
            yield event({"id": "c", "choices": [], "usage": COMPLETION["usage"]})
        yield DONE

    async def _until_gone(self, request: Request) -> None:
        try:
            while (await request.receive())["type"] != "http.disconnect":
                pass
        finally:  # in a stream, starlette notices first and cancels
            self.ended.set()


async def _endless() -> AsyncIterator[bytes]:
    """More than any buffer holds. Who has gone is noticed only when the loop comes round."""
    for _ in range(2_000):
        yield chunk("x" * 1000) * 100
        await asyncio.sleep(0)


class _CutError(Exception):
    """Makes the server close the connection."""


def a_server(app: ASGIApp) -> uvicorn.Server:
    config = uvicorn.Config(
        app, http=BoundedHeads, lifespan="off", log_config=None, timeout_graceful_shutdown=1
    )
    return uvicorn.Server(config)


@contextmanager
def served() -> Iterator[Callable[[ASGIApp], str]]:
    """Serves each app that it is given, on a port of its own, until the end of the block."""
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(app: ASGIApp) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        server = a_server(app)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()
