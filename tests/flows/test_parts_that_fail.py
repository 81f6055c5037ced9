"""Each part of a real local stack fails in the middle of a rollout, while users ask: killed, or as good as hung.

What is behind the clients' way (MLflow, S3, the controller) may cost them nothing. What is on it (guard, split, engine) costs
them what it is away, and no more. In the end the rollout has come to its end, registry and traffic agree, and the audit
record is whole. docs/promises.md is written from what is measured here.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import httpx2
import psutil
import pytest

from deploy_targets.local import stack
from deploy_targets.local.home import Home
from deploy_targets.rollout.audit import read_chain
from deploy_targets.rollout.audit_trail import read_lines
from deploy_targets.rollout.replay import entries_of, replay
from registry.errors import IntegrityError
from registry.promotion import CHAMPION
from tests.flows.test_killed_anywhere import write_model
from tests.flows.test_the_stack import ENDPOINTS, Stack

pytestmark = [pytest.mark.real, pytest.mark.faults, pytest.mark.timeout(600)]

Way = Literal["killed", "hung"]
AWAY_S = 10
"""How long a part is away before it is started again, or goes on."""


class FailingStack(Stack):
    """One whose parts can be taken away for a while."""

    def of_part(self, part: str) -> list[psutil.Process]:
        """Its processes; none where it is gone."""
        process = self.info.processes[part].find()
        return [] if process is None else [process, *process.children(recursive=True)]

    def away(self, part: str, way: Way) -> None:
        """The part fails, stays so for a while, and is back when this returns."""
        processes = self.of_part(part)
        for process in processes:
            process.send_signal(signal.SIGKILL if way == "killed" else signal.SIGSTOP)
        end = time.monotonic() + AWAY_S
        self.until(lambda: time.monotonic() > end)
        for process in processes if way == "hung" else ():
            process.send_signal(signal.SIGCONT)
        self.up()

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


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FailingStack]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHIPWAY_POLL_S", "2")
        patch.setenv("SHIPWAY_TICK_S", "0.5")
        folder = tmp_path_factory.mktemp("failing")
        try:
            running = FailingStack(folder, ENDPOINTS)
            running.point("challenger", running.register(write_model(folder, 1)))
            running.until(running.is_quiet)
            yield running
        finally:
            stack.down(Home(folder / "home"), announce=print)


@pytest.fixture
def next_version(running: FailingStack, tmp_path: Path) -> str:
    return running.register(write_model(tmp_path, 1 + len(running.registry.versions("tiny"))))


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
    tell(
        "measured",
        f"{clients.report.failures} of {clients.report.requests} requests failed; {end}, and right {took_s:.0f} s after",
    )
    return clients.report.failures


@pytest.mark.promise("no client notices, and the rollout comes to its end")
@pytest.mark.parametrize("way", ["killed", "hung"])
@pytest.mark.parametrize("part", ["mlflow", "s3", "controller"])
def test_what_is_behind_the_clients_way_fails(
    running: FailingStack, next_version: str, part: str, way: Way, record_property
) -> None:
    failed = fails_in_mid_rollout(
        running, next_version, lambda: running.away(part, way), record_property
    )
    assert failed == 0


@pytest.mark.promise("clients get an error or wait while it is away, and answers again after")
@pytest.mark.parametrize(
    ("part", "way"),
    [("chat.guard", "killed"), ("chat.envoy", "killed"), ("chat.envoy", "hung"), ("ray", "killed")],
)
def test_what_is_on_the_clients_way_fails(
    running: FailingStack, next_version: str, part: str, way: Way, record_property
) -> None:
    fails_in_mid_rollout(running, next_version, lambda: running.away(part, way), record_property)


@pytest.mark.promise("it is started again, and its failures are counted against it alone")
@pytest.mark.parametrize("whose", ["champion", "challenger"])
def test_a_model_s_process_is_killed(
    running: FailingStack, next_version: str, whose: str, record_property
) -> None:
    version = running.aliases[CHAMPION] if whose == "champion" else next_version
    fails_in_mid_rollout(
        running, next_version, lambda: running.kill_replica(version), record_property
    )
