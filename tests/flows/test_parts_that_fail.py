"""Each part of a real local stack fails in the middle of a rollout, while users ask: it is gone, hung, slow, or rude.

What is behind the clients' way (MLflow, S3, Prometheus, the controller) may cost them nothing, nor may a Redis whose rates
alone concern them. What is on their way (guard, split, engine) costs them what it is away, and no more. In the end the
rollout has come to its end, registry and traffic agree, and the audit record is whole. docs/promises.md is written from what
is measured here; `rude` knows the ways, and `test_tritons_that_fail` does the same to Triton.
"""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy_targets import metrics
from registry.promotion import CHAMPION
from tests.flows.failing_stack import FailingStack, a_failing_stack, fails_in_mid_rollout, told
from tests.flows.rude import AWAY_S, ERRORS, NONSENSE, Rude, Way, fail, in_turn, served
from tests.flows.test_the_stack import ENDPOINTS
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
    folder = tmp_path_factory.mktemp("failing")
    shared = {} if redis is None else {"SHIPWAY_GUARD_REDIS_URL": redis.url}
    with a_failing_stack(folder, ENDPOINTS + LIMITED.removeprefix("\n"), **shared) as running:
        running.add_key("budgeted", BUDGETED, micros_per_day=1_000_000_000)
        yield running


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
