"""Each part of a real local stack fails in the middle of a rollout, while users ask: it is gone, hung, slow, or rude.

What is behind the clients' way (MLflow, S3, Prometheus, the controller) may cost them nothing, nor may a Redis whose rates
alone concern them. What is on their way (guard, split, engine) costs them what it is away, and no more. In the end the
rollout has come to its end, registry and traffic agree, and the audit record is whole. docs/promises.md is written from what
is measured here; `rude` knows the ways, and `test_tritons_that_fail` does the same to Triton.
"""

import hashlib
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from deploy_targets import metrics
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
from tests.flows.rude import AWAY_S, ERRORS, NONSENSE, Rude, Way, fail, in_turn, served
from tests.flows.test_killed_anywhere import write_model
from tests.flows.test_the_stack import ENDPOINTS, Stack
from tests.guard.redis_server import RedisServer, a_redis
from tests.monitoring.prometheus import a_prometheus
from tests.monitoring.promtool import program

pytestmark = [pytest.mark.real, pytest.mark.faults, pytest.mark.timeout(600)]

LIMITED = """
    guard:
      limits: {key: {requests_per_minute: 100000}}
      prices: {completion_micros_per_million: 1000000}
"""
"""Rates for everybody, and prices for the budget that one key has."""
BUDGETED = "sk-of-one-with-a-budget"


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


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer | None]:
    """None where it is not installed: the others can do without."""
    if shutil.which("redis-server") is None:
        yield None
        return
    with a_redis() as server:
        yield server


@pytest.fixture(scope="module")
def running(
    redis: RedisServer | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FailingStack]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHIPWAY_POLL_S", "2")
        patch.setenv("SHIPWAY_TICK_S", "0.5")
        if redis is not None:
            patch.setenv("SHIPWAY_GUARD_REDIS_URL", redis.url)
        folder = tmp_path_factory.mktemp("failing")
        try:
            running = FailingStack(folder, ENDPOINTS + LIMITED.removeprefix("\n"))
            running.add_key("budgeted", BUDGETED, micros_per_day=1_000_000_000)
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
    tell("measured", f"{told(clients.report)}; {end}, and right {took_s:.0f} s after, record whole")
    return clients.report.failures


def told(report: LoadReport) -> str:
    return f"{report.failures} of {report.requests} requests failed"


@pytest.mark.promise("no client notices, and the rollout comes to its end")
@pytest.mark.parametrize("way", ["killed", "hung", "slow", "errors", "nonsense"])
@pytest.mark.parametrize("part", ["mlflow", "s3"])
def test_what_is_behind_the_clients_way_fails(
    running: FailingStack, next_version: str, part: str, way: Way, record_property
) -> None:
    failed = fails_in_mid_rollout(
        running, next_version, lambda: running.away(part, way), record_property
    )
    assert failed == 0


@pytest.mark.promise("no client notices, and the rollout comes to its end")
@pytest.mark.parametrize("way", ["killed", "hung", "slow"])
def test_the_controller_fails(
    running: FailingStack, next_version: str, way: Way, record_property
) -> None:
    failed = fails_in_mid_rollout(
        running, next_version, lambda: running.away("controller", way), record_property
    )
    assert failed == 0


@pytest.mark.promise("nobody is given more requests while nothing is seen, and the rollout goes on")
@pytest.mark.parametrize(
    ("part", "way"),
    [
        ("chat.guard_admin", "hung"),
        ("chat.guard_admin", "errors"),
        ("chat.guard_admin", "nonsense"),
        ("chat.envoy_admin", "errors"),
        ("chat.envoy_admin", "nonsense"),
        ("ray_dashboard", "errors"),
        ("ray_dashboard", "nonsense"),
    ],
)
def test_what_the_controller_looks_at_fails(
    running: FailingStack, next_version: str, part: str, way: Way, record_property
) -> None:
    before = f"http://127.0.0.1:{running.info.ports[part]}"
    with served(Rude(before=before)) as front, running.seen_through(front, part):

        def away() -> None:
            if way == "hung":
                front.waits_s = 2 * AWAY_S
            else:
                front.answers = in_turn(ERRORS if way == "errors" else NONSENSE)
            time.sleep(2)  # what was read before that is acted on
            share = running.share(next_version)
            assert share < 100
            end = time.monotonic() + AWAY_S
            while time.monotonic() < end:
                assert running.share(next_version) == share
                assert running.aliases[CHAMPION] != next_version
            front.answers, front.waits_s = None, 0

        assert fails_in_mid_rollout(running, next_version, away, record_property) == 0
        assert running.aliases[CHAMPION] == next_version


@pytest.mark.promise("no rollout needs it, and it has missed no request when it is back")
@pytest.mark.parametrize("way", ["killed", "hung"])
def test_prometheus_fails(
    running: FailingStack, next_version: str, tmp_path: Path, way: Way, record_property
) -> None:
    program("prometheus")
    admin = f"127.0.0.1:{running.info.ports['chat.guard_admin']}"
    with a_prometheus(tmp_path, endpoint="chat", guard_admin=admin) as watching:

        def away() -> None:
            fail(watching.processes, way, port=watching.port, start=watching.start)

        assert fails_in_mid_rollout(running, next_version, away, record_property) == 0
        assert running.aliases[CHAMPION] == next_version
        counted = running.counted(next_version)
        query = f'sum({metrics.REQUESTS.name}{{version="{next_version}",route="chat"}})'
        watching.until(lambda: [value for _, value in watching.ask(query)] == [counted])


@pytest.mark.promise(
    "rates are counted on and cost no client anything, budgets let nothing through meanwhile"
)
@pytest.mark.parametrize("way", ["killed", "hung", "slow", "errors", "nonsense"])
def test_redis_fails(
    running: FailingStack,
    next_version: str,
    redis: RedisServer | None,
    way: Way,
    record_property,
) -> None:
    if redis is None:
        pytest.skip("redis-server is not installed: `apt-get install redis-server` brings it")

    def away() -> None:
        if way == "errors":  # its own: it has no room for anything
            redis.set("maxmemory", "1")
            time.sleep(AWAY_S)
            redis.set("maxmemory", "0")
        else:
            fail(redis.processes, way, port=redis.port, start=redis.start)

    said: dict[str, str] = {}
    with running.clients(clients=1, timeout_s=20, api_key=BUDGETED) as budgeted:
        budgeted.wait_for_answers(2)
        failed = fails_in_mid_rollout(running, next_version, away, said.__setitem__)
        seen = budgeted.report.requests - budgeted.report.failures
        running.until(lambda: budgeted.report.requests - budgeted.report.failures > seen)
    record_property(
        "measured", f"{said['measured']}; of those with a budget {told(budgeted.report)}"
    )
    assert failed == 0
    assert budgeted.report.faults.keys() <= {"status 503"}
    assert budgeted.report.failures > 0 or way == "slow"
    assert running.aliases[CHAMPION] == next_version


@pytest.mark.promise("clients get an error or wait while it is away, and answers again after")
@pytest.mark.parametrize(
    ("part", "way"),
    [
        ("chat.guard", "killed"),
        ("chat.guard", "slow"),
        ("chat.envoy", "killed"),
        ("chat.envoy", "hung"),
        ("ray", "killed"),
        ("ray", "hung"),
        ("ray", "slow"),
    ],
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
