"""A guard in front of a stub engine, both behind real servers on loopback, in a thread of their own."""

import asyncio
import queue
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import uvicorn
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from deploy_targets.guard.answer_cache import store_of
from deploy_targets.guard.compose import Prepared, composed
from deploy_targets.guard.judging import signs_for
from deploy_targets.guard.key_file import KeyFile
from deploy_targets.guard.protocol import ProtocolName
from deploy_targets.guard.recording import Recording, redaction_of
from deploy_targets.guard.settings import GuardSettings
from deploy_targets.guard.spool import Spool
from deploy_targets.guard.steps import Steps
from deploy_targets.guard_policy import GuardPolicy
from tests.guard.stub import ENDPOINT, KEY, StubEngine, a_chat, a_server
from tests.guard.stub_triton import StubTriton

NO_STEPS = Steps()
NO_POLICY = GuardPolicy()


def _recording(policy: GuardPolicy, folder: Path | None) -> Recording | None:
    """With less room than a policy may ask for, so that it is soon full."""
    if policy.record is None or folder is None:
        return None
    spool = Spool(folder, max_bytes=1 << 16)
    return Recording(policy=policy.record, spool=spool, passes=redaction_of(policy))


class World:
    """The stub, the guard and its admin side, running."""

    def __init__(
        self,
        lines: "queue.Queue[dict[str, Any]]",
        protocol: ProtocolName = "openai",
        steps: Steps = NO_STEPS,
        policy: GuardPolicy = NO_POLICY,
        redis_url: str | None = None,
        spool_folder: Path | None = None,
    ) -> None:
        self.stub = StubTriton() if protocol == "triton" else StubEngine()
        self._protocol: ProtocolName = protocol
        self._steps = steps
        self._policy = policy
        self._redis_url = redis_url
        self._recording = _recording(policy, spool_folder)
        self._lines = lines
        self.judged: list[tuple[str | None, str, bool]] = []
        """(version, route, whether it was bad), as an asked judge has judged."""
        self._unread = 0
        self.now: float | None = None
        """What the cache takes for the time, where a test says so."""
        self._servers: list[uvicorn.Server] = []
        self._sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
        stub_port, port, admin_port = (one.getsockname()[1] for one in self._sockets)
        self.stub_url = f"http://127.0.0.1:{stub_port}"
        self.url = f"http://127.0.0.1:{port}"
        self.admin_url = f"http://127.0.0.1:{admin_port}"
        self.http = httpx2.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=20
        )

    def _port(self, number: int) -> int:
        return self._sockets[number].getsockname()[1]

    def _time(self) -> float:
        return time.monotonic() if self.now is None else self.now

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
        settings = GuardSettings(
            endpoint=ENDPOINT,
            model="smollm2",
            upstream_url=upstream_url,
            protocol=self._protocol,
            port=self._port(1),
            admin_port=self._port(2),
            auth="none",
            redis_url=None if self._redis_url is None else SecretStr(self._redis_url),
            judge_key=SecretStr("judge-key"),
            timeout_s=timeout_s,
            drain_s=0,
        )
        made = Prepared(
            settings=settings,
            policy=self._policy,
            steps=replace(self._steps, signs=signs_for(self._policy.quality)),
            keys=None if keys_file is None else KeyFile(keys_file),
            kept=store_of(self._policy.cache, endpoint=ENDPOINT, redis_url=self._redis_url),
            recording=self._recording,
        )
        async with composed(made, judged=self._keep_verdict, cache_clock=self._time) as guard:
            apps = (self.stub.app, guard.front, guard.back)
            self._servers = [a_server(app) for app in apps]
            await asyncio.gather(
                *(
                    server.serve(sockets=[one])
                    for server, one in zip(self._servers, self._sockets, strict=True)
                )
            )

    def _keep_verdict(self, version: str | None, *, route: str, is_bad: bool) -> None:
        self.judged.append((version, route, is_bad))

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

    def told(self, event: str) -> int:
        """How many lines of that event there are by now, among those that were not read."""
        told = [self._lines.get() for _ in range(self._lines.qsize())]
        return sum(one["event"] == event for one in told)

    def samples(self, name: str) -> dict[tuple[str, str], float]:
        """The series of that name by (version, route), once every request that was sent has its line."""
        return self.labelled(name, "version", "route")

    def labelled(self, name: str, one: str, other: str) -> dict[tuple[str, str], float]:
        """The series of that name by two of its labels, once every request that was sent has its line."""
        while self._unread > 0:
            self.line()
        page = httpx2.get(f"{self.admin_url}/metrics").text
        return {
            (sample.labels[one], sample.labels[other]): sample.value
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
