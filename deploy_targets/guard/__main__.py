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
from prometheus_client import CollectorRegistry
from pydantic import ValidationError
from starlette.types import ASGIApp

from deploy_targets.declared import faults_of
from deploy_targets.guard.app import admin_app, admission, guard_app
from deploy_targets.guard.chat import Chat
from deploy_targets.guard.cors import for_origins
from deploy_targets.guard.counters import Counters
from deploy_targets.guard.errors import REFUSALS, KeyFileInvalid, PolicyUnusable
from deploy_targets.guard.http_heads import BoundedHeads
from deploy_targets.guard.key_file import KeyFile
from deploy_targets.guard.limit_store import LimitStore
from deploy_targets.guard.rate_limit import RateLimiter
from deploy_targets.guard.second_try import SecondTries
from deploy_targets.guard.settings import GuardSettings
from deploy_targets.guard.steps import Steps, steps_of
from deploy_targets.guard.upstream import Upstream, upstream_session
from deploy_targets.guard_policy import GuardPolicy, Limits
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


async def _serve(
    settings: GuardSettings,
    policy: GuardPolicy,
    steps: Steps,
    keys: KeyFile | None,
    *,
    public: socket.socket,
    admin: socket.socket,
) -> None:
    registry = CollectorRegistry()
    rules = (*REFUSALS, *Limits.model_fields, *steps.rules)
    counters = Counters(registry, endpoint=settings.endpoint, rules=rules)
    redis_url = settings.redis_url
    store = LimitStore(
        None if redis_url is None else redis_url.get_secret_value(), lost=counters.lost
    )
    limiter = RateLimiter(
        policy,
        store,
        endpoint=settings.endpoint,
        longest_s=settings.timeout_s + settings.drain_s,
    )
    async with (
        contextlib.aclosing(store),
        upstream_session(settings.upstream_host) as session,
    ):
        chat = Chat(
            endpoint=settings.endpoint,
            admit=admission(keys, endpoint=settings.endpoint),
            steps=steps,
            limiter=limiter,
            upstream=Upstream(session, settings.upstream_url, timeout_s=settings.timeout_s),
            second_tries=SecondTries(counters, timeout_s=settings.timeout_s),
            protocol=settings.protocol,
            counters=counters,
        )
        app = for_origins(guard_app(chat, model=settings.model), policy.cors_origins)
        front = _server(app, drain_s=settings.drain_s)
        back = _server(admin_app(registry, keys=keys), drain_s=1)

        def stop() -> None:
            front.should_exit = True

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        async with asyncio.TaskGroup() as servers:
            servers.create_task(back.serve(sockets=[admin]))
            _log.info("guard.started", endpoint=settings.endpoint, port=settings.port)
            await front.serve(sockets=[public])
            # The metrics stay readable to the end, so that the last requests are seen.
            back.should_exit = True
    _log.info("guard.stopped", endpoint=settings.endpoint)


class _PolicyInvalid(Exception):
    """The policy file cannot be used."""


def _policy(settings: GuardSettings) -> GuardPolicy:
    try:
        return settings.policy()
    except OSError as error:
        message = f"The policy file {settings.policy_file} cannot be read ({error.strerror})."
        raise _PolicyInvalid(message) from error
    except ValidationError as error:
        message = f"The policy file {settings.policy_file} is not valid:\n{faults_of(error)}"
        raise _PolicyInvalid(message) from error


def main() -> int:
    """The exit code."""
    log_to(sys.stdout, for_eyes=sys.stdout.isatty())
    try:
        settings = GuardSettings()  # pyright: ignore[reportCallIssue] the environment gives the rest
        keys = (
            None
            if settings.auth == "none" or settings.keys_file is None
            else KeyFile(settings.keys_file)
        )
        if keys is not None:
            keys.ring()
        policy = _policy(settings)
        steps = steps_of(policy)
    except ValidationError as error:
        for fault in error.errors(include_input=False, include_url=False):
            name = "_".join(["SHIPWAY_GUARD", *map(str, fault["loc"])]).upper()
            sys.stderr.write(f"The guard does not start: {name}: {fault['msg']}.\n")
        return 2
    except (KeyFileInvalid, PolicyUnusable, _PolicyInvalid) as error:
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
            runner.run(_serve(settings, policy, steps, keys, public=public, admin=admin))
    return 0


if __name__ == "__main__":
    sys.exit(main())
