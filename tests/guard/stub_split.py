"""A stub split whose version a test changes, that counts what it is asked and can be held up."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.guard.stub import COMPLETION, DONE, FAULT, chunk, event


class StubSplit:
    """Answers with who it is and how often it was asked, so that no two of its answers are equal."""

    def __init__(self) -> None:
        self.version: str | None = "6"
        self.digest = "sha256:a"
        self.fails = False
        self.asked = 0
        self.pins: list[str | None] = []
        self.begun = threading.Semaphore(0)
        self.is_open = threading.Event()
        self.is_open.set()
        """While it is cleared no answer begins."""
        self.app = Starlette(routes=[Route("/v1/chat/completions", self._chat, methods=["POST"])])

    async def _chat(self, request: Request) -> Response:
        asked = json.loads(await request.body())
        pin = request.headers.get("x-shipway-version")
        self.pins.append(pin)
        self.asked += 1
        text = f"{asked['messages'][-1]['content']} {self.version} {self.asked}"
        version = pin or self.version
        headers = {"x-shipway-digest": self.digest}
        if version is not None:
            headers["x-shipway-version"] = version
        self.begun.release()
        await asyncio.to_thread(self.is_open.wait, 10)
        if self.fails:
            return JSONResponse(FAULT, status_code=500, headers=headers)
        if asked.get("stream"):
            events = self._events(text)
            return StreamingResponse(events, media_type="text/event-stream", headers=headers)
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return JSONResponse({**COMPLETION, "choices": [choice]}, headers=headers)

    async def _events(self, text: str) -> AsyncIterator[bytes]:
        for piece in text.split(" "):
            yield chunk(f"{piece} ")
        last: dict[str, object] = {"index": 0, "delta": {}, "finish_reason": "stop"}
        yield event({"id": "c", "choices": [last]})
        yield event({"id": "c", "choices": [], "usage": COMPLETION["usage"]})
        if "broken" not in text:
            yield DONE
