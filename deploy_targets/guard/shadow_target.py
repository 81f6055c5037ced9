"""Which version requests are mirrored to: what the controller says, for as long as it says so.

It says so on the admin side, again and again while a rollout lasts. A word that is not renewed lapses, so that nothing is
asked of a version for longer than a controller stands behind it.
"""

import time
from http import HTTPStatus
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

SHADOW_PATH = "/shadow"
_MAX_WORD_BYTES = 1000


class Word(BaseModel):
    """What the controller says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Annotated[str, Field(pattern=r"^[0-9]{1,18}$")] | None
    """None: to none."""
    for_s: Annotated[float, Field(gt=0, le=3600)]
    """How long that holds, unless it is said again."""


class ShadowTarget:
    """The version, if there is one."""

    def __init__(self) -> None:
        """None until one is named."""
        self._version: str | None = None
        self._until = 0.0

    @property
    def version(self) -> str | None:
        """As it is now."""
        return self._version if time.monotonic() < self._until else None

    def name(self, word: Word) -> None:
        """From now on it is this one."""
        self._version, self._until = word.version, time.monotonic() + word.for_s

    def route(self) -> Route:
        """PUT /shadow, for the admin side."""

        async def put(request: Request) -> Response:
            try:
                self.name(Word.model_validate_json(await _small_body(request)))
            except (ValidationError, ClientDisconnect) as error:
                return PlainTextResponse(str(error), status_code=HTTPStatus.BAD_REQUEST)
            return Response(status_code=HTTPStatus.NO_CONTENT)

        return Route(SHADOW_PATH, put, methods=["PUT"])


async def _small_body(request: Request) -> bytes:
    """At most a little more than a word can have, of which the rest would be no word."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > _MAX_WORD_BYTES:
            break
    return bytes(body)
