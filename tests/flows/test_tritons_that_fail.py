"""Real tritonservers fail in the middle of a rollout, while users ask: what `test_parts_that_fail` does to the other parts."""

from collections.abc import Iterator

import psutil
import pytest

from deploy_targets.local.process import find_marked
from registry.promotion import CHAMPION
from tests.flows.failing_stack import FailingStack, a_failing_stack, fails_in_mid_rollout
from tests.flows.rude import Way, fail
from tests.flows.test_local_triton import ENDPOINTS
from tests.local.platform import needs_triton

pytestmark = [pytest.mark.real, pytest.mark.faults, pytest.mark.timeout(600), needs_triton]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FailingStack]:
    folder = tmp_path_factory.mktemp("tritons")
    with a_failing_stack(folder, ENDPOINTS) as running:
        yield running


def tritonserver(running: FailingStack, version: str) -> psutil.Process:
    marked = find_marked(running.home.mark(f"chat.triton-v{version}"))
    (found,) = [one for one in marked if one.name() == "tritonserver"]
    return found


@pytest.mark.promise("it is started again, and its failures are counted against it alone")
@pytest.mark.parametrize("whose", ["champion", "challenger"])
def test_a_tritonserver_is_killed(
    running: FailingStack, next_version: str, whose: str, record_property
) -> None:
    version = running.aliases[CHAMPION] if whose == "champion" else next_version

    def kill() -> None:
        before = tritonserver(running, version)
        before.kill()
        # One whose version was rolled back for it is not started again.
        running.until(lambda: _is_another(running, version, before))

    fails_in_mid_rollout(running, next_version, kill, record_property)


def _is_another(running: FailingStack, version: str, before: psutil.Process) -> bool:
    marked = find_marked(running.home.mark(f"chat.triton-v{version}"))
    if not marked:
        return version != running.aliases[CHAMPION]
    return any(one.name() == "tritonserver" and one.pid != before.pid for one in marked)


@pytest.mark.promise("clients wait; where Triton dies of it they get errors until it is back")
@pytest.mark.parametrize("way", ["hung", "slow"])
@pytest.mark.parametrize("whose", ["champion", "challenger"])
def test_a_tritonserver_hangs(
    running: FailingStack, next_version: str, whose: str, way: Way, record_property
) -> None:
    version = running.aliases[CHAMPION] if whose == "champion" else next_version

    def away() -> None:
        server = tritonserver(running, version)
        fail([server, *server.children(recursive=True)], way, port=0, start=running.up)

    # Its python backend may take its own pause for the death of the process in which the model is, and end.
    fails_in_mid_rollout(running, next_version, away, record_property)
