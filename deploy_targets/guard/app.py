"""The ASGI apps of the guard: `guard_app` for clients, `admin_app` for the operator and the rollout.

One chat request: who is it, is it well formed, which model; then on to the split, watching both ends. A client that
leaves ends the work behind it; a version that fails gives a clear error, even in the middle of a stream.
"""

import asyncio
import json
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from deploy_targets.guard import errors
from deploy_targets.guard.access_control import ANYBODY, Caller
from deploy_targets.guard.counters import Counters
from deploy_targets.guard.errors import GuardError, KeyFileInvalid, ModelRefused, UpstreamFailed
from deploy_targets.guard.exchange import Exchange, Recorded, error_response, exchange_of
from deploy_targets.guard.key_file import KeyFile
from deploy_targets.guard.outcome import Outcome, StreamScan, is_envelope, whole_outcome
from deploy_targets.guard.protocol import Call, ProtocolName, call_for
from deploy_targets.guard.upstream import Answer, Upstream
from deploy_targets.guard.wire import ChatRequest, parse_chat
from deploy_targets.metrics import CHAT_ROUTE, PINNED_ROUTE
from deploy_targets.routing.traffic import VERSION_HEADER

_MAX_BODY_BYTES = 1 << 20
_BODY_S = 30.0
"""For a client to send its whole request: a megabyte at slow mobile speed."""
_log = structlog.get_logger()


def guard_app(
    *,
    endpoint: str,
    model: str,
    keys: KeyFile | None,
    upstream: Upstream,
    protocol: ProtocolName,
    counters: Counters,
) -> ASGIApp:
    """The clients' side. Without `keys` anybody may come in: to be chosen by name, never by omission.

    `model` is the registered model's name; clients call it by the endpoint's.
    """

    def admit(request: Request) -> Caller:
        if keys is None:
            return ANYBODY
        try:
            ring = keys.ring()
        except KeyFileInvalid as error:
            message = "API keys cannot be checked at present. Try again later."
            raise errors.KeysUnavailable(message) from error
        return ring.admit(request.headers.get("authorization"))

    async def models(request: Request) -> Response:
        exchange = exchange_of(request.scope)
        exchange.caller = admit(request).name
        exchange.decide(Outcome.ANSWERED)
        card = {"id": endpoint, "object": "model", "created": 0, "owned_by": "shipway"}
        return JSONResponse({"object": "list", "data": [card | ({"root": model} if model else {})]})

    chat = _Chat(
        endpoint=endpoint, admit=admit, upstream=upstream, protocol=protocol, counters=counters
    )
    app = Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/models", models, methods=["GET"]),
        ],
        exception_handlers={
            GuardError: _refuse,
            HTTPException: _refuse_path,
            Exception: _own_fault,
        },
    )
    return Recorded(app, counters, endpoint=endpoint)


