"""The controller as a process: the loop in the main thread, health and webhook receiver beside it."""

import logging
import signal
import threading
from types import FrameType

import structlog
import uvicorn

from deploy_targets.local.compose import Composition, utc_now
from deploy_targets.rollout.controller import Controller
from deploy_targets.rollout.loop import Loop
from deploy_targets.rollout.nudge import HOOK_EVENTS, HOOK_PATH, HintCheck, nudge_app
from deploy_targets.rollout.settings import ControllerSettings
from registry.errors import RegistryUnavailable
from registry.events import Event

_HOOK_NAME = "shipway"
_log = structlog.get_logger()


def run_controller(composition: Composition) -> None:
    """Runs until SIGTERM or SIGINT; a tick in progress is finished first."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    )
    settings = ControllerSettings()
    secret = settings.webhook_secret
    registry = composition.registry()
    controller = Controller(
        tuple(composition.unit(endpoint) for endpoint in composition.file.endpoints),
        registry=registry,
        store=composition.store(),
        clock=utc_now,
        leads=lambda: True,
    )
    loop = Loop(controller.names, controller.tick, settings=settings)
    check = HintCheck(None if secret is None else secret.get_secret_value(), utc_now)
    server = uvicorn.Server(
        uvicorn.Config(
            nudge_app(check, wake=loop.wake, is_alive=loop.is_alive),
            host="127.0.0.1",
            port=settings.controller_port,
            access_log=False,
            log_level="warning",
            lifespan="off",
        )
    )
    thread = threading.Thread(target=server.run, name="nudge", daemon=True)
    thread.start()

    def stop(_: int, __: FrameType | None) -> None:
        loop.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    if secret is not None:
        try:
            registry.ensure_webhook(
                name=_HOOK_NAME,
                url=f"http://127.0.0.1:{settings.controller_port}{HOOK_PATH}",
                secret=secret.get_secret_value(),
                events=HOOK_EVENTS,
            )
        except RegistryUnavailable as error:
            _log.warning(Event.HINT_REFUSED, reason=f"no webhook, polling alone: {error}")
    loop.run()
    server.should_exit = True
    thread.join(timeout=5)
