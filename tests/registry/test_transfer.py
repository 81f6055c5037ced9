"""Uploads to a real S3 through a proxy that fails them: each byte is sent once, and what is finished is what was meant."""

import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from registry import transfer
from registry.artifact_store import ArtifactStore, connect_store
from registry.digests import MANIFEST_NAME, describe_folder
from registry.errors import ArtifactStoreUnavailable, IntegrityError, NotFound
from registry.release import FileEntry, split_source
from registry.sending import part_bytes
from registry.settings import RegistrySettings
from tests.registry.faulty_s3 import Asked, FaultyS3, Refusal, faulty_s3
from tests.registry.test_artifact_store import Bucket, contents, digest_of

pytestmark = pytest.mark.real

MIB = 1 << 20
PART = part_bytes(0)
BIG = 3 * PART + 12345
SMALL = 4


@pytest.fixture
def proxy(servers: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    monkeypatch.setattr(transfer, "_PAUSES_S", (0.01, 0.01))
    with faulty_s3(servers.environment["AWS_ENDPOINT_URL_S3"]) as running:
        yield running


@pytest.fixture
def store(servers: Any, proxy: FaultyS3) -> ArtifactStore:
    keys = servers.environment["AWS_ACCESS_KEY_ID"], servers.environment["AWS_SECRET_ACCESS_KEY"]
    return connect_store(RegistrySettings(s3_endpoint_url=proxy.url), keys=keys)


def a_folder(folder: Path, *, big: int = BIG, small: int = SMALL) -> Path:
    """One file that goes in parts, and small ones."""
    (folder / "nested").mkdir(parents=True)
    if big:
        (folder / "model.safetensors").write_bytes(os.urandom(big))
    for number in range(small):
        (folder / "nested" / f"{number}.bin").write_bytes(os.urandom(1000 + number))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return a_folder(tmp_path / "model")


def size_of(folder: Path) -> int:
    return describe_folder(folder).size_bytes


def assert_whole(store: ArtifactStore, folder: Path, tmp_path: Path) -> None:
    """What lies there is what was meant, read byte by byte."""
    manifest = describe_folder(folder)
    source = f"s3://shipway/models/{manifest.digest.removeprefix('sha256:')}"
    fetched = store.fetch(source, manifest.digest, into=tmp_path / "cache")
    assert contents(fetched) == contents(folder)


def assert_unfinished(store: ArtifactStore, folder: Path) -> None:
    """No version could be made of it, for there is no manifest."""
    digest = describe_folder(folder).digest
    with pytest.raises(NotFound):
        store.check(f"s3://shipway/models/{digest.removeprefix('sha256:')}", digest)


def refuse_after(part_count: int, refusal: Refusal) -> Any:
    """Lets so many parts through and refuses everything that comes after the last of them."""
    left, lock = itertools.count(), threading.Lock()

    def fault(asked: Asked) -> Refusal | None:
        with lock:
            is_late = (next(left) if asked.is_data else -1) >= part_count
            fault.is_over = fault.is_over or is_late  # type: ignore[attr-defined]
            return refusal if fault.is_over else None  # type: ignore[attr-defined]

    fault.is_over = False  # type: ignore[attr-defined]
    return fault


def test_only_the_file_that_changed_between_two_artifacts_is_sent(
    store: ArtifactStore, proxy: FaultyS3, tmp_path: Path
) -> None:
    folder = a_folder(tmp_path / "model", small=60)
    store.put(folder)
    (folder / "nested" / "7.bin").write_bytes(b"another")
    proxy.asked.clear()

    stored = store.put(folder)

    assert not stored.was_there
    assert proxy.sent() == len(b"another")
    assert proxy.copies() == 60
    assert_whole(store, folder, tmp_path)


def test_a_file_with_another_name_in_another_artifact_is_not_sent_again(
    store: ArtifactStore, proxy: FaultyS3, folder: Path, tmp_path: Path
) -> None:
    store.put(folder)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    proxy.asked.clear()
    store.put(folder)
    assert proxy.sent() == 0
    assert_whole(store, folder, tmp_path)


def test_a_copy_goes_with_its_artifact_and_not_with_the_one_that_it_was_made_of(
    store: ArtifactStore, folder: Path, tmp_path: Path
) -> None:
    first = store.put(folder)
    (folder / "config.json").write_text("{}")
    store.put(folder)
    store.delete(first.source)
    assert_whole(store, folder, tmp_path)


def test_what_somebody_overwrote_is_no_source_of_copies_and_is_mended_by_the_next_put(
    store: ArtifactStore, proxy: FaultyS3, folder: Path, tmp_path: Path
) -> None:
    """With as many bytes as before: its size tells nothing."""
    before = store.put(folder)
    size = (folder / "nested" / "1.bin").stat().st_size
    Bucket(store, before.source).write("nested/1.bin", b"x" * size)
    (folder / "config.json").write_text("{}")
    proxy.asked.clear()

    store.put(folder)

    assert proxy.sent() == size
    assert_whole(store, folder, tmp_path)
    (folder / "config.json").unlink()
    assert not store.put(folder).was_there
    assert_whole(store, folder, tmp_path)


def test_a_source_that_is_deleted_in_the_middle_is_made_up_for_by_sending(
    store: ArtifactStore, proxy: FaultyS3, folder: Path, tmp_path: Path
) -> None:
    first = store.put(folder)
    (folder / "config.json").write_text("{}")
    lock, is_gone = threading.Lock(), []

    def collect(asked: Asked) -> None:
        if asked.is_copy:
            with lock:
                if not is_gone:
                    is_gone.append(True)
                    store.delete(first.source)

    proxy.fault = collect
    store.put(folder)
    assert is_gone
    assert_whole(store, folder, tmp_path)


def test_a_manifest_that_lies_does_no_harm_to_another_upload(
    store: ArtifactStore, tmp_path: Path
) -> None:
    """It names bytes that it does not have, keys that cannot be, and what is no manifest."""
    folder = a_folder(tmp_path / "model", big=0)
    (file, *_) = describe_folder(folder).files
    for number, text in enumerate(
        ("{", f'{{"digest": "{file.digest}", "files": [{{"path": "../../x"}}]}}', "\udcff")
    ):
        liar = Bucket(store, f"s3://shipway/models/{number:064x}")
        liar.write(MANIFEST_NAME, text.encode(errors="surrogateescape"))
    store.put(folder)
    assert_whole(store, folder, tmp_path)


def test_every_third_answer_503_does_not_stop_an_upload(
    store: ArtifactStore, proxy: FaultyS3, tmp_path: Path
) -> None:
    folder = a_folder(tmp_path / "model", small=12)
    count = itertools.count(1)

    def busy(_: Asked) -> Refusal | None:
        return Refusal(status=503, code="SlowDown") if next(count) % 3 == 0 else None

    proxy.fault = busy
    store.put(folder)
    assert proxy.sent() == size_of(folder)
    assert_whole(store, folder, tmp_path)


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        (Refusal(status=400, code="ExpiredToken"), "credentials have expired.*not sent again"),
        (Refusal(status=403, code="AccessDenied"), "AccessDenied.*bucket's policy"),
        (Refusal(status=503, code="SlowDown"), "503 SlowDown.*not sent again"),
    ],
)
def test_an_upload_that_was_refused_half_way_goes_on_after_the_parts_that_arrived(
    store: ArtifactStore,
    proxy: FaultyS3,
    folder: Path,
    tmp_path: Path,
    refusal: Refusal,
    said: str,
) -> None:
    proxy.fault = refuse_after(2, refusal)
    with pytest.raises(ArtifactStoreUnavailable, match=said):
        store.put(folder)
    proxy.fault = lambda _: None
    assert_unfinished(store, folder)
    first = proxy.sent()
    assert 0 < first < size_of(folder)

    store.put(folder)

    assert proxy.sent() == size_of(folder), "nothing was sent twice"
    assert_whole(store, folder, tmp_path)


