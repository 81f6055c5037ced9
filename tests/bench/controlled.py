"""The controller's process as it is, but that its targets are in its memory: `python -m tests.bench.controlled FILE APPLIED`.

All else is what `shipway controller` has: MLflow, S3, state, leadership, hints. Each revision that a target is asked for is a
line in the file APPLIED: the endpoint, the version, and the time on the machine's steady clock.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from deploy_targets.control_plane import utc_now
from deploy_targets.endpoint import Endpoint
from deploy_targets.local.compose import Composition
from deploy_targets.rollout.controller import Unit
from deploy_targets.routing.traffic import Traffic
from deploy_targets.run_controller import run_controller
from deploy_targets.target import Readiness, Revision
from registry.release import Release
from tests.fakes import FakeSmoke, FakeTarget, FakeUsers

CHAMPION = "1"


class TimedTarget(FakeTarget):
    """Serves the champion from the start, and notes when it is asked for another one."""

    def __init__(self, name: str, applied: Path) -> None:
        super().__init__()
        self.revisions[CHAMPION] = Revision(version=CHAMPION, readiness=Readiness.READY)
        self.traffic = Traffic.all_to(CHAMPION)
        self._name, self._applied = name, applied

    def apply(self, release: Release) -> None:
        with self._applied.open("a") as file:
            file.write(f"{self._name} {release.version} {time.monotonic()!r}\n")
        super().apply(release)


class Plane:
    """The local world with other targets; the real ones are made as well, and kept, for they take memory too."""

    def __init__(self, plane: Composition, applied: Path) -> None:
        self._plane = plane
        self._applied = applied
        self._kept: list[Unit] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plane, name)

    def unit(self, endpoint: Endpoint) -> Unit:
        real = self._plane.unit(endpoint)
        self._kept.append(real)
        target = TimedTarget(endpoint.name, self._applied)
        users = FakeUsers(target, utc_now)
        return replace(real, target=target, counters=users, smoke=FakeSmoke())


def main(file: str, applied: str) -> None:
    """Until SIGTERM; SHIPWAY_HOME names the stack."""
    run_controller(Plane(Composition.of_running_stack(Path(file)), Path(applied)))


if __name__ == "__main__":
    main(*sys.argv[1:])