def admin_app(registry: CollectorRegistry, *, keys: KeyFile | None) -> ASGIApp:
    """The operator's side, not for clients: /metrics, /healthz (the process is up), /readyz (keys can be checked)."""

    async def metrics_page(_: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok")

    async def readyz(_: Request) -> Response:
        try:
            if keys is not None:
                keys.ring()
        except KeyFileInvalid as error:
            return PlainTextResponse(str(error), status_code=HTTPStatus.SERVICE_UNAVAILABLE)
        return PlainTextResponse("ok")

    return Starlette(
        routes=[
            Route("/metrics", metrics_page),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
        ]
    )


class _Chat:
    """POST /v1/chat/completions."""

    def __init__(
        self,
        *,
        endpoint: str,
        admit: Callable[[Request], Caller],
        upstream: Upstream,
        protocol: ProtocolName,
        counters: Counters,
    ) -> None:
        self._endpoint = endpoint
        self._admit = admit
        self._upstream = upstream
        self._protocol: ProtocolName = protocol
        self._counters = counters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request, exchange = Request(scope, receive), exchange_of(scope)
        exchange.caller = self._admit(request).name
        try:
            body = await _bounded_body(request)
            asked = self._parse(body)
            exchange.is_streamed = asked.is_streamed
            call = call_for(
                self._protocol, body, endpoint=self._endpoint, request_id=exchange.request_id
            )
            pin = request.headers.get(VERSION_HEADER)
            exchange.route = PINNED_ROUTE if pin else CHAT_ROUTE
            await _while_client_waits(self._forward(exchange, call, pin, send), receive)
        except ClientDisconnect:
            exchange.decide(Outcome.CANCELLED)

    def _parse(self, body: bytes) -> ChatRequest:
        asked = parse_chat(body)
        if asked.model != self._endpoint:
            message = (
                f"There is no such model here. The only one is {self._endpoint!r}: name that one."
            )
            raise errors.NoSuchModel(message, param="model")
        return asked

    async def _forward(self, exchange: Exchange, call: Call, pin: str | None, send: Send) -> None:
        """Passes the request on and its answer back.

        Raises:
            UpstreamFailed, ModelRefused: and nothing was sent yet, so that it can become a status.
            ClientDisconnect: the client did not take its answer in time.
        """
        try:
            async with self._upstream.ask(
                call.path, call.body, pin=pin, request_id=exchange.request_id
            ) as begun:
                self._attribute(exchange, begun)
                answer = await call.read(begun)
                self._attribute(exchange, answer)
                if exchange.is_streamed and answer.is_stream:
                    await _relay_stream(answer, exchange, send)
                else:
                    await _relay_whole(answer, exchange, send)
        except ModelRefused as error:
            exchange.decide(Outcome.ANSWERED, error=error.code)
            raise
        except UpstreamFailed as error:
            if exchange.is_sending:
                raise ClientDisconnect from error
            exchange.decide(Outcome.FAILED, error=error.code)
            if exchange.status is None:
                raise
            told = b"" if exchange.outcome is Outcome.ANSWERED else _error_event(error)
            await send({"type": "http.response.body", "body": told})

    def _attribute(self, exchange: Exchange, answer: Answer) -> None:
        exchange.version = answer.version
        self._counters.appear(answer.version)


async def _relay_stream(answer: Answer, exchange: Exchange, send: Send) -> None:
    """Events as they come. The head waits for the first, so that a stream that fails at once is still a status."""
    scan = StreamScan()

    async def send_on(lines: bytes) -> None:
        if scan.outcome is not None:
            exchange.decide(scan.outcome, error="error_in_stream" if scan.has_error else "")
        if not lines:
            return
        if exchange.status is None:
            await send(_head(HTTPStatus.OK, "text/event-stream; charset=utf-8"))
        await send({"type": "http.response.body", "body": lines, "more_body": True})

    async for piece in answer.body:
        await send_on(scan.feed(piece))
    await send_on(scan.end())
    if scan.outcome is None:
        message = "The model's answer broke off. Try again."
        raise errors.UpstreamBroken(message)
    await send({"type": "http.response.body", "body": b""})


async def _relay_whole(answer: Answer, exchange: Exchange, send: Send) -> None:
    """An answer in one piece. One that is no completion becomes an error, whatever its status said."""
    body = await answer.whole()
    outcome = whole_outcome(answer.status, body, is_streamed=exchange.is_streamed)
    status, error = answer.status, ""
    if outcome is Outcome.FAILED:
        error = f"upstream_{status}" if status >= HTTPStatus.BAD_REQUEST else "error_in_answer"
        status = max(status, HTTPStatus.BAD_GATEWAY) if status < HTTPStatus.BAD_REQUEST else status
    exchange.decide(outcome, error=error)
    if status >= HTTPStatus.BAD_REQUEST and not is_envelope(body):
        message = f"The model did not answer this request (status {status})."
        kind = "server_error" if outcome is Outcome.FAILED else "invalid_request_error"
        body = json.dumps(errors.envelope(message, kind=kind, code=error or None)).encode()
    await send(_head(status, "application/json", length=len(body), retry_after=answer.retry_after))
    await send({"type": "http.response.body", "body": body})


def _head(
    status: int, content_type: str, *, length: int | None = None, retry_after: str | None = None
) -> dict[str, Any]:
    headers = {"content-type": content_type, "cache-control": "no-store"}
    if length is not None:
        headers["content-length"] = str(length)
    if retry_after is not None:
        headers["retry-after"] = retry_after
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    return {"type": "http.response.start", "status": status, "headers": raw}


def _error_event(error: GuardError) -> bytes:
    """OpenAI's clients raise on it; without it a stream broken off would look like a short answer.

    The empty line first ends an event whose own end was lost.
    """
    return b"\ndata: " + json.dumps(error.envelope()).encode() + b"\n\n"


async def _bounded_body(request: Request) -> bytes:
    """The whole body.

    Raises:
        RequestTooLarge, RequestTooSlow: past the limits above.
        ClientDisconnect: the client left.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_S):
            async for piece in request.stream():
                body += piece
                if len(body) > _MAX_BODY_BYTES:
                    message = f"The request is larger than {_MAX_BODY_BYTES} bytes. Shorten it."
                    raise errors.RequestTooLarge(message)
    except TimeoutError as error:
        message = f"The request did not arrive within {_BODY_S:g} s. Send it again."
        raise errors.RequestTooSlow(message) from error
    return bytes(body)


async def _while_client_waits(work: Coroutine[Any, Any, None], receive: Receive) -> None:
    """Does `work` to its end, or cancels it when the client hangs up; either way it has ended on return.

    Raises:
        ClientDisconnect: the client hung up first.
    """

    async def until_gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    task, watch = asyncio.create_task(work), asyncio.create_task(until_gone())
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        watch.cancel()
        task.cancel()
        await asyncio.wait({task})
    if task.cancelled():
        raise ClientDisconnect
    task.result()


async def _refuse(request: Request, error: Exception) -> Response:
    """Every error that the guard raises on purpose."""
    if not isinstance(error, GuardError):
        raise error
    exchange = exchange_of(request.scope)
    exchange.error = error.code
    response = error_response(error)
    if isinstance(error, errors.KeyRefused):
        response.headers["www-authenticate"] = "Bearer"
    return response


async def _refuse_path(request: Request, error: Exception) -> Response:
    """A path or method that is not there."""
    if not isinstance(error, HTTPException):
        raise error
    exchange_of(request.scope).error = "not_found"
    message = f"{request.method} is not served at this path. There are POST /v1/chat/completions and GET /v1/models."
    body = errors.envelope(message, kind="invalid_request_error", code="not_found")
    return JSONResponse(body, status_code=error.status_code, headers=error.headers)


async def _own_fault(request: Request, error: Exception) -> Response:
    """A bug of ours: told to the log with its traceback, and counted, but never against a version."""
    exchange = exchange_of(request.scope)
    _log.error("guard.failed", request_id=exchange.request_id, exc_info=error)
    exchange.version = None
    exchange.decide(Outcome.FAILED, error=GuardError.code)
    return error_response(GuardError("The guard failed. Try again, and report the request id."))
