"""A hint that something may have changed: MLflow's webhook, checked, wakes the loop early.

Nothing in the body is believed: the registry is read anew. A forged, stale or repeated delivery is refused; a lost one
costs at most a poll period. The signature is MLflow's `v1`: HMAC-SHA256 over `<delivery id>.<timestamp>.<body>`.
"""

import base64
import hashlib
import hmac
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from http import HTTPStatus

import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from registry.events import Event

HOOK_PATH = "/hooks/mlflow"
HOOK_EVENTS = (
    "model_version_alias.created",
    "model_version_alias.deleted",
    "model_version.created",
)
_TOLERANCE = timedelta(minutes=5)
_MAX_BODY_BYTES = 1 << 20
_log = structlog.get_logger()


class HintCheck:
    """Verifies deliveries, and remembers those of the last minutes so that none counts twice."""

    def __init__(self, secret: str | None, clock: Callable[[], datetime]) -> None:
        """Without a secret every delivery is refused."""
        self._secret = secret
        self._clock = clock
        self._seen: dict[str, datetime] = {}

    def refusal(self, headers: Mapping[str, str], body: bytes) -> str:
        """Why this delivery is not accepted; empty when it is."""
        now = self._clock()
        delivery = headers.get("x-mlflow-delivery-id", "")
        stamp = headers.get("x-mlflow-timestamp", "")
        signature = headers.get("x-mlflow-signature", "")
        if self._secret is None:
            return "no webhook secret is set"
        expected = sign_hint(self._secret, delivery=delivery, stamp=stamp, body=body)
        if not hmac.compare_digest(expected.encode(), signature.encode()):
            return "the signature does not fit"
        if not stamp.isdigit() or abs(now.timestamp() - int(stamp)) > _TOLERANCE.total_seconds():
            return "the timestamp is too far from now"
        self._seen = {key: at for key, at in self._seen.items() if now - at <= 2 * _TOLERANCE}
        if delivery in self._seen:
            return "this delivery was seen before"
        self._seen[delivery] = now
        return ""


def sign_hint(secret: str, *, delivery: str, stamp: str, body: bytes) -> str:
    """The signature of a delivery; `stamp` is in whole seconds since the epoch."""
    signed = f"{delivery}.{stamp}.".encode() + body
    digest = hmac.new(secret.encode(), signed, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


def nudge_app(
    check: HintCheck,
    *,
    wake: Callable[[], None],
    is_alive: Callable[[], bool],
    is_ready: Callable[[], bool],
) -> Starlette:
    """The controller's small HTTP side: POST /hooks/mlflow, GET /healthz and GET /readyz."""

    async def receive(request: Request) -> Response:
        body = await _bounded_body(request)
        reason = "the body is too large" if body is None else check.refusal(request.headers, body)
        if reason:
            _log.warning(Event.HINT_REFUSED, reason=reason)
            return JSONResponse({"refused": reason}, status_code=HTTPStatus.UNAUTHORIZED)
        _log.info(Event.HINT_ACCEPTED)
        wake()
        return JSONResponse({"accepted": True})

    async def health(_: Request) -> Response:
        return _said("alive", holds=is_alive())

    async def readiness(_: Request) -> Response:
        return _said("ready", holds=is_ready())

    return Starlette(
        routes=[
            Route(HOOK_PATH, receive, methods=["POST"]),
            Route("/healthz", health),
            Route("/readyz", readiness),
        ]
    )


def _said(what: str, *, holds: bool) -> Response:
    status = HTTPStatus.OK if holds else HTTPStatus.SERVICE_UNAVAILABLE
    return JSONResponse({what: holds}, status_code=status)


async def _bounded_body(request: Request) -> bytes | None:
    """The whole body, or None when it is larger than any that MLflow sends."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_BODY_BYTES:
            return None
    return body
