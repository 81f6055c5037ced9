"""The controller as a process: the loop in the main thread, beside it health, webhook receiver, election and watches."""

import asyncio
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType

import structlog
import uvicorn
from prometheus_client import CollectorRegistry

from deploy_targets.control_plane import ControlPlane, utc_now
from deploy_targets.kubernetes_targets import ClusterSettings, cluster_watches
from deploy_targets.process_log import log_to
from deploy_targets.rollout.answer_records import Shipping
from deploy_targets.rollout.controller import Controller, Unit
from deploy_targets.rollout.loop import Loop
from deploy_targets.rollout.notifier import open_notifier
from deploy_targets.rollout.nudge import HintCheck, nudge_app
from deploy_targets.rollout.own_metrics import OwnMetrics
from deploy_targets.rollout.settings import ControllerSettings, NotifySettings
from deploy_targets.rollout.webhook import HookAddress, ensure_hook
from registry.errors import ShipwayError
from registry.events import Event

_LOOPBACK = "127.0.0.1"
_LAST_WORDS_S = 5
"""What is still to be told at the end is told within this, or not."""
_log = structlog.get_logger()


class _PatientServer(uvicorn.Server):
    """Looks once a second whether it is to end. uvicorn's ten times took a fifth of what a controller takes at rest."""

    async def main_loop(self) -> None:
        """Until `should_exit`."""
        while not await self.on_tick(0):  # noqa: ASYNC110 - its flag is no event
            await asyncio.sleep(1)


def run_controller(plane: ControlPlane) -> None:
    """Runs until SIGTERM or SIGINT; ticks in progress are finished first, then leadership is let go."""
    log_to(sys.stdout)
    settings = ControllerSettings()
    secret = settings.webhook_secret
    registry = plane.registry()
    leadership = plane.leadership(settings)
    notifier = open_notifier(NotifySettings(), mlflow_url=plane.tracking().url)
    units = (*(plane.unit(endpoint) for endpoint in plane.file.endpoints), *_removed(plane))
    numbers = CollectorRegistry()
    own = OwnMetrics(
        numbers, endpoints=[unit.endpoint.name for unit in units], leads=leadership.leads
    )
    controller = Controller(
        units,
        registry=registry,
        store=plane.store(),
        clock=utc_now,
        leads=leadership.leads,
        watcher=own,
        notifier=notifier,
    )
    loop = Loop(controller.models, controller.tick, settings=settings, looked=own.looked)
    own.watch_hints(loop.unanswered_s)
    watches = cluster_watches(
        (unit.endpoint for unit in units),
        ClusterSettings(),
        wake=loop.wake_endpoint,
        leads=leadership.leads,
    )
    check = HintCheck(None if secret is None else secret.get_secret_value(), utc_now)
    server = _PatientServer(
        uvicorn.Config(
            nudge_app(
                check,
                wake=leadership.hint,
                is_alive=loop.is_alive,
                is_ready=leadership.knows,
                numbers=numbers,
            ),
            host=settings.controller_host,
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
    leadership.begin(loop.wake)
    url = settings.controller_url
    if url is None and settings.controller_host == _LOOPBACK:
        url = f"http://{_LOOPBACK}:{settings.controller_port}"
    if secret is not None and url is not None:
        try:
            address = HookAddress(controller_url=url, secret=secret.get_secret_value())
            ensure_hook(registry, address)
        except ShipwayError as error:
            _log.warning(Event.HINT_REFUSED, reason=f"no webhook, polling alone: {error}")
    if watches is not None:
        watches.begin()
    with _shipping(plane, leadership.leads):
        loop.run()
    if watches is not None:
        watches.end()
    leadership.end()
    if notifier is not None:
        notifier.finish(_LAST_WORDS_S)
    server.should_exit = True
    thread.join(timeout=5)


@contextmanager
def _shipping(plane: ControlPlane, leads: Callable[[], bool]) -> Generator[None]:
    """What guards record is shipped meanwhile."""
    spools = plane.spools()
    if spools is None:
        yield
        return
    shipping = Shipping(spools, plane.records(), leads=leads, clock=utc_now)
    shipping.begin()
    try:
        yield
    finally:
        shipping.end(patience_s=_LAST_WORDS_S)


def _removed(plane: ControlPlane) -> Iterator[Unit]:
    """The endpoints that are no longer declared and for which something is still to be done: it is brought to its end."""
    store = plane.store()
    for name in store.names():
        if any(endpoint.name == name for endpoint in plane.file.endpoints):
            continue
        try:
            declared = store.load(name).state.declared
            if declared is not None:
                yield replace(plane.unit(declared), is_removed=True)
        except ShipwayError as error:
            _log.error(Event.ENDPOINT_LOST, endpoint=name, reason=str(error))
