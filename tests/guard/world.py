"""A guard in front of a stub engine, both behind real servers on loopback, in a thread of their own."""

import asyncio
import queue
import socket
import threading
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx2
import uvicorn
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from deploy_targets.guard.app import admin_app, admission, guard_app
from deploy_targets.guard.chat import Chat
from deploy_targets.guard.cors import for_origins
from deploy_targets.guard.counters import Counters
from deploy_targets.guard.errors import REFUSALS
from deploy_targets.guard.key_file import KeyFile
from deploy_targets.guard.limit_store import LimitStore
from deploy_targets.guard.protocol import ProtocolName
from deploy_targets.guard.rate_limit import RateLimiter
from deploy_targets.guard.second_try import SecondTries
from deploy_targets.guard.steps import Steps
from deploy_targets.guard.upstream import Upstream, upstream_session
from deploy_targets.guard_policy import GuardPolicy, Limits
from tests.guard.stub import ENDPOINT, KEY, StubEngine, a_chat, a_server
from tests.guard.stub_triton import StubTriton

NO_STEPS = Steps()
NO_POLICY = GuardPolicy()


class World:
    """The stub, the guard and its admin side, running."""

    def __init__(
        self,
        lines: "queue.Queue[dict[str, Any]]",
        protocol: ProtocolName = "openai",
        steps: Steps = NO_STEPS,
        policy: GuardPolicy = NO_POLICY,
        redis_url: str | None = None,
    ) -> None:
        self.stub = StubTriton() if protocol == "triton" else StubEngine()
        self._protocol: ProtocolName = protocol
        self._steps = steps
        self._policy = policy
        self._redis_url = redis_url
        self._lines = lines
        self._unread = 0
        self._servers: list[uvicorn.Server] = []
        self._sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
        stub_port, port, admin_port = (one.getsockname()[1] for one in self._sockets)
        self.stub_url = f"http://127.0.0.1:{stub_port}"
        self.url = f"http://127.0.0.1:{port}"
        self.admin_url = f"http://127.0.0.1:{admin_port}"
        self.http = httpx2.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=20
        )

    def start(self, *, keys_file: Path | None, upstream_url: str | None, timeout_s: float) -> None:
        url = upstream_url or self.stub_url
        run = self._run(keys_file, url, timeout_s)
        self._thread = threading.Thread(target=asyncio.run, args=(run,))
        self._thread.start()

    def stop(self) -> None:
        self.stub.go_on.set()
        self.http.close()
        for server in self._servers:
            server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()

    async def _run(self, keys_file: Path | None, upstream_url: str, timeout_s: float) -> None:
        registry = CollectorRegistry()
        rules = (*REFUSALS, *Limits.model_fields, *self._steps.rules)
        counters = Counters(registry, endpoint=ENDPOINT, rules=rules)
        store = LimitStore(self._redis_url, lost=counters.lost)
        limiter = RateLimiter(
            self._policy,
            store,
            endpoint=ENDPOINT,
            longest_s=timeout_s,
        )
        keys = None if keys_file is None else KeyFile(keys_file)
        async with aclosing(store), upstream_session() as session:
            chat = Chat(
                endpoint=ENDPOINT,
                admit=admission(keys, endpoint=ENDPOINT),
                steps=self._steps,
                limiter=limiter,
                upstream=Upstream(session, upstream_url, timeout_s=timeout_s),
                second_tries=SecondTries(counters, timeout_s=timeout_s),
                protocol=self._protocol,
                counters=counters,
            )
            guard = for_origins(guard_app(chat, model="smollm2"), self._policy.cors_origins)
            apps = (self.stub.app, guard, admin_app(registry, keys=keys))
            self._servers = [a_server(app) for app in apps]
            await asyncio.gather(
                *(
                    server.serve(sockets=[one])
                    for server, one in zip(self._servers, self._sockets, strict=True)
                )
            )

    def sent(self) -> None:
        """Another request is on its way; its line will come."""
        self._unread += 1

    def post(self, body: object = None, **headers: str) -> httpx2.Response:
        self.sent()
        return self.http.post("/v1/chat/completions", json=body or a_chat(), headers=headers)

    def line(self) -> dict[str, Any]:
        """The next request's log line; by then it is counted."""
        while True:
            told = self._lines.get(timeout=20)
            if told["event"] == "request.served":
                self._unread -= 1
                return told

    def samples(self, name: str) -> dict[tuple[str, str], float]:
        """The series of that name by (version, route), once every request that was sent has its line."""
        while self._unread > 0:
            self.line()
        page = httpx2.get(f"{self.admin_url}/metrics").text
        return {
            (sample.labels["version"], sample.labels["route"]): sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.name == name
        }

    def counted(self, version: str = "7", route: str = "chat") -> tuple[float, float] | None:
        """(requests, errors) of a version; None when it was never seen."""
        key = (version, route)
        requests = self.samples("llm_inference_requests_total")
        errors = self.samples("llm_inference_errors_total")
        assert requests.keys() == errors.keys()
        return (requests[key], errors[key]) if key in requests else None
