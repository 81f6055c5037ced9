"""A hint that something may have changed, checked, wakes the loop early. Two may send one: MLflow and Shipway's MLflow app.

Nothing in the body is believed but who touched what, and that from Shipway's app alone: the registry is read anew. The
model that it names is looked at first, which is all that a name is good for. A forged, stale or repeated delivery is
refused and counted; a lost one costs at most a poll period. `registry.hints` says how they are signed.
"""

import hmac
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from http import HTTPStatus

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deploy_targets import metrics
from registry.events import Event
from registry.hints import HINT_PATH, Touch, hinted_model, plugin_secret, sign_hint

HOOK_PATH = "/hooks/mlflow"
HOOK_EVENTS = (
    "model_version_alias.created",
    "model_version_alias.deleted",
    "model_version.created",
)
_TOLERANCE = timedelta(minutes=5)
_MAX_BODY_BYTES = 1 << 20
_MOST_STAMP_CHARS = 20
"""Of a time in seconds; more are a number that no clock can be compared with."""
_log = structlog.get_logger()


class Sender(StrEnum):
    """Whose hint it claims to be, by the path to which it came."""

    MLFLOW = "mlflow"
    PLUGIN = "plugin"


class HintResult(StrEnum):
    """What became of a delivery; a label of the metric."""

    ACCEPTED = "accepted"
    NO_SECRET = "no_secret"  # noqa: S105 - a word, not a secret
    FORGED = "forged"
    STALE = "stale"
    REPLAYED = "replayed"
    TOO_LARGE = "too_large"
    UNREADABLE = "unreadable"


_REASONS = {
    HintResult.NO_SECRET: "no webhook secret is set",
    HintResult.FORGED: "the signature does not fit",
    HintResult.STALE: "the timestamp is too far from now",
    HintResult.REPLAYED: "this delivery was seen before",
    HintResult.TOO_LARGE: "the body is too large",
    HintResult.UNREADABLE: "the body does not say who touched what",
}


class HintCheck:
    """Verifies deliveries, and remembers those of the last minutes so that none counts twice."""

    def __init__(self, secret: str | None, clock: Callable[[], datetime]) -> None:
        """Without a secret every delivery is refused."""
        self._secrets = (
            None
            if secret is None
            else {Sender.MLFLOW: secret, Sender.PLUGIN: plugin_secret(secret)}
        )
        self._clock = clock
        self._seen: dict[tuple[Sender, str], datetime] = {}

    def judge(self, sender: Sender, headers: Mapping[str, str], body: bytes) -> HintResult:
        """Whether this delivery is accepted, or why not."""
        now = self._clock()
        delivery = headers.get("x-mlflow-delivery-id", "")
        stamp = headers.get("x-mlflow-timestamp", "")
        signature = headers.get("x-mlflow-signature", "")
        if self._secrets is None:
            return HintResult.NO_SECRET
        expected = sign_hint(self._secrets[sender], delivery=delivery, stamp=stamp, body=body)
        if not hmac.compare_digest(expected.encode(), signature.encode()):
            return HintResult.FORGED
        is_time = stamp.isdecimal() and len(stamp) <= _MOST_STAMP_CHARS
        if not is_time or abs(now.timestamp() - int(stamp)) > _TOLERANCE.total_seconds():
            return HintResult.STALE
        self._seen = {key: at for key, at in self._seen.items() if now - at <= 2 * _TOLERANCE}
        if (sender, delivery) in self._seen:
            return HintResult.REPLAYED
        self._seen[sender, delivery] = now
        return HintResult.ACCEPTED


def _counter_of_hints(registry: CollectorRegistry) -> Counter:
    """The series of `metrics.HINTS`; all of them exist from the start, at zero."""
    series = metrics.HINTS
    hints = Counter(series.name, series.help, labelnames=series.labels, registry=registry)
    for sender in Sender:
        for result in HintResult:
            hints.labels(sender, result)
    return hints


def nudge_app(
    check: HintCheck,
    *,
    wake: Callable[[str | None], None],
    is_alive: Callable[[], bool],
    is_ready: Callable[[], bool],
    numbers: CollectorRegistry,
) -> Starlette:
    """The controller's small HTTP side: POST to each sender's path, GET /healthz, /readyz and /metrics.

    `wake` is given the model that the hint names, if it names one; `numbers` is shown, with the count of the hints.
    """
    hints = _counter_of_hints(numbers)

    async def receive(request: Request) -> Response:
        sender = Sender.PLUGIN if request.url.path == HINT_PATH else Sender.MLFLOW
        body = await _bounded_body(request)
        touched: Mapping[str, object] = {}
        if body is None:
            result = HintResult.TOO_LARGE
        else:
            result = check.judge(sender, request.headers, body)
            if sender is Sender.PLUGIN and result is HintResult.ACCEPTED:
                try:
                    touched = _fields(Touch.from_json(body))
                except ValueError:
                    result = HintResult.UNREADABLE
        hints.labels(sender, result).inc()
        if body is None or result is not HintResult.ACCEPTED:
            reason = _REASONS[result]
            _log.warning(Event.HINT_REFUSED, sender=sender, reason=reason)
            return JSONResponse({"refused": reason}, status_code=HTTPStatus.UNAUTHORIZED)
        _log.info(Event.HINT_ACCEPTED, sender=sender, **touched)
        wake(hinted_model(body))
        return JSONResponse({"accepted": True})

    async def health(_: Request) -> Response:
        return _said("alive", holds=is_alive())

    async def readiness(_: Request) -> Response:
        return _said("ready", holds=is_ready())

    async def page(_: Request) -> Response:
        return Response(generate_latest(numbers), media_type=CONTENT_TYPE_LATEST)

    return Starlette(
        routes=[
            Route(HOOK_PATH, receive, methods=["POST"]),
            Route(HINT_PATH, receive, methods=["POST"]),
            Route("/healthz", health),
            Route("/readyz", readiness),
            Route("/metrics", page),
        ]
    )


def _said(what: str, *, holds: bool) -> Response:
    status = HTTPStatus.OK if holds else HTTPStatus.SERVICE_UNAVAILABLE
    return JSONResponse({what: holds}, status_code=status)


def _fields(touch: Touch) -> Mapping[str, object]:
    """For the log line; what the touch leaves empty is left out."""
    told = {
        "deed": touch.deed.value,
        "model": touch.model,
        "version": touch.version,
        "name": touch.name,
        "user": touch.user,
    }
    return {name: value for name, value in told.items() if value}


async def _bounded_body(request: Request) -> bytes | None:
    """The whole body, or None when it is larger than any that is sent to us."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_BODY_BYTES:
            return None
    return body
