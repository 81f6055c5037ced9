"""A chat's webhook: a small HTTP server that keeps what it is sent and answers as it is told."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.guard.stub import served

SECRET = "T0K3N-0f-the-channel"


class Chat:
    """What arrived, and what is answered: a status each, 200 when none is left."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.answers: list[int] = []
        self.hangs = False
        self.released = threading.Event()
        self.url = ""
        self._changed = threading.Condition()
        self.app = Starlette(routes=[Route("/hook/{rest:path}", self._take, methods=["POST"])])

    async def _take(self, request: Request) -> Response:
        body = await request.json()
        with self._changed:
            self.bodies.append(body)
            self._changed.notify_all()
        if self.hangs:
            while not self.released.is_set() and not await request.is_disconnected():
                await asyncio.sleep(0.01)
        status = self.answers.pop(0) if self.answers else 200
        headers = {"location": f"{self.url}/elsewhere"} if 300 <= status < 400 else {}
        return Response("ok", status_code=status, headers=headers)

    def until(self, number: int) -> list[str]:
        """The texts, once there are so many."""
        ends = monotonic() + 60
        with self._changed:
            while len(self.bodies) < number:
                assert self._changed.wait(ends - monotonic()), self.bodies
        assert all(set(body) == {"text"} for body in self.bodies)
        return [body["text"] for body in self.bodies]


@contextmanager
def a_chat_room() -> Iterator[Chat]:
    """One that listens on loopback until the end of the block."""
    chat = Chat()
    with served() as serve:
        chat.url = f"{serve(chat.app)}/hook/{SECRET}"
        try:
            yield chat
        finally:
            chat.released.set()
