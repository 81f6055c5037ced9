"""The audit record outside of the state, on a real S3 and a real MLflow."""

import itertools
import json
from pathlib import Path

import pytest

from deploy_targets.rollout.audit import read_chain
from deploy_targets.rollout.audit_trail import AuditTrail, read_lines
from deploy_targets.rollout.journal import EXPERIMENT_PREFIX, Journal
from deploy_targets.rollout.picture import draw_rollout
from deploy_targets.rollout.replay import entries_of, replay
from registry.errors import IntegrityError
from registry.release import ROLLOUT_TAG
from tests.rollout.test_controller import World
from tests.servers import Servers

_NAMES = (f"chat-{number}" for number in itertools.count())


@pytest.fixture
def trail(servers: Servers) -> AuditTrail:
    return AuditTrail(servers.records, servers.tracking, endpoint=next(_NAMES))


def a_line(number: int, *, rollout: str | None = None) -> str:
    return json.dumps({"chain": "c", "number": number, "rollout": rollout})


def test_a_rollouts_decisions_lie_in_s3_and_beside_its_charts(
    servers: Servers, tmp_path: Path
) -> None:
    world = World(tmp_path)
    name = world.endpoint.name
    world.unit = type(world.unit)(
        endpoint=world.endpoint,
        target=world.target,
        counters=world.users,
        smoke=world.smoke,
        record=Journal(servers.tracking, world.endpoint, draw=draw_rollout),
        trail=AuditTrail(servers.records, servers.tracking, endpoint=name),
        inspector=world.inspector,
    )
    world.restart()
    world.registry.aliases["challenger"] = "6"
    world.tick(6)
    assert world.state.serving is not None
    lines = read_lines(servers.records, name)
    entries = read_chain(lines, endpoint=name, tail=world.state.audit)
    rollout = entries[0].rollout
    assert rollout is not None
    assert replay(entries_of(entries, rollout)).difference is None
    experiment = servers.tracking.experiment(EXPERIMENT_PREFIX + name)
    run = servers.tracking.find_run(experiment, tag=ROLLOUT_TAG, value=rollout)
    assert run is not None
    files = [file.path for file in servers.client.list_artifacts(run, f"audit/{entries[0].chain}")]
    assert files
    told = Path(servers.client.download_artifacts(run, files[0], str(tmp_path))).read_text()
    assert told.splitlines()[0] in lines


def test_the_same_piece_may_come_again_and_another_one_under_its_name_is_refused(
    servers: Servers, trail: AuditTrail
) -> None:
    trail.append((a_line(1), a_line(2)))
    trail.append((a_line(1), a_line(2)))
    with pytest.raises(IntegrityError, match=r"00000001-00000002\.jsonl holds another record"):
        trail.append((a_line(1), a_line(2, rollout="other")))
    trail.append((a_line(1), a_line(2), a_line(3)))
    assert read_lines(servers.records, trail.endpoint) == (
        a_line(1), a_line(2), a_line(1), a_line(2), a_line(3),
    )  # fmt: skip


def test_decisions_outside_of_rollouts_have_one_run_of_their_own(
    servers: Servers, trail: AuditTrail
) -> None:
    trail.copy((a_line(1),))
    trail.copy((a_line(2), a_line(3, rollout="its run was deleted")))
    experiment = servers.tracking.experiment(EXPERIMENT_PREFIX + trail.endpoint)
    (run,) = servers.client.search_runs([experiment])
    assert run.info.run_name == "decisions outside of rollouts"
    files = [file.path for file in servers.client.list_artifacts(run.info.run_id, "audit/c")]
    assert files == [
        f"audit/c/{first:08d}-{last:08d}.jsonl" for first, last in ((1, 1), (2, 2), (3, 3))
    ]
