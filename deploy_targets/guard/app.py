"""The ASGI apps of the guard: `guard_app` for clients, `admin_app` for the operator and the rollout.

Here are the routes, who is let in, and what an error becomes; `chat` takes one request from its first step to its last.
"""

from collections.abc import Iterable
from http import HTTPStatus
from math import ceil

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from deploy_targets.guard import errors
from deploy_targets.guard.access_control import ANYBODY, Caller
from deploy_targets.guard.chat import Admit, Chat
from deploy_targets.guard.errors import GuardError, KeyFileInvalid
from deploy_targets.guard.events import GuardEvent
from deploy_targets.guard.exchange import Recorded, error_response, exchange_of
from deploy_targets.guard.feedback import Feedback
from deploy_targets.guard.key_file import KeyFile
from deploy_targets.guard.openapi import openapi_document
from deploy_targets.guard.outcome import Outcome
from deploy_targets.guard.queue_full import retry_after

_log = structlog.get_logger()


def admission(keys: KeyFile | None, *, endpoint: str) -> Admit:
    """Who is let in. Without `keys` anybody: to be chosen by name, never by omission."""

    def admit(request: Request) -> Caller:
        if keys is None:
            return ANYBODY
        try:
            ring = keys.ring()
        except KeyFileInvalid as error:
            message = "API keys cannot be checked at present. Try again later."
            raise errors.KeysUnavailable(message) from error
        return ring.admit(request.headers.get("authorization"), endpoint=endpoint)

    return admit


def guard_app(chat: Chat, *, model: str) -> ASGIApp:
    """The clients' side. `model` is the registered model's name; clients call it by the endpoint's."""
    feedback = Feedback(admit=chat.admit, answers=chat.judging.answers, counters=chat.counters)

    async def models(request: Request) -> Response:
        exchange = exchange_of(request.scope)
        exchange.caller = chat.admit(request)
        exchange.decide(Outcome.ANSWERED)
        card = {"id": chat.endpoint, "object": "model", "created": 0, "owned_by": "shipway"}
        return JSONResponse({"object": "list", "data": [card | ({"root": model} if model else {})]})

    async def openapi(request: Request) -> Response:
        exchange_of(request.scope).decide(Outcome.ANSWERED)
        return JSONResponse(openapi_document(chat.endpoint))

    app = Starlette(
        routes=[
            Route("/openapi.json", openapi, methods=["GET"]),
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/completions", chat, methods=["POST"]),
            Route("/v1/feedback", feedback, methods=["POST"]),
            Route("/v1/models", models, methods=["GET"]),
        ],
        exception_handlers={
            GuardError: _refuse,
            HTTPException: _refuse_path,
            Exception: _own_fault,
        },
    )
    return Recorded(app, chat.counters, endpoint=chat.endpoint)


def admin_app(
    registry: CollectorRegistry, *, keys: KeyFile | None, more: Iterable[Route]
) -> ASGIApp:
    """The operator's side, not for clients: /metrics, /healthz (the process is up), /readyz (keys can be checked).

    `more` are what a policy adds to it.
    """

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
            *more,
        ]
    )


async def _refuse(request: Request, error: Exception) -> Response:
    """Every error that the guard raises on purpose."""
    if not isinstance(error, GuardError):
        raise error
    exchange = exchange_of(request.scope)
    exchange.refused_by(error)
    response = error_response(error)
    if isinstance(error, errors.KeyRefused):
        response.headers["www-authenticate"] = "Bearer"
    told = None
    if isinstance(error, errors.RateLimited | errors.BudgetSpent):
        told = str(max(ceil(error.retry_after_s), 1))
    if (later := retry_after(error.status, told)) is not None:
        response.headers["retry-after"] = later
    return response


async def _refuse_path(request: Request, error: Exception) -> Response:
    """A path or method that is not there."""
    if not isinstance(error, HTTPException):
        raise error
    exchange_of(request.scope).error = "not_found"
    message = f"{request.method} is not served at this path. There are POST /v1/chat/completions, POST /v1/completions, POST /v1/feedback and GET /v1/models."
    body = errors.envelope(message, kind="invalid_request_error", code="not_found")
    return JSONResponse(body, status_code=error.status_code, headers=error.headers)


async def _own_fault(request: Request, error: Exception) -> Response:
    """A bug of ours: told to the log with its traceback, and counted, but never against a version."""
    exchange = exchange_of(request.scope)
    _log.error(GuardEvent.FAILED, request_id=exchange.request_id, exc_info=error)
    exchange.version = None
    exchange.decide(Outcome.FAILED, error=GuardError.code)
    return error_response(GuardError("The guard failed. Try again, and report the request id."))
