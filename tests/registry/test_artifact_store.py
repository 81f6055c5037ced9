"""Artifacts in a real S3: whole, exactly as promised, or not at all."""

import hashlib
import itertools
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from registry.artifact_store import ArtifactStore, StoredArtifact, connect_store
from registry.digests import MANIFEST_NAME, describe_folder
from registry.errors import ArtifactStoreUnavailable, IntegrityError, NotFound
from registry.release import ArtifactManifest, Digest, FileEntry, split_source
from registry.settings import RegistrySettings

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def store(servers: Any) -> ArtifactStore:
    return servers.store


class Bucket:
    """The bucket behind the adapter's back: what somebody else, or a crash, may do to it."""

    def __init__(self, store: ArtifactStore, source: str) -> None:
        self._client = store._client
        self._bucket, self._prefix = split_source(source)

    def keys(self) -> set[str]:
        listed = self._client.list_objects_v2(Bucket=self._bucket, Prefix=f"{self._prefix}/")
        return {item["Key"].removeprefix(f"{self._prefix}/") for item in listed.get("Contents", ())}

    def write(self, name: str, content: bytes) -> None:
        self._client.put_object(Bucket=self._bucket, Key=f"{self._prefix}/{name}", Body=content)

    def remove(self, name: str) -> None:
        self._client.delete_object(Bucket=self._bucket, Key=f"{self._prefix}/{name}")


class Artifact:
    """A small artifact of its own, put into the store."""

    def __init__(self, store: ArtifactStore, folder: Path) -> None:
        self.folder = folder / "artifact"
        (self.folder / "nested").mkdir(parents=True)
        (self.folder / "config.json").write_text("{}")
        (self.folder / "nested" / "weights.bin").write_bytes(os.urandom(100_000))
        self.stored: StoredArtifact = store.put(self.folder)
        self.source = self.stored.source
        self.digest = self.stored.manifest.digest
        self.bucket = Bucket(store, self.source)


@pytest.fixture
def artifact(store: ArtifactStore, tmp_path: Path) -> Artifact:
    return Artifact(store, tmp_path)


def digest_of(text: str) -> Digest:
    return Digest("sha256:" + hashlib.sha256(text.encode()).hexdigest())


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_what_was_put_is_fetched_byte_for_byte(
    store: ArtifactStore, artifact: Artifact, tmp_path: Path
) -> None:
    fetched = store.fetch(artifact.source, artifact.digest, into=tmp_path / "cache")
    assert contents(fetched) == contents(artifact.folder)
    assert not artifact.stored.was_there


def test_the_address_is_the_digest_of_the_bytes(artifact: Artifact) -> None:
    assert artifact.source.endswith(artifact.digest.removeprefix("sha256:"))
    assert describe_folder(artifact.folder).digest == artifact.digest


def test_a_second_put_of_the_same_bytes_sends_none(
    store: ArtifactStore, artifact: Artifact
) -> None:
    sent: list[int] = []
    again = store.put(artifact.folder, on_bytes=sent.append)
    assert again.was_there
    assert sent == []


