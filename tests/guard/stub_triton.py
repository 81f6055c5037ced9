"""A stub Triton that answers its generate stream in each of the ways in which the real one does.

What it does is said by the last message of a request, as with `stub.StubEngine`. `… unnamed`: the split does not say
which version it is, as Knative's does not.
"""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.guard.stub import ENDPOINT, SAY, VERSION, event, said_in_pieces

NAMED = {"model_name": ENDPOINT, "model_version": "7"}


def piece(text: str, finish: str = "", tokens: int = 1) -> dict[str, Any]:
    return {
        **NAMED,
        "text_output": text,
        "finish_reason": finish,
        "num_input_tokens": 3,
        "num_output_tokens": tokens,
    }


def encoded(*events: object) -> bytes:
    return b"".join(map(event, events))


END = piece("is.", "stop", 2)
REFUSAL = piece('{"message":"too long","param":"messages"}', "refused")
ANSWERS: dict[str, bytes] = {
    "whole": encoded(piece("Paris.", "stop", 2)),
    "pieces": encoded(piece("Par"), END),
    "an empty end": encoded(piece("Par"), piece("is."), piece("", "stop", 2)),
    "no last line end": encoded(piece("Par"), END).rstrip(),
    "error": encoded({"error": "out of memory"}),
    "cached failure": encoded(NAMED),
    "error under way": encoded(piece("Par"), {"error": "out of memory"}),
    "no end": encoded(piece("Par")),
    "nothing": b"",
    "refused": encoded(REFUSAL),
    "refused under way": encoded(piece("Par"), REFUSAL),
    "garbage": b"data: <html>\n\n",
    "another model": encoded({**NAMED, "text_output": "hi"}),
    "no object": encoded([1]),
    "endless line": b"data: " + b"x" * (2 << 20),
}
STATUSES: dict[str, Response] = {
    "400": Response(encoded({"error": "no such name"}), 400, VERSION, "text/event-stream"),
    "404 of Triton": Response('{"error":"Request for unknown model"}', 404, VERSION),
    "503": Response(encoded({"error": "Exceeds maximum queue size"}), 503, VERSION),
    "503 of the split": PlainTextResponse("upstream connect error", 503, VERSION),
    "404 of the split": PlainTextResponse("no route", 404),
}


class StubTriton:
    """Has the interface of `StubEngine`."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.begun = threading.Semaphore(0)
        self.ended = threading.Event()
        """A hanging request was ended by the other side."""
        self.go_on = threading.Event()
        path = f"/v2/models/{ENDPOINT}/generate_stream"
        self.app = Starlette(routes=[Route(path, self._answer, methods=["POST"])])

    async def _answer(self, request: Request) -> Response:
        body = await request.body()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        self.begun.release()
        asked = json.loads(json.loads(body)["text_input"])[-1]["content"]
        if asked in STATUSES:
            return STATUSES[asked]
        events = self._events(asked.removesuffix(" unnamed"))
        headers = {} if asked.endswith(" unnamed") else VERSION
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)

    async def _events(self, asked: str) -> AsyncIterator[bytes]:
        match asked:
            case "torn":
                for byte in encoded(piece("Par"), END):
                    yield bytes([byte])
            case "drip":
                try:
                    while True:
                        yield event(piece("x"))
                        await asyncio.sleep(0.01)
                finally:
                    self.ended.set()
            case "break":
                yield event(piece("Par"))
                await asyncio.to_thread(self.go_on.wait, 10)
                raise _CutError
            case "break at once":
                raise _CutError
            case _ if asked.startswith(SAY):
                for said in said_in_pieces(asked):
                    yield event(piece(said))
                yield event(piece("", "stop"))
            case _:
                yield ANSWERS[asked]


class _CutError(Exception):
    """Makes the server close the connection."""
