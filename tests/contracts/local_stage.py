"""Rollouts on this machine: a real engine, a real Envoy, a real guard, and clients that ask through them.

The models are tiny, and each has its own way to fail. What runs stays from one test to the next, for starting is what costs;
a stage begins with what it finds. A tick waits until nothing is starting any more, so that the clock of the test may run ahead.
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import httpx2

from deploy_targets.endpoint import Endpoint, Resources, TargetKind
from deploy_targets.load import LoadPlan, LoadReport, generate_load
from deploy_targets.local.process import find_marked
from deploy_targets.rollout.observe import GuardMetrics
from deploy_targets.rollout.smoke import SmokeTest
from deploy_targets.rollout.state import Scrape
from deploy_targets.routing.traffic import Traffic
from deploy_targets.target import Observed, Readiness, Target
from registry.release import DIGEST_TAG, ModelVersion
from tests.builders import a_digest, a_version, an_endpoint
from tests.contracts.stage import VERSIONS, Stage
from tests.local.platform import Platform
from tests.servers import Servers

ENDPOINT = an_endpoint().model_copy(update={"resources": Resources(cpus=0.1, memory_gib=0.1)})
TRITON_ENDPOINT = ENDPOINT.model_copy(update={"target": TargetKind.LOCAL_TRITON})
LIMIT_S = 240
_FAILS = "{{ 1 + nothing }}"
_FAILS_ON_SYSTEM_MESSAGES = f"{{% if messages[0]['role'] == 'system' %}}{_FAILS}{{% endif %}}"
_KINDS = ("good", "fails users", "fails smoke", "other bytes")


class Clients:
    """Users who send so many requests through the guard at once, and the guard's own counts of them."""

    def __init__(self, plan: LoadPlan, counters: GuardMetrics) -> None:
        self._plan, self._counters = plan, counters
        self.system_share = 0.0
        """Of requests with a system message, over which one kind of model fails."""
        self.reports: list[LoadReport] = []

    def send(self, requests: int) -> None:
        plan = replace(self._plan, requests=requests, system_share=self.system_share)
        self.reports.append(asyncio.run(generate_load(plan)))

    def scrape(self) -> Scrape:
        return self._counters.scrape()


class Models:
    """A model of each kind for each version, in S3, made when it is first asked for."""

    def __init__(self, servers: Servers, folder: Path) -> None:
        self._servers, self._folder = servers, folder
        self._made: dict[tuple[str, str], ModelVersion] = {}

    def version(self, number: str, kind: str = "good") -> ModelVersion:
        if (number, kind) not in self._made:
            self._made[number, kind] = self._make(number, kind)
        return self._made[number, kind]

    def _make(self, number: str, kind: str) -> ModelVersion:
        from tests.tiny_model import (
            TEMPLATE,
            write_tiny_model,
        )  # torch, which the clusters do without

        prefix = {"fails users": _FAILS_ON_SYSTEM_MESSAGES, "fails smoke": _FAILS}.get(kind, "")
        seed = int(number) * len(_KINDS) + _KINDS.index(kind)
        folder = self._folder / f"{number} {kind}"
        stored = self._servers.store.put(
            write_tiny_model(folder, seed=seed, template=prefix + TEMPLATE)
        )
        # Nothing has the digest that was promised: the engine keeps what it has fetched by that.
        digest = a_digest(number) if kind == "other bytes" else str(stored.manifest.digest)
        found = a_version(number)
        return replace(found, source=stored.source, tags={**found.tags, DIGEST_TAG: digest})