_PUT = """
import sys
from pathlib import Path
from registry.artifact_store import connect_store
from registry.settings import RegistrySettings
connect_store(RegistrySettings()).put(Path(sys.argv[1]))
"""


@pytest.mark.promise("no part is sent twice", about="kills")
def test_an_upload_whose_process_was_killed_goes_on_after_the_parts_that_arrived(
    servers: Any, store: ArtifactStore, proxy: FaultyS3, folder: Path, tmp_path: Path
) -> None:
    hold, arrived = threading.Event(), threading.Semaphore(0)
    lock, parts = threading.Lock(), itertools.count()

    def stall(asked: Asked) -> Refusal | None:
        if "partNumber" not in asked.query:
            return None
        with lock:
            number = next(parts)
        if number < 2:
            return None
        arrived.release()
        hold.wait(60)
        return Refusal(status=400, code="TooLate")

    proxy.fault = stall
    environment = {**os.environ, **servers.environment, "AWS_ENDPOINT_URL_S3": proxy.url}
    process = subprocess.Popen([sys.executable, "-c", _PUT, str(folder)], env=environment)
    try:
        assert arrived.acquire(timeout=60)
        while sum("partNumber" in one.query for one in proxy.asked) < 2:
            assert process.poll() is None
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        hold.set()
    assert_unfinished(store, folder)

    proxy.fault = lambda _: None
    store.put(folder)

    assert proxy.sent() == size_of(folder), "nothing was sent twice"
    assert_whole(store, folder, tmp_path)


