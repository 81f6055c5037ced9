"""Archives that are bombs. Names that lead out, links, pickles in archives: `tests/pipelines/download/test_bad_sources.py`."""

import gzip
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from pipelines.download.archives import unpack
from registry.errors import SourceInvalid

_MIB = 1 << 20


@pytest.mark.parametrize("kind", [b"L", b"K", b"x", b"g"], ids=["name", "link", "pax", "global"])
def test_a_header_of_a_tar_that_claims_gigabytes_is_not_read_into_memory(tmp_path, kind) -> None:
    """64 MiB here, in a file of 300 KB; with as much as you like an archive of megabytes ended the process."""
    archive = tmp_path / "bomb.tar.gz"
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = kind, 64 * _MIB
    with gzip.open(archive, "wb", compresslevel=1) as packed:
        packed.write(header.tobuf(tarfile.GNU_FORMAT))
        for _ in range(64):
            packed.write(b"a" * _MIB)
    tracemalloc.start()
    try:
        with pytest.raises(SourceInvalid, match="a header of 67108864 bytes"):
            unpack(archive, tmp_path, where="it")
        assert tracemalloc.get_traced_memory()[1] < 16 * _MIB
    finally:
        tracemalloc.stop()


def test_headers_of_a_tar_that_are_small_each_and_many_do_not_fill_the_memory(
    tmp_path, monkeypatch
) -> None:
    """Ten thousand of a megabyte each are 10 GB once they are listed, from an archive of 50 MB."""
    monkeypatch.setattr("pipelines.download.archives._MAX_HEADER_BYTES", 4 * _MIB)
    archive = tmp_path / "bomb.tar.gz"
    with gzip.open(archive, "wb", compresslevel=1) as packed:
        for at in range(40):
            header = tarfile.TarInfo(f"{at}.json")
            header.pax_headers = {"comment": "x" * (_MIB - 200)}
            packed.write(header.tobuf(tarfile.PAX_FORMAT))
        packed.write(b"\0" * 1024)
    tracemalloc.start()
    try:
        with pytest.raises(SourceInvalid, match="headers of more than 4194304 bytes"):
            unpack(archive, tmp_path, where="it")
        assert tracemalloc.get_traced_memory()[1] < 16 * _MIB
    finally:
        tracemalloc.stop()


def test_members_are_no_headers(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("pipelines.download.archives._MAX_HEADER_BYTES", _MIB)
    archive, into = tmp_path / "model.tar.gz", tmp_path / "into"
    into.mkdir()
    _write(archive, "m.safetensors", 8 * _MIB)
    assert (unpack(archive, into, where="it") / "m.safetensors").stat().st_size == 8 * _MIB


@pytest.mark.parametrize("ending", ["tar.gz", "zip"])
def test_an_archive_that_unpacks_to_more_than_the_disk_has_is_refused_before(
    tmp_path, ending, monkeypatch
) -> None:
    archive, into = tmp_path / f"bomb.{ending}", tmp_path / "into"
    into.mkdir()
    _write(archive, "m.safetensors", 8 * _MIB)
    monkeypatch.setattr(
        "pipelines.download.archives.shutil.disk_usage", lambda _: _Disk(free=4 * _MIB)
    )
    assert archive.stat().st_size < _MIB
    with pytest.raises(SourceInvalid, match="has room for"):
        unpack(archive, into, where="it")
    assert list(into.iterdir()) == []


class _Disk:
    def __init__(self, *, free: int) -> None:
        self.free = free


def _write(archive: Path, name: str, size: int) -> None:
    content = archive.with_suffix(".content")
    content.write_bytes(b"\0" * size)
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
            packed.write(content, name)
    else:
        with tarfile.open(archive, "w:gz") as packed:
            packed.add(content, name)


def test_a_zip_that_lies_about_a_members_size_gives_no_more_than_it_said(tmp_path) -> None:
    archive, into = tmp_path / "bomb.zip", tmp_path / "into"
    into.mkdir()
    _write(archive, "m.safetensors", 8 * _MIB)
    said, lie = (8 * _MIB).to_bytes(4, "little"), (100).to_bytes(4, "little")
    archive.write_bytes(archive.read_bytes().replace(said, lie))
    with pytest.raises(SourceInvalid, match="cannot be read"):
        unpack(archive, into, where="it")
    assert sum(file.stat().st_size for file in into.rglob("*") if file.is_file()) <= 100


@pytest.mark.parametrize("ending", ["tar.gz", "zip"])
def test_an_archive_of_nothing_but_names_is_refused_before_it_fills_the_disks_table(
    tmp_path, ending
) -> None:
    archive, into = tmp_path / f"bomb.{ending}", tmp_path / "into"
    into.mkdir()
    names = (f"{at}.json" for at in range(10_001))
    if ending == "zip":
        with zipfile.ZipFile(archive, "w") as packed:
            for name in names:
                packed.writestr(name, b"")
    else:
        with tarfile.open(archive, "w:gz") as tar:
            for name in names:
                tar.addfile(tarfile.TarInfo(name))
    with pytest.raises(SourceInvalid, match="more than 10000 files"):
        unpack(archive, into, where="it")
    assert list(into.iterdir()) == []
