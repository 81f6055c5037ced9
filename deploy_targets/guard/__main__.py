"""`python -m deploy_targets.guard`: builds the guard from its settings and serves until it is told to stop.

SIGTERM or SIGINT: no new connections, requests in flight are finished (at most `drain_s`), then exit code 0. Wrong
settings, keys or a policy that cannot be read: exit code 2 at once; a port that is taken: 1.
"""

import asyncio
import contextlib
import gc
import signal
import socket
import sys
from collections.abc import Generator

import structlog
import uvicorn
import uvloop
from pydantic import ValidationError
from starlette.types import ASGIApp

from deploy_targets.guard.compose import Prepared, composed, prepare
from deploy_targets.guard.errors import KeyFileInvalid, PolicyUnusable
from deploy_targets.guard.events import GuardEvent
from deploy_targets.guard.http_heads import BoundedHeads
from deploy_targets.guard.settings import GuardSettings
from deploy_targets.process_log import log_to

_KEEP_ALIVE_S = 75
"""Longer than clients keep idle connections (httpx 5 s, aiohttp 15 s): they close first, and no request is lost."""
_BACKLOG = 2048
_log = structlog.get_logger()


class _Server(uvicorn.Server):
    """A server that leaves signals to the process: there are two of them here."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


def _server(app: ASGIApp, *, drain_s: int) -> _Server:
    config = uvicorn.Config(
        app,
        http=BoundedHeads,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=drain_s,
    )
    return _Server(config)


async def _serve(made: Prepared, public: socket.socket, admin: socket.socket) -> None:
    settings = made.settings
    async with composed(made) as guard:
        front = _server(guard.front, drain_s=settings.drain_s)
        back = _server(guard.back, drain_s=1)

        def stop() -> None:
            front.should_exit = True

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        async with asyncio.TaskGroup() as servers:
            servers.create_task(back.serve(sockets=[admin]))
            _log.info(GuardEvent.STARTED, endpoint=settings.endpoint, port=settings.port)
            await front.serve(sockets=[public])
            # The metrics stay readable to the end, so that the last requests are seen.
            back.should_exit = True
    _log.info(GuardEvent.STOPPED, endpoint=settings.endpoint)


def main() -> int:
    """The exit code."""
    log_to(sys.stdout, for_eyes=sys.stdout.isatty())
    try:
        settings = GuardSettings()  # pyright: ignore[reportCallIssue] the environment gives the rest
        made = prepare(settings)
    except ValidationError as error:
        for fault in error.errors(include_input=False, include_url=False):
            name = "_".join(["SHIPWAY_GUARD", *map(str, fault["loc"])]).upper()
            sys.stderr.write(f"The guard does not start: {name}: {fault['msg']}.\n")
        return 2
    except (KeyFileInvalid, PolicyUnusable) as error:
        sys.stderr.write(f"The guard does not start: {error}\n")
        return 2
    with contextlib.ExitStack() as stack:
        ports = (settings.port, settings.admin_port)
        try:
            public, admin = (
                stack.enter_context(socket.create_server((settings.host, port), backlog=_BACKLOG))
                for port in ports
            )
        except OSError as error:
            sys.stderr.write(
                f"The guard does not start: it cannot listen on {settings.host}, ports {ports} ({error}). "
                "Stop what listens there, or set SHIPWAY_GUARD_PORT and SHIPWAY_GUARD_ADMIN_PORT.\n"
            )
            return 1
        # What is there by now stays: no collection has to walk through it while requests wait.
        gc.collect()
        gc.freeze()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(made, public, admin))
    return 0


if __name__ == "__main__":
    sys.exit(main())