class LocalStage(Stage):
    """One endpoint that stays, with whatever the test before has left running."""

    requests_a_tick = 60
    users: Clients

    def __init__(
        self,
        endpoint: Endpoint,
        folder: Path,
        platform: Platform,
        models: Models,
        make_target: Callable[[], Target],
        kill: Callable[[str], None],
    ) -> None:
        super().__init__(endpoint, folder, *map(models.version, VERSIONS))
        self._models, self._make_target, self._kill = models, make_target, kill
        http = platform.clients.enter_context(httpx2.Client(timeout=30))
        name = endpoint.name
        metrics = f"{platform.url(f'{name}.guard_admin')}/metrics"
        plan = LoadPlan(
            url=platform.url(f"{name}.guard"),
            model=name,
            api_key=platform.secrets.api_key,
            clients=8,
            max_tokens=1,
        )
        counters = GuardMetrics(http, metrics, endpoint=name, clock=self.clock)
        self.users = Clients(plan, counters)
        self.smoke = SmokeTest(http, platform.url(f"{name}.envoy"), endpoint)
        self.restart()

    def fresh_target(self) -> Target:
        return self._make_target()

    def settle(self) -> None:
        self._until(
            lambda seen: all(
                one.readiness is not Readiness.STARTING for one in seen.revisions.values()
            )
        )

    def clear(self) -> None:
        self.target.shift(Traffic())
        self._retire_others()

    def serve(self, version: str) -> None:
        wanted = self._models.version(version)
        if self.target.observe().is_ready(version) and self.registry.versions[version] == wanted:
            self.target.shift(Traffic.all_to(version))
            self._retire_others(version)
            self.registry.aliases["champion"] = version
            self.tick()
        else:
            self.clear()
            self.release(version)
        assert self.state.serving.version == version

    def fail_users_of(self, version: str) -> None:
        self._make("fails users", version)
        self.users.system_share = 0.5

    def fail_smoke_of(self, version: str) -> None:
        self._make("fails smoke", version)

    def fail_loading_of(self, version: str) -> str:
        made = self._make("other bytes", version)
        return f"{made.tags[DIGEST_TAG]} was evaluated"

    def kill(self, version: str) -> None:
        before = self.target.observe().revisions[version].restarts
        self._kill(version)
        self._until(
            lambda seen: not seen.is_ready(version) or seen.revisions[version].restarts > before
        )

    def client_failures(self, *but: str) -> int:
        """Whatever came from no version is a failure too."""
        return sum(
            load.failures
            for report in self.users.reports
            for version, load in report.versions.items()
            if version not in but
        )

    def _make(self, kind: str, version: str) -> ModelVersion:
        made = self._models.version(version, kind)
        self.registry.versions[version] = made
        return made

    def _retire_others(self, kept: str = "") -> None:
        for version in self.target.observe().revisions:
            if version != kept:
                self.target.retire(version)
        self._until(lambda seen: seen.revisions.keys() <= {kept})

    def _until(self, holds: Callable[[Observed], bool]) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not holds(seen := self.target.observe()):
            assert time.monotonic() < deadline, seen
            time.sleep(0.1)


def ray_stage(platform: Platform, models: Models, folder: Path) -> LocalStage:
    """On the platform's Ray."""
    endpoint = ENDPOINT

    def kill(version: str) -> None:
        assert platform.ray is not None
        details = platform.ray.get("/api/serve/applications/").json()["applications"]
        (replica,) = details[f"{endpoint.name}-v{version}"]["deployments"]["llm"]["replicas"]
        os.kill(replica["pid"], signal.SIGKILL)

    make_target = partial(platform.target, endpoint)
    return LocalStage(endpoint, folder, platform, models, make_target, kill)


def triton_stage(
    platform: Platform, models: Models, folder: Path, environment: Mapping[str, str]
) -> LocalStage:
    """On Tritons of its own; `environment` says where S3 is."""
    endpoint = TRITON_ENDPOINT

    def kill(version: str) -> None:
        marked = find_marked(platform.home.mark(f"{endpoint.name}.triton-v{version}"))
        (server,) = [one for one in marked if one.name().startswith("tritonserver")]
        server.kill()

    make_target = partial(platform.triton_target, endpoint, environment)
    return LocalStage(endpoint, folder, platform, models, make_target, kill)