def test_the_progress_adds_up_to_the_size(store: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(os.urandom(300_000))
    sent: list[int] = []
    stored = store.put(tmp_path, on_bytes=sent.append)
    assert sum(sent) == stored.manifest.size_bytes == 300_000


def test_a_changed_byte_is_caught_and_its_file_named(
    store: ArtifactStore, artifact: Artifact, tmp_path: Path
) -> None:
    artifact.bucket.write("nested/weights.bin", b"\0" * 100_000)
    with pytest.raises(IntegrityError, match=r"nested/weights\.bin.*not served"):
        store.fetch(artifact.source, artifact.digest, into=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_missing_file_is_named(store: ArtifactStore, artifact: Artifact, tmp_path: Path) -> None:
    artifact.bucket.remove("nested/weights.bin")
    with pytest.raises(NotFound, match=r"nested/weights\.bin"):
        store.fetch(artifact.source, artifact.digest, into=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_file_that_was_added_beside_is_never_fetched(
    store: ArtifactStore, artifact: Artifact, tmp_path: Path
) -> None:
    artifact.bucket.write("nested/backdoor.py", b"import os")
    fetched = store.fetch(artifact.source, artifact.digest, into=tmp_path / "cache")
    assert contents(fetched) == contents(artifact.folder)


def test_an_artifact_that_lost_a_file_is_made_whole_by_the_next_put(
    store: ArtifactStore, artifact: Artifact, tmp_path: Path
) -> None:
    artifact.bucket.remove("nested/weights.bin")
    assert not store.put(artifact.folder).was_there
    assert store.fetch(artifact.source, artifact.digest, into=tmp_path / "cache").is_dir()


def test_an_upload_that_broke_off_is_no_artifact_and_can_be_repeated(
    store: ArtifactStore, artifact: Artifact, tmp_path: Path
) -> None:
    artifact.bucket.remove(MANIFEST_NAME)
    with pytest.raises(NotFound):
        store.fetch(artifact.source, artifact.digest, into=tmp_path / "cache")
    assert not store.put(artifact.folder).was_there
    assert store.fetch(artifact.source, artifact.digest, into=tmp_path / "cache").is_dir()


def test_a_manifest_that_cannot_be_read_is_refused_and_replaced_by_the_next_put(
    store: ArtifactStore, artifact: Artifact, tmp_path: Path
) -> None:
    artifact.bucket.write(MANIFEST_NAME, b"{}")
    with pytest.raises(IntegrityError, match="manifest cannot be read"):
        store.fetch(artifact.source, artifact.digest, into=tmp_path / "cache")
    store.put(artifact.folder)
    assert store.fetch(artifact.source, artifact.digest, into=tmp_path / "cache").is_dir()


@pytest.mark.parametrize("path", ["../outside.txt", "/tmp/outside.txt", "nested/../../outside"])
def test_a_manifest_that_leads_out_of_its_folder_is_refused(
    store: ArtifactStore, artifact: Artifact, tmp_path: Path, path: str
) -> None:
    document = json.loads(artifact.stored.manifest.to_json())
    document["files"][0]["path"] = path
    files = sorted(document["files"], key=lambda file: file["path"])
    lines = "".join(f"{f['digest']} {f['size_bytes']} {f['path']}\n" for f in files)
    digest = digest_of(lines)
    artifact.bucket.write(
        MANIFEST_NAME, json.dumps({"digest": digest, "files": document["files"]}).encode()
    )
    with pytest.raises(IntegrityError, match="leads out of the folder"):
        store.fetch(artifact.source, digest, into=tmp_path / "cache")


def test_a_manifest_of_less_than_no_bytes_is_refused() -> None:
    file = FileEntry(path="a", digest=Digest("sha256:" + "0a" * 32), size_bytes=-1)
    with pytest.raises(IntegrityError, match="less than no bytes"):
        ArtifactManifest.from_json(ArtifactManifest.of([file]).to_json())


def test_another_artifact_than_the_promised_one_is_refused(
    store: ArtifactStore, artifact: Artifact, tmp_path: Path
) -> None:
    promised = digest_of("other bytes")
    with pytest.raises(IntegrityError, match=promised):
        store.fetch(artifact.source, promised, into=tmp_path / "cache")


def test_several_processes_may_fetch_the_same_artifact_at_once(
    store: ArtifactStore, artifact: Artifact, tmp_path: Path
) -> None:
    def fetch(_: int) -> Path:
        return store.fetch(artifact.source, artifact.digest, into=tmp_path / "cache")

    with ThreadPoolExecutor(6) as pool:
        folders = set(pool.map(fetch, range(6)))
    assert [contents(folder) for folder in folders] == [contents(artifact.folder)]
    assert list((tmp_path / "cache").iterdir()) == [*folders]


@pytest.mark.parametrize("tampering", ["changed", "added", "removed", "linked"])
def test_a_tampered_copy_is_fetched_anew(
    store: ArtifactStore, artifact: Artifact, tmp_path: Path, tampering: str
) -> None:
    copy = store.fetch(artifact.source, artifact.digest, into=tmp_path / "cache")
    if tampering == "changed":
        (copy / "config.json").write_text("[]")
    elif tampering == "added":
        (copy / "extra.txt").write_text("x")
    elif tampering == "removed":
        (copy / "config.json").unlink()
    else:
        (copy / "link").symlink_to(tmp_path)
    again = store.fetch(artifact.source, artifact.digest, into=tmp_path / "cache")
    assert contents(again) == contents(artifact.folder)
    assert list((tmp_path / "cache").iterdir()) == [again]


def test_a_whole_copy_is_used_again_without_s3(
    store: ArtifactStore, artifact: Artifact, tmp_path: Path
) -> None:
    copy = store.fetch(artifact.source, artifact.digest, into=tmp_path / "cache")
    artifact.bucket.remove(MANIFEST_NAME)
    assert store.fetch(artifact.source, artifact.digest, into=tmp_path / "cache") == copy


def test_a_link_in_the_artifact_is_refused(store: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "weights.bin").symlink_to("/etc/hostname")
    with pytest.raises(IntegrityError, match=r"weights\.bin.*no plain file"):
        store.put(tmp_path)


def test_a_deletion_takes_the_manifest_first(
    store: ArtifactStore, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    deleted: list[str] = []
    delete = store._client.delete_object

    def note(**request: str) -> Any:
        deleted.append(request["Key"].rpartition("/")[2])
        return delete(**request)

    monkeypatch.setattr(store._client, "delete_object", note)
    store.delete(artifact.source)
    assert deleted[0] == MANIFEST_NAME
    assert artifact.bucket.keys() == set()
    with pytest.raises(NotFound):
        store.manifest(artifact.source)


def test_every_artifact_is_listed_and_what_is_no_artifact_is_not(
    store: ArtifactStore, artifact: Artifact
) -> None:
    beside = Bucket(store, artifact.source.rpartition("/")[0])
    beside.write("readme.txt", b"not an artifact")
    beside.write("", b"")
    listed = store.written()
    assert artifact.source in listed
    assert all(len(source.rpartition("/")[2]) == 64 for source in listed)
    assert all(written.tzinfo is not None for written in listed.values())


@pytest.mark.parametrize(
    "source", ["s3://shipway/models", "s3://shipway/models/", "s3://other/models/" + "0" * 64]
)
def test_what_is_no_artifact_of_this_bucket_is_never_deleted(
    store: ArtifactStore, artifact: Artifact, source: str
) -> None:
    with pytest.raises(NotFound, match="not deleted"):
        store.delete(source)
    assert store.manifest(artifact.source) == artifact.stored.manifest


@pytest.mark.parametrize("source", ["/tmp/x", "s3://", "s3://bucket", "s3://bucket/", "http://a/b"])
def test_an_address_that_names_no_folder_is_refused(source: str) -> None:
    with pytest.raises(NotFound, match="s3://bucket/folder"):
        split_source(source)


@pytest.mark.promise("told within 30 s")
def test_a_server_that_is_away_is_reported_in_bounded_time(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    settings = RegistrySettings(s3_endpoint_url="http://127.0.0.1:1")
    store = connect_store(settings, keys=("key", "secret"))
    began = monotonic()
    with pytest.raises(ArtifactStoreUnavailable, match="Is the server up"):
        store.put(tmp_path)
    assert monotonic() - began < 30


@pytest.mark.parametrize("keys", [("nobody", "secret"), ("known", "wrong")])
def test_wrong_keys_are_refused_and_said_to_be_the_reason(
    servers: Any, tmp_path: Path, keys: tuple[str, str]
) -> None:
    (tmp_path / "config.json").write_text("{}")
    known = servers.environment["AWS_ACCESS_KEY_ID"]
    settings = RegistrySettings(s3_endpoint_url=servers.environment["AWS_ENDPOINT_URL_S3"])
    store = connect_store(settings, keys=(known if keys[0] == "known" else keys[0], keys[1]))
    for attempt in (lambda: store.put(tmp_path), store.written, store.ensure_bucket):
        with pytest.raises(ArtifactStoreUnavailable, match="credentials"):
            attempt()


def compose(store: ArtifactStore, artifact: Artifact, text: str = "hello") -> StoredArtifact:
    return store.compose(
        artifact.source, artifact.digest, under="chat/7/weights", beside={"chat/say": text.encode()}
    )


def test_what_is_composed_holds_the_artifact_in_another_place_and_the_files_beside_it(
    store: ArtifactStore, artifact: Artifact, tmp_path: Path
) -> None:
    composed = compose(store, artifact)

    fetched = store.fetch(composed.source, composed.manifest.digest, into=tmp_path / "cache")
    given = {f"chat/7/weights/{name}": text for name, text in contents(artifact.folder).items()}
    assert contents(fetched) == {**given, "chat/say": b"hello"}


def test_the_same_is_never_composed_twice_and_another_one_lies_elsewhere(
    store: ArtifactStore, artifact: Artifact
) -> None:
    first, again, other = (compose(store, artifact, text) for text in ("hello", "hello", "bye"))

    assert (first.was_there, again.was_there, other.was_there) == (False, True, False)
    assert first.source == again.source != other.source


def test_a_copy_that_is_not_whole_is_made_anew(store: ArtifactStore, artifact: Artifact) -> None:
    bucket = Bucket(store, compose(store, artifact).source)
    bucket.remove("chat/7/weights/nested/weights.bin")

    assert not compose(store, artifact).was_there

    assert bucket.keys() >= {"chat/7/weights/nested/weights.bin"}


def test_a_copy_that_was_cut_off_goes_on_where_it_was(
    store: ArtifactStore, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is killed in mid-copy again and again comes to an end all the same."""
    copy = store._client.copy
    copied: list[str] = []
    calls = itertools.count()

    def cut_off(given: Any, bucket: str, key: str, **named: Any) -> None:
        if next(calls) == 1:
            raise RuntimeError("killed")
        copy(given, bucket, key, **named)
        copied.append(key)

    monkeypatch.setattr(store._client, "copy", cut_off)
    with pytest.raises(RuntimeError, match="killed"):
        compose(store, artifact, "cut off")
    (first,) = copied
    copied.clear()

    composed = compose(store, artifact, "cut off")

    assert len(copied) == 1
    assert first not in copied
    assert store.fetch(
        composed.source, composed.manifest.digest, into=artifact.folder.parent / "cache"
    )


def test_nothing_is_composed_of_other_bytes_than_were_promised(
    store: ArtifactStore, artifact: Artifact
) -> None:
    with pytest.raises(IntegrityError, match=f"{digest_of('other')} was evaluated"):
        store.compose(artifact.source, digest_of("other"), under="weights", beside={})


def test_what_was_composed_of_an_artifact_goes_with_it(
    store: ArtifactStore, artifact: Artifact, tmp_path: Path
) -> None:
    composed = [compose(store, artifact, text) for text in ("hello", "bye")]
    (tmp_path / "other").mkdir()
    kept = compose(store, Artifact(store, tmp_path / "other"))

    store.delete(artifact.source)

    assert [Bucket(store, one.source).keys() for one in composed] == [set(), set()]
    assert Bucket(store, kept.source).keys()


@pytest.mark.parametrize(
    "text",
    [
        b"\xff\xfe\xfd",
        b"[" * 100_000,
        b'{"files": [{"path": "a", "digest": "%s", "size_bytes": 1e999}]}',
        b'{"digest": "%s", "files": [{"path": "\\ud800", "digest": "%s", "size_bytes": 1}]}',
    ],
)
def test_a_damaged_manifest_is_a_fault_of_the_artifact_whatever_is_damaged(
    store: ArtifactStore, artifact: Artifact, text: bytes
) -> None:
    artifact.bucket.write(MANIFEST_NAME, text.replace(b"%s", artifact.digest.encode()))
    with pytest.raises(IntegrityError, match="manifest cannot be read"):
        store.check(artifact.source, artifact.digest)
