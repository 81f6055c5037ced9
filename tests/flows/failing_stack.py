"""A real local stack whose parts fail in the middle of a rollout, and what has to be so when all is well again.

How a part fails is in `rude`; which one, and what is promised then, is in the tests.
"""

import hashlib
import json
import os
import signal
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from deploy_targets.control_plane import utc_now
from deploy_targets.load import LoadReport
from deploy_targets.local import stack
from deploy_targets.local.home import Home, write_private
from deploy_targets.local.parts import KEYS_FILE
from deploy_targets.local.process import end_all
from deploy_targets.rollout.audit import read_chain
from deploy_targets.rollout.audit_trail import read_lines
from deploy_targets.rollout.observe import parse_scrape
from deploy_targets.rollout.replay import entries_of, replay
from registry.errors import IntegrityError
from registry.promotion import CHAMPION
from tests.flows.rude import Rude, Way, fail
from tests.flows.test_killed_anywhere import write_model
from tests.flows.test_the_stack import Stack


class FailingStack(Stack):
    """One whose parts can be taken away for a while."""

    def away(self, part: str, way: Way) -> None:
        """The part fails, stays so for a while, and is back when this returns."""
        port = self.info.ports.get(part, 0)
        fail(self.of_part(part), way, port=port, start=self.up)
        self.up()  # one that did not outlive it is started again as well

    @contextmanager
    def seen_through(self, front: Rude, part: str) -> Generator[None]:
        """The controller reaches the part through this one until the end of the block; the tests do not."""
        own = self.info.ports
        self._restart_controller({**own, part: front.port})
        self._read(self.info.model_copy(update={"ports": own}))
        try:
            yield
        finally:
            self._restart_controller(own)

    def _restart_controller(self, ports: Mapping[str, int]) -> None:
        told = self.info.model_copy(update={"ports": ports})
        write_private(self.home.stack_file, told.model_dump_json(indent=1))
        end_all(self.of_part("controller"), patience_s=10)
        self.up()

    def share(self, version: str) -> int:
        """Percent of the requests."""
        return (self.status.traffic or {}).get(version, 0)

    def counted(self, version: str) -> int:
        """The requests of clients that the guard has counted for it."""
        url = f"http://127.0.0.1:{self.info.ports['chat.guard_admin']}/metrics"
        page = httpx2.get(url, timeout=30).raise_for_status().text
        return parse_scrape(page, endpoint="chat", at=utc_now()).totals[version].requests

    def add_key(self, name: str, key: str, **limits: int) -> None:
        """Lets it in as well."""
        file = self.home.endpoint("chat") / KEYS_FILE
        known = json.loads(file.read_text())
        digest = hashlib.sha256(key.encode()).hexdigest()
        known["keys"].append({"name": name, "sha256": digest, "limits": limits})
        write_private(file, json.dumps(known))

    def kill_replica(self, version: str) -> None:
        """The process in which that version's model is; its platform starts another."""
        url = f"http://127.0.0.1:{self.info.ports['ray_dashboard']}/api/serve/applications/"
        token = self.home.secrets().ray_token
        answer = httpx2.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=30)
        application = answer.raise_for_status().json()["applications"][f"chat-v{version}"]
        (replica,) = application["deployments"]["llm"]["replicas"]
        os.kill(replica["pid"], signal.SIGKILL)

    def is_recorded(self, version: str) -> bool:
        """Whether the record is whole, and today's code decides as the controller did; a look may come in between."""
        state = self.composition.store().load("chat").state
        lines = read_lines(self.composition.records(), "chat")
        try:
            entries = read_chain(lines, endpoint="chat", tail=state.audit)
        except IntegrityError:
            return False
        decided = replay(entries_of(entries, f"chat-v{version}"))
        return (decided.missed, decided.difference) == (0, None)


@contextmanager
def a_failing_stack(
    folder: Path, endpoints: str, *, poll_s: int = 2, **environment: str
) -> Generator[FailingStack]:
    """Runs until the end of the block, with v1 serving."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHIPWAY_POLL_S", str(poll_s))
        patch.setenv("SHIPWAY_TICK_S", "0.5")
        for name, value in environment.items():
            patch.setenv(name, value)
        try:
            running = FailingStack(folder, endpoints)
            running.point("challenger", running.register(write_model(folder, 1)))
            running.until(running.is_quiet)
            yield running
        finally:
            stack.down(Home(folder / "home"), announce=print)


def fails_in_mid_rollout(
    running: FailingStack, version: str, fail: Callable[[], None], tell: Callable[..., None]
) -> int:
    """How many requests failed, when all is well again."""
    with running.clients(clients=2, timeout_s=20) as clients:
        clients.wait_for_answers(4)
        running.point("challenger", version)
        running.until(lambda: running.status.phase == "stepping")
        fail()
        back = time.monotonic()
        running.until(running.is_quiet)
        took_s = time.monotonic() - back
        clients.wait_for_answers(clients.report.requests + 10)
    serving = running.aliases[CHAMPION]
    assert running.status.traffic == {serving: 100}
    assert serving == version or running.answered(version)[0] == "turned_down"
    running.until(lambda: running.is_recorded(version))
    end = "promoted" if serving == version else "rolled back"
    tell("measured", f"{told(clients.report)}; {end}, and right {took_s:.0f} s after, record whole")
    return clients.report.failures


def told(report: LoadReport) -> str:
    return f"{report.failures} of {report.requests} requests failed"
