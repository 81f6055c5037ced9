"""Runs the real controller of a local stack again and again, each time until it kills itself at a point that is still to be met.

`python -m tests.flows.killed_controller FILE POINT…`; prints each death as a line of JSON, and ends when all points were met.
Each life is a process of its own, forked so that the imports are paid for once; nothing is contacted before the fork.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, TypeVar

from deploy_targets.endpoint import Endpoint
from deploy_targets.local.compose import Composition
from deploy_targets.rollout.controller import Unit
from deploy_targets.rollout.store import SqliteStore
from deploy_targets.run_controller import run_controller
from registry.mlflow_registry import MlflowRegistry
from tests.flows.kill_points import what_is_done

Part = TypeVar("Part")


class Killer:
    """Kills this process at the first of `points` that it comes by."""

    def __init__(self, points: set[str], told: int) -> None:
        self._points, self._told = points, told

    def around(self, part: Part, *calls: str, name: str = "") -> Part:
        """`name` stands in the points' names where the call's own would not tell whose it is."""
        for call in calls:
            setattr(part, call, self._guarded(name or call, getattr(part, call)))
        return part

    def _guarded(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*arguments: object, **named: object) -> object:
            done = what_is_done(name, *arguments)
            self._point(f"before {done}")
            answer = call(*arguments, **named)
            self._point(f"after {done}")
            return answer

        return guarded

    def _point(self, name: str) -> None:
        if name in self._points:
            os.write(self._told, name.encode())
            os.kill(os.getpid(), signal.SIGKILL)


class KillingPlane(Composition):
    """The local stack's clients, with the killer around what changes the world."""

    killer: Killer

    def store(self) -> SqliteStore:
        return self.killer.around(super().store(), "save")

    def registry(self) -> MlflowRegistry:
        return self.killer.around(super().registry(), "write")

    def unit(self, endpoint: Endpoint) -> Unit:
        unit = super().unit(endpoint)
        self.killer.around(unit.target, "apply", "shift", "retire")
        record = self.killer.around(unit.record, "write", name="record")
        return replace(unit, record=record, trail=self.killer.around(unit.trail, "append"))


def live(file: Path, points: set[str]) -> tuple[str, int]:
    """The point at which a controller died, and by which signal."""
    hears, told = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(hears)
        plane = KillingPlane.of_running_stack(file)
        KillingPlane.killer = Killer(points, told)
        run_controller(plane)
        os._exit(0)
    os.close(told)
    with os.fdopen(hears) as pipe:
        point = pipe.read()
    _, status = os.waitpid(child, 0)
    return point, os.waitstatus_to_exitcode(status)


def main(file: Path, points: set[str], out: IO[str]) -> None:
    while points:
        point, code = live(file, points)
        points.remove(point)
        print(
            json.dumps({"point": point, "code": code, "at": time.monotonic()}), file=out, flush=True
        )


if __name__ == "__main__":
    # The controller writes its log to stdout.
    deaths = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    main(Path(sys.argv[1]), set(sys.argv[2:]), deaths)