def test_bytes_that_are_damaged_on_the_way_are_refused_by_s3_and_sent_again(
    store: ArtifactStore, proxy: FaultyS3, folder: Path, tmp_path: Path
) -> None:
    lock, damaged = threading.Lock(), set[str]()

    def damage(asked: Asked) -> bytes | None:
        with lock:
            if not asked.is_data or asked.path in damaged:
                return None
            damaged.add(asked.path)
        return b"\0" + asked.body[1:] if asked.body[0] else b"\1" + asked.body[1:]

    proxy.fault = damage
    store.put(folder)
    assert len(damaged) == 1 + SMALL
    assert proxy.sent() == size_of(folder), "S3 took no damaged piece"
    assert_whole(store, folder, tmp_path)


def test_bytes_that_are_damaged_each_time_are_never_stored(
    store: ArtifactStore, proxy: FaultyS3, folder: Path
) -> None:
    proxy.fault = lambda asked: b"\0" * len(asked.body) if asked.is_data else None
    with pytest.raises(ArtifactStoreUnavailable, match="BadDigest"):
        store.put(folder)
    assert proxy.sent() == 0
    assert_unfinished(store, folder)


class Unsure:
    """A client whose S3 takes everything and compares nothing."""

    def __init__(self, client: Any, etag: str | None) -> None:
        self._client, self._etag = client, etag

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def put_object(self, **named: Any) -> Any:
        answer = self._client.put_object(**named)
        del answer["ChecksumSHA256"]
        return answer if self._etag is None else {**answer, "ETag": self._etag}


@pytest.mark.parametrize("etag", [None, '"other"'])
def test_a_server_that_names_no_checksum_is_believed_by_its_entity_tag_alone(
    store: ArtifactStore, tmp_path: Path, etag: str | None
) -> None:
    folder = a_folder(tmp_path / "model", big=0)
    unsure = ArtifactStore(Unsure(store._client, etag), bucket="shipway")
    if etag is None:
        unsure.put(folder)
        assert_whole(store, folder, tmp_path)
    else:
        with pytest.raises(IntegrityError, match="does not say that what arrived"):
            unsure.put(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "nested/1.bin"])
@pytest.mark.parametrize("change", ["rewritten", "cut", "gone"])
def test_a_file_that_changed_after_it_was_described_is_never_stored_under_the_old_digest(
    store: ArtifactStore, folder: Path, name: str, change: str
) -> None:
    manifest = describe_folder(folder)
    path = folder / name
    before = path.read_bytes()
    if change == "gone":
        path.unlink()
    else:
        path.write_bytes(before[:-1] if change == "cut" else before[:-1] + b"\xff\xfe")
    if change == "rewritten":
        path.write_bytes(bytes([before[0] ^ 1]) + before[1:])

    with pytest.raises(IntegrityError, match=f"{name}.*described"):
        store.put(folder, manifest=manifest)

    path.write_bytes(before)
    assert_unfinished(store, folder)
    source = f"s3://shipway/models/{manifest.digest.removeprefix('sha256:')}"
    keys = Bucket(store, source).keys()
    assert name not in keys


