"""A controller that is started beside, or in the place of, the one that `up` has started for a home.

`python -m tests.flows.other_controller FILE SHIFT` is the real one with a clock that goes by as many seconds as the file
SHIFT says at that moment; what else is there runs as ever.
"""

import re
import sys
from datetime import datetime, timedelta
from pathlib import Path

import httpx2

from deploy_targets import run_controller
from deploy_targets.control_plane import utc_now
from deploy_targets.local import compose, parts, stack
from deploy_targets.local.process import await_ready, end_all, free_port, spawn
from tests.flows.test_the_stack import Stack

ROOT = Path(__file__).parents[2]


class OwnPage:
    """What a controller says of itself."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    def is_up(self) -> bool:
        try:
            return httpx2.get(f"{self._url}/healthz", timeout=20).status_code == 200
        except httpx2.HTTPError:
            return False

    def total(self, series: str, **labels: str) -> int:
        """The sum of all samples of that name that bear these labels."""
        page = httpx2.get(f"{self._url}/metrics", timeout=20).raise_for_status().text
        found = re.findall(rf"^{series}(?:\{{(.*)\}})? (\S+)$", page, flags=re.MULTILINE)
        wanted = [f'{name}="{value}"' for name, value in labels.items()]
        return int(sum(float(n) for said, n in found if all(one in said for one in wanted)))

    def looks(self, **labels: str) -> int:
        return self.total("shipway_reconcile_seconds_count", **labels)

    def hints(self, **labels: str) -> int:
        return self.total("shipway_hints_total", **labels)

    @property
    def leads(self) -> bool:
        return self.total("shipway_leader") == 1


class OtherController:
    """One of a running stack's home, on a port of its own; MLflow is told that it is at `knocked_at`, or there."""

    def __init__(
        self, running: Stack, name: str, *words: str | Path, knocked_at: int | None = None
    ) -> None:
        """`words` are what Python runs in the place of the ordinary controller."""
        home = running.home
        port = free_port(0, set())
        part = parts.controller(home, home.secrets(), running.info.ports, running.file)
        hears = port if knocked_at is None else knocked_at
        self.record = spawn(
            (sys.executable, *words) if words else part.command,
            log=home.log(name),
            environment={
                **stack.inherited_environment(),
                **part.environment,
                "PYTHONPATH": str(ROOT),
                "SHIPWAY_CONTROLLER_PORT": str(port),
                "SHIPWAY_CONTROLLER_URL": f"http://127.0.0.1:{hears}",
            },
            folder=part.folder,
            mark=home.mark(name),
        )
        self.page = OwnPage(port)
        await_ready(name, self.page.is_up, record=self.record, log=home.log(name), limit_s=120)

    def end(self) -> None:
        process = self.record.find()
        end_all([] if process is None else [process], patience_s=10)


def main(file: Path, shift: Path) -> None:
    def shifted_now() -> datetime:
        return utc_now() + timedelta(seconds=float(shift.read_text()))

    run_controller.utc_now = compose.utc_now = shifted_now
    run_controller.run_controller(compose.Composition.of_running_stack(file))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
