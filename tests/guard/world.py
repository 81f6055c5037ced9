"""A guard in front of a stub engine, both behind real servers on loopback, in a thread of their own.

What the stub does is said by the last message of a request, so that a test reads in one place.
"""

import asyncio
import json
import queue
import socket
import threading
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx2
import uvicorn
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from deploy_targets.guard.app import admin_app, guard_app
from deploy_targets.guard.counters import Counters
from deploy_targets.guard.key_file import KeyFile
from deploy_targets.guard.upstream import Upstream, upstream_session

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


def keys_json(**keys: str) -> str:
    entries = [
        {"name": name, "sha256": sha256(key.encode()).hexdigest()} for name, key in keys.items()
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


class StubEngine:
    """Answers as it is told to."""

    def __init__(self) -> None:
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
        behaviour = asked["messages"][-1]["content"]
        self.begun.release()
        if behaviour == "hang":
            await self._until_gone(request)
        if behaviour == "slow":
            await asyncio.to_thread(self.go_on.wait, 10)
        elif behaviour in ANSWERS:
            return ANSWERS[behaviour]
        elif asked.get("stream"):
            events = self._events(behaviour, request)
            return StreamingResponse(events, media_type="text/event-stream", headers=VERSION)
        return JSONResponse(COMPLETION, headers=VERSION)

    async def _events(self, behaviour: str, request: Request) -> AsyncIterator[bytes]:
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
                for _ in range(200_000):
                    yield chunk("x" * 1000)
            case _:
                pass
        yield chunk("is.")
        yield DONE

    async def _until_gone(self, request: Request) -> None:
        try:
            while (await request.receive())["type"] != "http.disconnect":
                pass
        finally:  # in a stream, starlette notices first and cancels
            self.ended.set()


class _CutError(Exception):
    """Makes the server close the connection."""


class World:
    """The stub, the guard and its admin side, running."""

    def __init__(self, lines: "queue.Queue[dict[str, Any]]") -> None:
        self.stub = StubEngine()
        self._lines = lines
        self._unread = 0
        self._servers: list[uvicorn.Server] = []
        self._sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
        stub_port, port, admin_port = (one.getsockname()[1] for one in self._sockets)
        self.stub_url = f"http://127.0.0.1:{stub_port}"
        self.url = f"http://127.0.0.1:{port}"
        self.admin_url = f"http://127.0.0.1:{admin_port}"
        self.http = httpx2.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=20
        )

    def start(self, *, keys_file: Path | None, upstream_url: str | None, timeout_s: float) -> None:
        url = upstream_url or self.stub_url
        run = self._run(keys_file, url, timeout_s)
        self._thread = threading.Thread(target=asyncio.run, args=(run,))
        self._thread.start()

    def stop(self) -> None:
        self.stub.go_on.set()
        self.http.close()
        for server in self._servers:
            server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()

    async def _run(self, keys_file: Path | None, upstream_url: str, timeout_s: float) -> None:
        registry = CollectorRegistry()
        counters = Counters(registry, endpoint=ENDPOINT)
        keys = None if keys_file is None else KeyFile(keys_file)
        async with upstream_session() as session:
            guard = guard_app(
                endpoint=ENDPOINT,
                model="smollm2",
                keys=keys,
                upstream=Upstream(session, upstream_url, timeout_s=timeout_s),
                counters=counters,
            )
            apps = (self.stub.app, guard, admin_app(registry, keys=keys))
            self._servers = [
                uvicorn.Server(
                    uvicorn.Config(
                        app,
                        http="httptools",
                        lifespan="off",
                        log_config=None,
                        timeout_graceful_shutdown=1,
                    )
                )
                for app in apps
            ]
            await asyncio.gather(
                *(
                    server.serve(sockets=[one])
                    for server, one in zip(self._servers, self._sockets, strict=True)
                )
            )

    def sent(self) -> None:
        """Another request is on its way; its line will come."""
        self._unread += 1

    def post(self, body: object = None, **headers: str) -> httpx2.Response:
        self.sent()
        return self.http.post("/v1/chat/completions", json=body or a_chat(), headers=headers)

    def line(self) -> dict[str, Any]:
        """The next request's log line; by then it is counted."""
        while True:
            told = self._lines.get(timeout=20)
            if told["event"] == "request.served":
                self._unread -= 1
                return told

    def samples(self, name: str) -> dict[tuple[str, str], float]:
        """The series of that name by (version, route), once every request that was sent has its line."""
        while self._unread > 0:
            self.line()
        page = httpx2.get(f"{self.admin_url}/metrics").text
        return {
            (sample.labels["version"], sample.labels["route"]): sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.name == name
        }

    def counted(self, version: str = "7", route: str = "chat") -> tuple[float, float] | None:
        """(requests, errors) of a version; None when it was never seen."""
        key = (version, route)
        requests = self.samples("llm_inference_requests_total")
        errors = self.samples("llm_inference_errors_total")
        assert requests.keys() == errors.keys()
        return (requests[key], errors[key]) if key in requests else None
