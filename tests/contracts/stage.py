"""A rollout on its stage: one endpoint with the real plan and controller, a registry, users, and a clock that tests move.

What the flows of `test_rollouts` know of a platform. `cluster_stage` and `local_stage` are the platforms.
"""

from pathlib import Path
from typing import Any, Protocol

import pytest

from deploy_targets.endpoint import Endpoint
from deploy_targets.rollout.controller import Controller, Smoke, Unit
from deploy_targets.rollout.state import Scrape
from deploy_targets.rollout.store import SqliteStore
from deploy_targets.routing.traffic import Traffic
from deploy_targets.target import Target
from registry.release import ModelVersion
from tests.builders import FakeClock
from tests.fakes import FakeInspector, FakeRecord, FakeRegistry, FakeTrail, FakeWatcher

POLICY = {
    "steps": [{"weight": weight, "dwell_s": 0} for weight in (5, 25, 50)],
    "promote": {"by": "exposure", "requests": 30},
    "drain_s": 0,
    "settle_s": 20,
}
VERSIONS = ("5", "6", "7", "8")
_TICKS = 25


class Users(Protocol):
    def send(self, requests: int) -> None: ...

    def scrape(self) -> Scrape: ...


class Stage:
    """What every platform has in common; a platform says how it is reached, and how something fails on it."""

    requests_a_tick = 100
    users: Users
    smoke: Smoke

    def __init__(self, endpoint: Endpoint, folder: Path, *versions: ModelVersion) -> None:
        """A subclass sets `users` and `smoke`, and then calls `restart`."""
        self.endpoint = endpoint
        self.clock = FakeClock()
        self.registry = FakeRegistry(*versions)
        self.record = FakeRecord()
        self.store = SqliteStore(folder / "state.db")
        self.shifts: list[Traffic] = []

    def fresh_target(self) -> Target:
        """An adapter that has seen nothing yet."""
        raise NotImplementedError

    def settle(self) -> None:
        """Time passes on the platform."""
        raise NotImplementedError

    def clear(self) -> None:
        """Nothing of the endpoint is there."""
        raise NotImplementedError

    def serve(self, version: str) -> None:
        """That version serves, alone."""
        raise NotImplementedError

    def fail_users_of(self, version: str) -> None:
        """Half of the requests to it fail."""
        raise NotImplementedError

    def fail_smoke_of(self, version: str) -> None:
        """It answers no smoke test."""
        raise NotImplementedError

    def fail_loading_of(self, version: str) -> str:
        """It never gets ready; returns what will be said about it."""
        raise NotImplementedError

    def kill(self, version: str) -> None:
        """A replica of it dies, and the platform has noticed."""
        raise NotImplementedError

    def client_failures(self, *but: str) -> int:
        """Requests that failed, but for those to the versions named."""
        raise NotImplementedError

    @property
    def traffic(self) -> Traffic:
        """Where users' requests go."""
        return self.target.observe().traffic

    @property
    def state(self) -> Any:
        return self.store.load(self.endpoint.name).state

    @property
    def outcomes(self) -> list[str]:
        return list(self.record.outcomes.values())

    def percents(self, version: str) -> list[int]:
        """Its shares, one after the other."""
        return [traffic.percent(version) for traffic in self.shifts]

    def restart(self) -> None:
        """The controller's process is another one from here on."""
        self.target = self.fresh_target()
        self.unit = Unit(
            endpoint=self.endpoint,
            target=self.target,
            counters=self.users,
            smoke=self.smoke,
            record=self.record,
            trail=FakeTrail(),
            inspector=FakeInspector(),
        )
        self.controller = Controller(
            (self.unit,),
            registry=self.registry,
            store=self.store,
            clock=self.clock,
            leads=lambda: True,
            watcher=FakeWatcher(),
        )

    def tick(self, times: int = 1) -> None:
        for _ in range(times):
            self.clock.advance(10)
            self.settle()
            traffic = self.traffic
            if not self.shifts or self.shifts[-1] != traffic:
                self.shifts.append(traffic)
            if traffic.weights and self.state.rollout is not None:
                self.users.send(self.requests_a_tick)
            self.look()

    def look(self) -> None:
        """The controller's next look, without any time between."""
        self.controller.tick(self.endpoint.name)

    def release(self, version: str) -> None:
        self.registry.aliases["challenger"] = version
        self.finish()
        assert self.record.outcomes, "nothing was rolled out"

    def finish(self) -> None:
        """Lets the loop run until nothing is under way, and a little longer, for what comes after."""
        for _ in range(_TICKS):
            self.tick()
            if self.state.rollout is None:
                return self.tick(4)
        return pytest.fail(f"it never came to an end: {self.state.rollout}")

    def reach(self, version: str, percent: int) -> None:
        """Rolls `version` out until it has that share."""
        self.registry.aliases["challenger"] = version
        for _ in range(_TICKS):
            self.tick()
            if self.traffic.percent(version) >= percent:
                return
        pytest.fail(f"v{version} never got {percent} %: {self.traffic}")
