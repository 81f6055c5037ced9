"""OpenAI's protocol before one revision on Triton: a chat in, Triton's generate stream behind it, an answer out.

Triton answers some failures with status 200: here each is a 5xx, or an error in the stream where it has begun, so that it
counts against its version. Nothing of the answer is sent before Triton has begun to answer.
"""

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from http import HTTPStatus
from typing import Any, TypeVar

import aiohttp
import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from deploy_targets.engine import chat
from deploy_targets.engine.answer import Answer
from deploy_targets.routing.traffic import VERSION_HEADER
from deploy_targets.triton.tensors import AnswerFailed, Piece, decode_piece, encode_request
from registry.events import Event

_DATA = b"data:"
_MAX_EVENT_BYTES = 1 << 20
_CLIENT_GONE = 499
"""As nginx has it; nobody is there to read it."""
_log = structlog.get_logger()

T = TypeVar("T")
Generate = Callable[[chat.ChatRequest], AsyncGenerator[Piece]]


class ClientGone(Exception):
    """Whoever asked does not wait for the answer any more."""


class TritonModel:
    """One version of a model on a running Triton."""

    def __init__(
        self, session: aiohttp.ClientSession, *, url: Callable[[], str], name: str, version: str
    ) -> None:
        """`url` is asked for each request: a Triton that was started again may listen elsewhere."""
        self._session = session
        self._url = url
        self._path = f"/v2/models/{name}/versions/{version}/generate_stream"

    async def generate(self, asked: chat.ChatRequest) -> AsyncGenerator[Piece]:
        """The answer, piece by piece; leaving early closes the connection.

        Raises:
            AnswerFailed: Triton says so, in whichever of its ways, or ends without having finished the answer.
            BadRequest: the model refuses the request.
        """
        inputs = encode_request(asked, draw=uuid.uuid4().hex)
        finish = ""
        try:
            async with self._session.post(f"{self._url()}{self._path}", json=inputs) as response:
                if response.status != HTTPStatus.OK:
                    raise AnswerFailed(_error_of(await response.text()))
                async for line in response.content:
                    if line.startswith(_DATA):
                        piece = decode_piece(json.loads(line.removeprefix(_DATA)))
                        finish = piece.finish
                        yield piece
        except (aiohttp.ClientError, ValueError) as error:
            message = f"Triton did not answer: {type(error).__name__}: {error}"
            raise AnswerFailed(message) from error
        if not finish:
            message = "Triton ended the answer before it was finished."
            raise AnswerFailed(message)


def triton_session() -> aiohttp.ClientSession:
    """A session for `TritonModel`; to be closed by the caller, and made inside the running loop. Envoy watches the time."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=5.0),
        cookie_jar=aiohttp.DummyCookieJar(),
        read_bufsize=_MAX_EVENT_BYTES,
    )


class Front:
    """POST /v1/chat/completions and GET /status for one revision."""

    def __init__(
        self,
        generate: Generate,
        *,
        model_name: str,
        version: str,
        status: Callable[[], Mapping[str, Any]],
    ) -> None:
        """`status` is what GET /status answers."""
        self._generate = generate
        self._model_name = model_name
        self._version = version
        self._status = status

    def app(self) -> Starlette:
        """The ASGI application."""

        async def status(_: Request) -> Response:
            return JSONResponse(dict(self._status()))

        routes = [
            Route("/v1/chat/completions", self._respond, methods=["POST"]),
            Route("/status", status),
        ]
        return Starlette(routes=routes)

    async def _respond(self, request: Request) -> Response:
        headers = {VERSION_HEADER: self._version}
        try:
            asked = chat.parse_chat(await request.body())
            response = await self._answer(request, asked)
        except chat.BadRequest as error:
            body = chat.envelope(str(error), kind="invalid_request_error", param=error.param)
            response = JSONResponse(body, status_code=HTTPStatus.BAD_REQUEST)
        except AnswerFailed as error:
            _log.error(Event.REQUEST_FAILED, version=self._version, error=str(error))
            body = chat.envelope(f"The engine failed: {error}", kind="server_error")
            response = JSONResponse(body, status_code=HTTPStatus.INTERNAL_SERVER_ERROR)
        except ClientGone:
            response = Response(status_code=_CLIENT_GONE)
        response.headers.update(headers)
        return response

    async def _answer(self, request: Request, asked: chat.ChatRequest) -> Response:
        pieces = self._generate(asked)
        first = await _unless_gone(request, _first(pieces))
        answer = Answer(model=self._model_name, prompt_tokens=first.usage.prompt)
        deltas = _deltas(first, pieces, answer)
        if asked.stream:
            events = answer.events(deltas, include_usage=asked.include_usage)
            return StreamingResponse(events, media_type="text/event-stream")
        text = await _unless_gone(request, _joined(deltas))
        return JSONResponse(answer.whole(text))


async def _first(pieces: AsyncGenerator[Piece]) -> Piece:
    return await anext(pieces)


async def _joined(deltas: AsyncGenerator[str]) -> str:
    return "".join([delta async for delta in deltas])


async def _deltas(first: Piece, rest: AsyncGenerator[Piece], answer: Answer) -> AsyncGenerator[str]:
    """The texts of the pieces; `answer` learns of usage and finish on the way."""

    def take(piece: Piece) -> str:
        answer.completion_tokens = piece.usage.completion
        answer.finish = piece.finish or answer.finish
        return piece.text

    try:
        yield take(first)
        async for piece in rest:
            yield take(piece)
    finally:
        await rest.aclose()


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What `work` gives; it is cancelled, and with it the way to Triton closed, when the client leaves first.

    Raises:
        ClientGone: it did.
    """

    async def leave() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.create_task(work), asyncio.create_task(leave())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
    finally:
        leaving.cancel()
        working.cancel()
    await asyncio.wait((working,))
    raise ClientGone


def _error_of(body: str) -> str:
    """What Triton says in an error, as JSON or as the first event of a stream that is none."""
    try:
        return str(json.loads(body.strip().removeprefix(_DATA.decode()))["error"])
    except (ValueError, KeyError, TypeError):
        return body[-500:] or "without a reason"
