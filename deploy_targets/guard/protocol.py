"""What is spoken behind the split: OpenAI's protocol, passed on byte for byte, or Triton's, translated both ways.

A `Call` is one request in those words. What it makes of an answer is an answer in OpenAI's words, or one of the guard's
errors, so nothing else in the guard knows which protocol it is.
"""

import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Literal, Protocol

from deploy_targets.engine import chat
from deploy_targets.engine.chat import Frame, Piece
from deploy_targets.engine.generate_stream import (
    PieceReader,
    error_of,
    generate_body,
    generate_path,
)
from deploy_targets.engine.tensors import AnswerFailed
from deploy_targets.guard import errors
from deploy_targets.guard.upstream import MAX_ANSWER_BYTES, Answer
from deploy_targets.guard.wire import Asked

ProtocolName = Literal["openai", "triton"]


class Call(Protocol):
    """One chat request on its way to the split."""

    path: str
    body: bytes

    async def read(self, answer: Answer) -> Answer:
        """The answer as OpenAI would have given it, once it has begun.

        To read its body may raise EngineFailed, or ModelRefused in place of the first piece.
        """
        ...


def call_for(
    protocol: ProtocolName, asked: Asked, *, endpoint: str, request_id: str
) -> "OpenAICall | TritonCall":
    """The call for this request. A stream always ends with its usage, whether the client has asked for it or not.

    Raises:
        RequestInvalid: a field that has to be translated cannot be read.
    """
    if protocol == "openai":
        return OpenAICall(asked)
    try:
        parsed = chat.parse_chat(asked.body)
    except chat.BadRequest as error:
        raise errors.RequestInvalid(str(error), param=error.param) from error
    return TritonCall(parsed, endpoint=endpoint, request_id=request_id)


class OpenAICall:
    """Passes on what there is."""

    path = "/v1/chat/completions"

    def __init__(self, asked: Asked) -> None:
        """The body is the client's own; a stream's with one field more where the client has not asked for usage."""
        self.body = asked.body
        if asked.is_streamed and not asked.wants_usage:
            document = asked.document()
            options: dict[str, Any] = document.get("stream_options") or {}
            document["stream_options"] = {**options, "include_usage": True}
            self.body = asked.changed(document).body

    async def read(self, answer: Answer) -> Answer:
        """The answer itself."""
        return answer


class TritonCall:
    """A chat as Triton's generate stream."""

    def __init__(self, asked: chat.ChatRequest, *, endpoint: str, request_id: str) -> None:
        """The model in Triton is called like the endpoint."""
        self.path = generate_path(endpoint)
        self.body = generate_body(asked, draw=request_id)
        self._is_streamed = asked.stream
        self._frame = Frame(
            request_id=request_id,
            created=int(time.time()),
            model=endpoint,
            include_usage=True,
        )

    async def read(self, answer: Answer) -> Answer:
        """As `Call` has it. What the split itself answers is passed on; the events name a version where it does not."""
        if answer.status != HTTPStatus.OK:
            return await _read_error(answer)
        reader = PieceReader()
        pieces = await _begun(_pieces(answer, reader))
        body = self._events(pieces) if self._is_streamed else self._whole(pieces)
        return replace(answer, version=answer.version or reader.version, body=body)

    async def _events(self, pieces: AsyncIterator[Piece]) -> AsyncIterator[bytes]:
        before = self._frame.opening()
        async for piece in pieces:
            if told := before + self._frame.events(piece):
                yield told
            before = b""

    async def _whole(self, pieces: AsyncIterator[Piece]) -> AsyncIterator[bytes]:
        told: list[Piece] = []
        left = MAX_ANSWER_BYTES
        async for piece in pieces:
            told.append(piece)
            left -= len(piece.text) + 1
            if left < 0:
                message = f"The answer is larger than {MAX_ANSWER_BYTES} bytes."
                raise errors.UpstreamBroken(message)
        yield json.dumps(self._frame.whole(told)).encode()


async def _pieces(answer: Answer, reader: PieceReader) -> AsyncGenerator[Piece]:
    """The pieces of the answer; what has been answered in part is not refused any more, but fails."""
    has_begun = False
    try:
        async for data in answer.body:
            for piece in reader.feed(data):
                yield piece
                has_begun = True
        for piece in reader.end():
            yield piece
    except chat.BadRequest as error:
        if not has_begun:
            raise errors.ModelRefused(str(error), param=error.param) from error
        message = f"The engine failed: it refused the request under way ({error})."
        raise errors.EngineFailed(message) from error
    except AnswerFailed as error:
        message = f"The engine failed: {error}"
        raise errors.EngineFailed(message) from error


async def _begun(pieces: AsyncGenerator[Piece]) -> AsyncGenerator[Piece]:
    """The same pieces, or the same error, once the first of them is there."""
    try:
        first = await anext(pieces)
    except errors.GuardError as error:
        return _failing(error)
    return _put_before(first, pieces)


async def _put_before(first: Piece, rest: AsyncGenerator[Piece]) -> AsyncGenerator[Piece]:
    yield first
    async for piece in rest:
        yield piece


async def _failing(error: errors.GuardError) -> AsyncGenerator[Piece]:
    raise error
    yield  # makes it a generator


async def _read_error(answer: Answer) -> Answer:
    """A request that the guard has made and Triton cannot take is the version's fault, so never a 4xx."""
    body = await answer.whole()
    status, told = answer.status, error_of(body)
    if told is not None:
        status = max(status, HTTPStatus.INTERNAL_SERVER_ERROR)
        envelope = chat.envelope(f"The engine failed: {told}", kind="server_error")
        body = json.dumps(envelope).encode()
    return replace(answer, status=status).again(body)
