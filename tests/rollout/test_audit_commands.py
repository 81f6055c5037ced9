"""The commands that read the record, while a controller writes it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy_targets.endpoint import EndpointFile
from deploy_targets.rollout.audit_commands import audit_app
from tests.builders import an_endpoint
from tests.rollout.test_controller import World


class GrowingRecords:
    """S3, read so slowly that the controller ticks and writes between any two pieces."""

    def __init__(self, world: World) -> None:
        self._world = world

    def read(self, prefix: str) -> Iterator[bytes]:
        assert prefix == "audit/chat"
        for line in tuple(self._world.trail.lines):
            self._world.tick(1, requests=10)
            yield line.encode()


class Plane:
    def __init__(self, world: World) -> None:
        self._world = world
        self.file = EndpointFile(apiVersion="shipway/v1", endpoints=(world.endpoint,))

    def tracking(self):
        raise AssertionError

    def records(self):
        return GrowingRecords(self._world)

    def store(self):
        return self._world.store


@pytest.mark.parametrize("command", ["explain", "replay"])
def test_a_record_that_grows_while_it_is_read_is_told(tmp_path: Path, command: str) -> None:
    serving = World(tmp_path, an_endpoint(promote={"by": "exposure", "requests": 100_000}))
    serving.release("6")
    serving.registry.aliases["challenger"] = "7"
    serving.tick(4, requests=10)
    before = serving.state.audit.length
    app = audit_app(lambda _: Plane(serving))  # pyright: ignore[reportArgumentType] - a stand-in
    done = CliRunner().invoke(app, [command, "chat-v7"], catch_exceptions=False)
    assert done.exit_code == 0
    assert ("rollout.started" if command == "explain" else "Decided alike") in done.output
    assert serving.state.audit.length > before + 3
