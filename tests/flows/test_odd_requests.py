"""Requests that nobody should make, and that somebody does: for artifacts that are gone, and for what was given back before."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from deploy_targets.rollout.inspector import ReleaseInspector
from deploy_targets.routing.traffic import Traffic
from registry.release import DIGEST_TAG
from tests.builders import a_release, a_version
from tests.rollout.test_controller import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.release("6")
    return world


@pytest.mark.promise("never deployed, and told why", about="bytes")
@pytest.mark.real
@pytest.mark.parametrize("lost", ["all of it", "a file"])
def test_an_alias_on_a_version_whose_artifacts_are_gone_is_refused_with_the_reason_on_it(
    world: World, servers: Any, tmp_path: Path, lost: str
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_text(uuid4().hex)
    stored = servers.store.put(folder)
    version = replace(a_version("7"), source=stored.source)
    version.tags[DIGEST_TAG] = str(stored.manifest.digest)  # type: ignore[index]
    world.registry.versions["7"] = version
    if lost == "all of it":
        servers.store.delete(stored.source)
    else:
        bucket, _, prefix = stored.source.removeprefix("s3://").partition("/")
        servers.store._client.delete_object(
            Bucket=bucket, Key=f"{prefix.rstrip('/')}/model.safetensors"
        )
    inspector = ReleaseInspector(servers.store, world.endpoint, secret=None, trusted=None)
    world.unit = replace(world.unit, inspector=inspector)
    world.restart()
    world.target.shifts.clear()

    world.registry.aliases["challenger"] = "7"
    world.tick(5)

    assert set(world.target.revisions) == {"6"}
    assert world.target.shifts == []
    assert world.registry.aliases == {"champion": "6"}
    tags = world.registry.versions["7"].tags
    assert tags["shipway.status"] == "turned_down"
    assert stored.source.rstrip("/") in tags["shipway.reason"]


def test_a_version_promoted_given_back_and_promoted_again_is_judged_from_nothing(
    world: World,
) -> None:
    world.release("7")
    world.go_back(to=a_release("6"))
    world.tick(5)
    assert world.target.traffic == Traffic.all_to("6")
    assert world.registry.aliases == {"champion": "6"}
    world.target.shifts.clear()
    world.tick(5)
    assert world.target.shifts == []

    world.release("7")

    assert [shift.percent("7") for shift in world.target.shifts] == [5, 25, 50, 100]
    assert world.registry.aliases == {"champion": "7"}
    assert world.registry.versions["7"].tags["shipway.status"] == "promoted"