def test_a_file_that_changed_is_told_of_though_somebody_else_gave_up_its_upload(
    store: ArtifactStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    abort = store._client.abort_multipart_upload

    def second(**named: Any) -> None:
        abort(**named)
        raise ClientError({"Error": {"Code": "NoSuchUpload"}}, "AbortMultipartUpload")

    monkeypatch.setattr(store._client, "abort_multipart_upload", second)
    manifest = describe_folder(folder)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")

    with pytest.raises(IntegrityError, match=r"model\.safetensors changed since it was described"):
        store.put(folder, manifest=manifest)


def test_two_at_once_that_send_the_same_bytes_both_come_to_the_end(
    store: ArtifactStore, folder: Path, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(store.put, (folder, folder))
    assert first.source == second.source
    assert_whole(store, folder, tmp_path)


def test_an_upload_that_another_process_finished_first_is_finished(
    store: ArtifactStore, proxy: FaultyS3, folder: Path, tmp_path: Path
) -> None:
    """Both go on with the same upload that was cut off; the slower one finds it gone."""
    proxy.fault = refuse_after(1, Refusal(status=403, code="AccessDenied"))
    with pytest.raises(ArtifactStoreUnavailable):
        store.put(folder)
    lock, first = threading.Lock(), []

    def overtake(asked: Asked) -> None:
        if "partNumber" in asked.query:
            with lock:
                if proxy.fault is overtake:
                    proxy.fault = lambda _: None
                    first.append(store.put(folder))

    proxy.fault = overtake
    assert store.put(folder).source == first[0].source
    assert_whole(store, folder, tmp_path)


def test_a_bucket_that_is_not_there_is_named_as_the_reason(
    servers: Any, store: ArtifactStore, tmp_path: Path
) -> None:
    folder = a_folder(tmp_path / "model", big=0)
    with pytest.raises(NotFound, match="no such bucket"):
        ArtifactStore(store._client, bucket="absent-one").put(folder)


@pytest.mark.parametrize("size", [0, 1, PART, PART + 1, 2 * PART])
def test_files_of_every_size_arrive(
    store: ArtifactStore, proxy: FaultyS3, tmp_path: Path, size: int
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "a file with a name + ü").write_bytes(os.urandom(size))
    store.put(folder)
    assert proxy.sent() in {size, 0}
    assert_whole(store, folder, tmp_path)


def test_no_file_has_more_parts_than_s3_takes() -> None:
    for size in (0, PART, 10_000 * PART, 10_000 * PART + 1, 5 << 40):
        assert -(-size // part_bytes(size)) <= 10_000


def test_a_manifest_that_is_given_is_not_compared_by_reading_what_is_there(
    store: ArtifactStore, proxy: FaultyS3, folder: Path
) -> None:
    store.put(folder)
    manifest = describe_folder(folder)
    (folder / "model.safetensors").unlink()
    proxy.asked.clear()
    assert store.put(folder, manifest=manifest).was_there
    assert proxy.sent() == 0


def test_an_artifact_that_is_there_counts_as_written_now(
    store: ArtifactStore, tmp_path: Path
) -> None:
    """So that `gc` spares what a pipeline is about to register."""
    folder = a_folder(tmp_path / "model", big=0)
    source = store.put(folder).source
    bucket, prefix = split_source(source)
    key = f"{prefix}/{MANIFEST_NAME}"
    before = store._client.head_object(Bucket=bucket, Key=key)["LastModified"]
    while store._client.head_object(Bucket=bucket, Key=key)["LastModified"] == before:
        assert store.put(folder).was_there


def test_a_digest_of_nothing_known_has_no_place_to_be_copied_from(store: ArtifactStore) -> None:
    unknown = FileEntry(path="x", digest=digest_of("unknown"), size_bytes=7)
    assert store._known.elsewhere([unknown], below="models") == {}
