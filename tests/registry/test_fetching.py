"""Folders of a real S3 through a proxy that fails them: each byte comes once, and what is there is what was meant.

Both ways of fetching: an artifact of ours by its manifest, and a folder of somebody else's by its listing.
"""

import itertools
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from registry import parts
from registry.artifact_store import ArtifactStore, connect_store
from registry.errors import ArtifactStoreUnavailable, IntegrityError, NotFound, StageFailed
from registry.parts import fetch_files
from registry.s3_files import list_files
from registry.settings import RegistrySettings
from tests.registry.faulty_s3 import Asked, Cut, Damage, FaultyS3, Refusal, faulty_s3
from tests.registry.test_artifact_store import Bucket, contents

pytestmark = pytest.mark.real

PART = 64 << 10
BIG = 7 * PART + 321


@pytest.fixture
def proxy(servers: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    monkeypatch.setattr(parts, "PART_BYTES", PART)
    monkeypatch.setattr(parts, "_PAUSE_S", 0.01)
    with faulty_s3(servers.environment["AWS_ENDPOINT_URL_S3"]) as running:
        yield running


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A folder in S3, and how it is fetched through the proxy."""

    content: dict[str, bytes]
    source: str
    bucket: Bucket
    fetch: Callable[[], Path]
    """Into the same folder each time."""
    into: Path

    @property
    def size(self) -> int:
        return sum(map(len, self.content.values()))


def a_remote(
    servers: Any, proxy: FaultyS3, tmp_path: Path, *, is_ours: bool
) -> tuple[Remote, ArtifactStore]:
    keys = servers.environment["AWS_ACCESS_KEY_ID"], servers.environment["AWS_SECRET_ACCESS_KEY"]
    store = connect_store(RegistrySettings(s3_endpoint_url=proxy.url), keys=keys)
    folder, into = tmp_path / "model", tmp_path / "into"
    (folder / "nested").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(os.urandom(BIG))
    for number in range(6):
        (folder / "nested" / f"{number}.bin").write_bytes(os.urandom(1000 + number))
    if is_ours:
        stored = servers.store.put(folder)
        source, digest = stored.source, stored.manifest.digest

        def fetch() -> Path:
            return store.fetch(source, digest, into=into)

    else:
        source = f"s3://shipway/theirs/{tmp_path.name}"
        bucket = Bucket(servers.store, source)
        for name, content in contents(folder).items():
            bucket.write(name, content)

        def fetch() -> Path:
            return fetch_files(list_files(store._client, source), into, on_bytes=lambda _: None)

    remote = Remote(
        content=contents(folder),
        source=source,
        bucket=Bucket(servers.store, source),
        fetch=fetch,
        into=into,
    )
    return remote, store


@pytest.fixture(params=["ours", "theirs"])
def remote(request: Any, servers: Any, proxy: FaultyS3, tmp_path: Path) -> Remote:
    return a_remote(servers, proxy, tmp_path, is_ours=request.param == "ours")[0]


@pytest.fixture
def ours(servers: Any, proxy: FaultyS3, tmp_path: Path) -> Remote:
    return a_remote(servers, proxy, tmp_path, is_ours=True)[0]


def on_each(third: Callable[[Asked], Any]) -> Callable[[Asked], Any]:
    """Does so to every third request that asks for bytes."""
    count, lock = itertools.count(1), threading.Lock()

    def fault(asked: Asked) -> Any:
        if not asked.is_fetch:
            return None
        with lock:
            return third(asked) if next(count) % 3 == 0 else None

    return fault


def after(pieces: int, refusal: Refusal) -> Callable[[Asked], Refusal | None]:
    """Hands out so many pieces, and refuses whatever is asked for later."""
    count, lock = itertools.count(), threading.Lock()

    def fault(asked: Asked) -> Refusal | None:
        with lock:
            return refusal if asked.is_fetch and next(count) >= pieces else None

    return fault


def test_every_third_answer_503_does_not_stop_a_fetch(remote: Remote, proxy: FaultyS3) -> None:
    count = itertools.count(1)
    proxy.fault = lambda _: Refusal(status=503, code="SlowDown") if next(count) % 3 == 0 else None
    assert contents(remote.fetch()) == remote.content
    assert sum(proxy.given) == remote.size


def test_a_connection_that_is_cut_in_every_third_piece_goes_on_where_it_was(
    remote: Remote, proxy: FaultyS3
) -> None:
    proxy.fault = on_each(lambda _: Cut(after_bytes=500))
    assert contents(remote.fetch()) == remote.content
    assert 500 in proxy.given
    assert sum(proxy.given) == remote.size, "no byte came twice"


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        (Refusal(status=400, code="ExpiredToken"), "credentials have expired.*not sent again"),
        (Refusal(status=403, code="AccessDenied"), "AccessDenied.*bucket's policy"),
        (Refusal(status=503, code="SlowDown"), "503 SlowDown.*not sent again"),
    ],
)
def test_a_fetch_that_was_refused_half_way_goes_on_after_the_parts_that_arrived(
    remote: Remote, proxy: FaultyS3, refusal: Refusal, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "_ATTEMPTS", 1)
    proxy.fault = after(5, refusal)
    with pytest.raises(ArtifactStoreUnavailable, match=said):
        remote.fetch()
    assert 0 < sum(proxy.given) < remote.size
    assert not [p for p in remote.into.glob("*") if len(p.name) == 64], "nobody could load it"

    proxy.fault = lambda _: None
    assert contents(remote.fetch()) == remote.content
    assert sum(proxy.given) == remote.size, "no byte came twice"


def test_a_bucket_that_refuses_from_the_start_is_told_and_leaves_nothing(
    remote: Remote, proxy: FaultyS3
) -> None:
    proxy.fault = lambda _: Refusal(status=403, code="AccessDenied")
    with pytest.raises(ArtifactStoreUnavailable, match=r"AccessDenied.*bucket's policy"):
        remote.fetch()
    assert not remote.into.exists()


def test_bytes_that_are_damaged_on_the_way_are_never_taken_for_the_artifact(
    ours: Remote, proxy: FaultyS3
) -> None:
    proxy.fault = lambda asked: Damage() if asked.is_fetch else None
    with pytest.raises(IntegrityError, match=f"not those that.*{ours.source} is not served"):
        ours.fetch()
    assert list(ours.into.iterdir()) == []
    proxy.fault = lambda _: None
    assert contents(ours.fetch()) == ours.content


@pytest.mark.parametrize("change", ["rewritten", "shorter"])
def test_a_file_that_somebody_writes_meanwhile_is_never_made_of_two(
    remote: Remote, proxy: FaultyS3, change: str
) -> None:
    """Of the new one no piece follows on pieces of the old one."""
    other = os.urandom(BIG if change == "rewritten" else 10)
    lock, done = threading.Lock(), []

    def overwrite(asked: Asked) -> None:
        with lock:
            if asked.is_fetch and asked.path.endswith("safetensors") and not done:
                done.append(True)
                remote.bucket.write("model.safetensors", other)

    proxy.fault = overwrite
    with pytest.raises(IntegrityError, match=r"model\.safetensors"):
        remote.fetch()
    assert contents(remote.into).get("files/model.safetensors") is None
    assert not [p for p in remote.into.glob("*") if len(p.name) == 64]


def test_a_file_that_goes_away_meanwhile_is_named(remote: Remote, proxy: FaultyS3) -> None:
    proxy.fault = lambda asked: (
        remote.bucket.remove("nested/3.bin") if asked.path.endswith("3.bin") else None
    )
    with pytest.raises(NotFound, match=r"nested/3\.bin"):
        remote.fetch()


_FETCH = """
import sys
from pathlib import Path
from registry import parts
from registry.artifact_store import connect_store
from registry.settings import RegistrySettings
parts.PART_BYTES, parts.WORKERS = int(sys.argv[4]), 2
connect_store(RegistrySettings()).fetch(sys.argv[1], sys.argv[2], into=Path(sys.argv[3]))
"""


@pytest.mark.promise("no part is fetched twice", about="kills")
def test_a_killed_process_is_followed_by_one_that_goes_on_after_the_parts_that_arrived(
    servers: Any, ours: Remote, proxy: FaultyS3
) -> None:
    hold, stalled = threading.Event(), threading.Event()
    count, lock = itertools.count(), threading.Lock()

    def stall(asked: Asked) -> Refusal | None:
        with lock:
            number = next(count) if asked.is_fetch else 0
        if number < 4:
            return None
        stalled.set()
        hold.wait(60)
        return Refusal(status=400, code="TooLate")

    proxy.fault = stall
    environment = {**os.environ, **servers.environment, "AWS_ENDPOINT_URL_S3": proxy.url}
    digest = f"sha256:{ours.source.rpartition('/')[2]}"
    words = (sys.executable, "-c", textwrap.dedent(_FETCH), ours.source, digest, str(ours.into))
    process = subprocess.Popen((*words, str(PART)), env=environment)
    try:
        assert stalled.wait(60)
        journal = f".fetching-{ours.source.rpartition('/')[2]}/parts/*.done"
        while sum(len(p.read_text().split()) for p in ours.into.glob(journal)) < 3:
            assert process.poll() is None
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        hold.set()
    before = sum(proxy.given)
    assert not [p for p in ours.into.iterdir() if len(p.name) == 64]

    proxy.fault = lambda _: None
    assert contents(ours.fetch()) == ours.content
    assert sum(proxy.given) - before <= ours.size - 3 * PART, "three parts were there"
    assert [len(p.name) for p in ours.into.iterdir()] == [64], "nothing is left beside it"


def test_of_several_that_fetch_the_same_one_does_and_the_others_wait(
    ours: Remote, proxy: FaultyS3
) -> None:
    with ThreadPoolExecutor(4) as pool:
        [folder] = {f.result() for f in [pool.submit(ours.fetch) for _ in range(4)]}
    assert contents(folder) == ours.content
    assert sum(proxy.given) == ours.size


@pytest.mark.promise("altered bytes are never used", about="bytes")
def test_what_was_changed_while_it_was_cut_off_is_thrown_away(
    ours: Remote, proxy: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "WORKERS", 1)
    monkeypatch.setattr(parts, "_ATTEMPTS", 1)
    proxy.fault = lambda asked: (
        Refusal(status=403, code="AccessDenied") if asked.path.endswith("5.bin") else None
    )
    with pytest.raises(ArtifactStoreUnavailable):
        ours.fetch()
    [left] = ours.into.iterdir()
    (left / "files" / "nested").mkdir(exist_ok=True)
    (left / "files" / "nested" / "1.bin").write_bytes(b"x" * 1001)
    proxy.fault = lambda _: None
    with pytest.raises(IntegrityError, match="Somebody changed"):
        ours.fetch()
    assert contents(ours.fetch()) == ours.content


@pytest.mark.promise("one clear error, and nothing half made", about="disks")
def test_a_disk_without_room_is_told_before_anything_is_fetched(
    ours: Remote, proxy: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = parts.shutil.disk_usage("/")
    monkeypatch.setattr(parts.shutil, "disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(StageFailed, match="The disk is full"):
        ours.fetch()
    assert proxy.given == []
