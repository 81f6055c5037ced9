"""MLflow's server with an ear: `mlflow server --app-name shipway`, or `shipway-basic-auth` for MLflow's own login before it.

It is MLflow's app, and answers as it does. After an answer that changed the registry (also a stage, of which MLflow's
webhooks say nothing) a `Courier` writes the authenticated user's name on the version (`asked_by`) and sends the controller
a hint. All calls to the registry go through MLflow's Flask app, under uvicorn as under gunicorn and waitress, so that is
where the ear is. Optional: without it Shipway sees the same changes by MLflow's webhooks and by polling, without names.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, cast

import structlog
from flask import Flask, Response, g, request

from registry.asked_by import name_tag
from registry.courier import Courier, HintSender
from registry.events import Event
from registry.hints import Touch, read_deed, read_touch
from registry.settings import MlflowAppSettings

_log = structlog.get_logger()


def create_app() -> Any:
    """MLflow's app, as `mlflow server` would have started it without a name."""
    from mlflow.server import app

    settings = MlflowAppSettings()
    _listen(app, settings)
    if settings.server_kind != "uvicorn":
        return app
    from mlflow.server.fastapi_app import app as asgi_app

    return asgi_app


def create_app_with_basic_auth() -> Any:
    """MLflow's app with its own login, as `--app-name basic-auth` starts it."""
    from mlflow.server import app, auth

    _listen(app, MlflowAppSettings())
    return auth.create_app(app)


def _listen(app: Flask, settings: MlflowAppSettings) -> None:
    if settings.webhook_secret is None:
        _log.error(Event.HINTS_OFF, reason="SHIPWAY_WEBHOOK_SECRET is not set")
        return
    secret = settings.webhook_secret.get_secret_value()
    sender = HintSender(settings.controller_url, secret, _now)
    courier = Courier(lambda touch: _write_name(touch, secret), sender.send)
    watch(app, courier)


def watch(app: Flask, courier: Courier) -> None:
    """Has `courier` told of every request that changed the registry; answers pass unchanged, whatever happens here."""

    def after(response: Response) -> Response:
        try:
            touch = _read(response)
            if touch is not None:
                courier.hand_over(touch)
        except Exception:  # noqa: BLE001 - MLflow's answer is out of our hands: no fault of ours may spoil it
            _log.exception(Event.HINT_DROPPED)
        return response

    app.after_request(after)


def _read(response: Response) -> Touch | None:
    """What the request in progress did, if it is anything to us and went well."""
    deed = read_deed(request.method, request.path)
    if deed is None or response.status_code != HTTPStatus.OK:
        return None
    asked: object = request.get_json(force=True, silent=True)
    # MLflow itself takes JSON within a JSON string.
    asked = json.loads(asked) if isinstance(asked, str) else asked
    answered: object = response.get_json(silent=True)
    if not isinstance(asked, Mapping) or not isinstance(answered, Mapping):
        return None
    return read_touch(
        deed,
        cast("Mapping[str, Any]", asked),
        cast("Mapping[str, Any]", answered),
        user=g.get("mlflow_authenticated_user"),
        at=_now(),
    )


def _write_name(touch: Touch, secret: str) -> None:
    """Straight into the store of this process: by HTTP it would be a request of its own, with a login of its own."""
    tag = name_tag(touch, secret)
    if tag is None:
        return
    from mlflow.entities.model_registry import ModelVersionTag
    from mlflow.server.handlers import (
        _get_model_registry_store,  # pyright: ignore[reportPrivateUsage] - there is no other way to this process's store
    )

    store: Any = _get_model_registry_store()
    key, value = tag
    if value is None:
        store.delete_model_version_tag(touch.model, touch.version, key)
    else:
        store.set_model_version_tag(touch.model, touch.version, ModelVersionTag(key, value))


def _now() -> datetime:
    return datetime.now(UTC)
