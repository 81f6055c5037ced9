"""A split with a champion, 7, and a challenger, 8, each of which answers as a test says; and the counts of a page."""

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import anyio.to_thread
import httpx2
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.guard.stub import COMPLETION, DONE, chunk

CHAMPION, CHALLENGER = "7", "8"


def an_answer(text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {**COMPLETION, "choices": [choice]}


class TwoVersions:
    """The split."""

    def __init__(self) -> None:
        self.champion = "Paris is the capital of France."
        self.challenger: str | Response = self.champion
        self.is_deployed = True
        self.pinned: list[dict[str, Any]] = []
        """The bodies that were asked of the challenger."""
        self.begun = threading.Semaphore(0)
        self.ended = threading.Event()
        """A request that hung was given up by the other side."""
        self.hangs = False
        self.go_on = threading.Event()
        self.go_on.set()
        self.app = Starlette(routes=[Route("/v1/chat/completions", self._chat, methods=["POST"])])

    async def _chat(self, request: Request) -> Response:
        body = json.loads(await request.body())
        pin = request.headers.get("x-shipway-version")
        if pin is None:
            headers = {"x-shipway-version": CHAMPION}
            if not body.get("stream"):
                return JSONResponse(an_answer(self.champion), headers=headers)
            half = len(self.champion) // 2
            events = (chunk(self.champion[:half]), chunk(self.champion[half:]), DONE)
            return StreamingResponse(iter(events), headers=headers, media_type="text/event-stream")
        self.pinned.append(body)
        self.begun.release()
        if not self.is_deployed:
            return JSONResponse({"error": {"message": "not deployed"}}, status_code=404)
        if self.hangs:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            self.ended.set()
        await anyio.to_thread.run_sync(self.go_on.wait, 10)
        given = self.challenger
        response = JSONResponse(an_answer(given)) if isinstance(given, str) else given
        response.headers["x-shipway-version"] = pin
        return response


def page_counts(
    admin_url: str, name: str, label: str, *, version: str = CHALLENGER
) -> dict[str, float]:
    """The samples of that name and version by one of their labels; zeros are left out."""
    page = httpx2.get(f"{admin_url}/metrics").text
    return {
        sample.labels[label]: sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == name and sample.labels.get("version") == version and sample.value
    }


def until(is_so: Callable[[], bool], *, seconds: float = 60) -> None:
    """Returns once it is so."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it never became so"
        threading.Event().wait(0.02)
