"""`gc` on a real S3: what it lists, what it deletes, and what it leaves to whoever writes at the same time."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deploy_targets.garbage import collect_garbage
from registry.artifact_store import ArtifactStore, StoredArtifact
from registry.digests import SIGNATURE_NAME
from registry.errors import ArtifactStoreUnavailable
from registry.release import DIGEST_TAG, ModelVersion, Release
from registry.retention import Retention
from registry.sending import UnfinishedUpload
from tests.registry.faulty_s3 import FaultyS3, Refusal
from tests.registry.test_artifact_store import Bucket
from tests.registry.test_transfer import a_folder, proxy, refuse_after
from tests.registry.test_transfer import store as store_behind_proxy

pytestmark = pytest.mark.real

__all__ = ["proxy", "store_behind_proxy"]
NOTHING_KEPT = Retention(keep_last=0, keep_for=timedelta(0))


class World:
    """A bucket of its own, versions of artifacts in it, and what serves."""

    def __init__(self, store: ArtifactStore, folder: Path) -> None:
        self.store, self.folder = store, folder
        self.versions: list[ModelVersion] = []
        self.states: list[Any] = []

    def put(self, name: str) -> StoredArtifact:
        folder = a_folder(self.folder / name, big=0, small=2)
        stored = self.store.put(folder)
        self.store.sign(stored.source, b"signed")
        return stored

    def register(self, stored: StoredArtifact) -> ModelVersion:
        version = ModelVersion(
            model="tiny",
            version=str(len(self.versions) + 1),
            source=stored.source,
            tags={DIGEST_TAG: stored.manifest.digest},
        )
        self.versions.append(version)
        return version

    def collect(self, *, delete: bool) -> list[str]:
        registry: Any = SimpleNamespace(
            models=lambda: ("tiny",),
            versions=lambda _: tuple(self.versions),
            aliases=lambda _: {},
            delete_version=lambda _, number: self._forget(number),
        )
        states: Any = SimpleNamespace(states=lambda: self.states)
        return list(collect_garbage(registry, self.store, states, NOTHING_KEPT, delete=delete))

    def _forget(self, number: str) -> None:
        self.versions = [version for version in self.versions if version.version != number]

    def keys(self, source: str) -> set[str]:
        return Bucket(self.store, source).keys()


@pytest.fixture
def world(store_behind_proxy: ArtifactStore, tmp_path: Path) -> World:
    """One bucket for all tests, for each takes several volumes of the server's; emptied before each."""
    store = ArtifactStore(store_behind_proxy._client, bucket="collected")
    store.ensure_bucket()
    for source in store.written():
        store.delete(source)
    for upload in store.unfinished():
        store.give_up(upload)
    return World(store, tmp_path)


def served(version: ModelVersion, role: str) -> Any:
    digest: Any = version.tags[DIGEST_TAG]
    release = Release(
        model=version.model, version=version.version, source=version.source, digest=digest
    )
    empty = SimpleNamespace(serving=None, served=(), rollout=None, override=None, experiment=None)
    changes: dict[str, Any] = {
        "serving": {"serving": release},
        "served before": {"served": (release,)},
        "challenger": {"rollout": SimpleNamespace(challenger=release)},
        "gone back to": {"override": SimpleNamespace(to=release)},
        "compared in an experiment": {"experiment": SimpleNamespace(arms=(release,))},
    }[role]
    return SimpleNamespace(**{**vars(empty), **changes})


@pytest.mark.parametrize(
    "role", ["serving", "served before", "challenger", "gone back to", "compared in an experiment"]
)
def test_what_an_endpoint_serves_or_may_go_back_to_is_never_collected(
    world: World, role: str
) -> None:
    needed, other = world.put("needed"), world.put("other")
    version = world.register(needed)
    world.register(other)
    world.states = [served(version, role)]
    before = world.keys(needed.source)

    said = world.collect(delete=True)

    assert world.versions == [version]
    assert world.keys(needed.source) == before
    assert world.keys(other.source) == set()
    assert said == ["deleted tiny v2", f"deleted {other.source}"]


def test_a_dry_run_lists_the_same_and_deletes_nothing(world: World) -> None:
    stored = world.put("orphan")
    composed = world.store.compose(
        stored.source, stored.manifest.digest, under="chat/1", beside={"chat/say": b"hello"}
    )
    world.register(stored)
    before = world.keys(stored.source), world.keys(composed.source)
    assert SIGNATURE_NAME in before[0]

    would = world.collect(delete=False)
    assert (world.keys(stored.source), world.keys(composed.source)) == before
    did = world.collect(delete=True)

    assert [line.replace("would delete", "deleted") for line in would] == did
    assert (world.keys(stored.source), world.keys(composed.source)) == (set(), set())
    assert world.collect(delete=True) == ["Everything that is there is needed."]


def test_what_was_composed_of_an_artifact_that_is_gone_is_found(world: World) -> None:
    stored = world.put("orphan")
    composed = world.store.compose(stored.source, stored.manifest.digest, under="x", beside={})
    for name in world.keys(stored.source):
        Bucket(world.store, stored.source).remove(name)

    assert world.collect(delete=True) == [f"deleted {stored.source}"]
    assert world.keys(composed.source) == set()


def cut_off(world: World, proxy: FaultyS3) -> UnfinishedUpload:
    folder = a_folder(world.folder / "cut-off", small=0)
    proxy.fault = refuse_after(1, Refusal(status=403, code="AccessDenied"))
    with pytest.raises(ArtifactStoreUnavailable):
        world.store.put(folder)
    proxy.fault = lambda _: None
    (unfinished,) = world.store.unfinished()
    return unfinished


def test_the_parts_of_an_upload_that_was_cut_off_are_deleted_when_they_are_old(
    world: World, proxy: FaultyS3
) -> None:
    upload = cut_off(world, proxy)
    would = world.collect(delete=False)
    assert len(would) == 1
    assert upload.key in would[0]
    assert world.store.unfinished() == (upload,)

    world.collect(delete=True)

    assert world.store.unfinished() == ()
    world.store.give_up(upload)


def test_young_parts_stay_for_whoever_goes_on_with_them(world: World, proxy: FaultyS3) -> None:
    cut_off(world, proxy)
    registry: Any = SimpleNamespace(models=lambda: ())
    states: Any = SimpleNamespace(states=list)
    said = list(collect_garbage(registry, world.store, states, Retention(), delete=True))
    assert said == ["Everything that is there is needed."]
    assert len(world.store.unfinished()) == 1


def test_an_old_artifact_that_is_put_again_while_it_is_collected_stays(world: World) -> None:
    """The pipeline has not registered it yet: only that it was written to just now tells of it."""
    stored = world.put("reused")
    listed_at = datetime.now(UTC) + timedelta(seconds=1)
    while not any(time >= listed_at for time in world.store.written().values()):
        assert world.store.put(world.folder / "reused").was_there

    assert not world.store.delete(stored.source, unless_written_since=listed_at)
    world.store.check(stored.source, stored.manifest.digest)
    assert world.store.delete(
        stored.source, unless_written_since=datetime.now(UTC) + timedelta(minutes=1)
    )
