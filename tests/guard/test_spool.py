"""The folder in which records wait."""

import gzip
import json
from pathlib import Path
from stat import S_IMODE

import pytest

from deploy_targets.guard.spool import Spool


class Clock:
    now = 1_795_000_000.0

    def __call__(self) -> float:
        return self.now


def sealed(folder: Path) -> list[dict[str, object]]:
    files = sorted(folder.glob("*.jsonl.gz"))
    return [json.loads(line) for one in files for line in gzip.open(one, "rt", encoding="utf-8")]


def test_lines_are_sealed_together_when_they_are_old(tmp_path: Path) -> None:
    clock = Clock()
    spool = Spool(tmp_path / "spool", max_bytes=1 << 20, clock=clock)
    assert spool.write({"n": 1})
    assert spool.write({"n": 2, "text": "é\n"})
    assert sealed(tmp_path / "spool") == []
    clock.now += 60
    spool.seal_if_due()
    assert sealed(tmp_path / "spool") == [{"n": 1}, {"n": 2, "text": "é\n"}]
    (only,) = (tmp_path / "spool").iterdir()
    assert only.name.startswith("20261118T")


def test_a_large_file_is_sealed_at_once(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=1 << 24, clock=Clock())
    spool.write({"text": "x" * (4 << 20)})
    assert len(sealed(tmp_path)) == 1


def test_what_cannot_be_sealed_waits_and_takes_up_room_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path, max_bytes=60)
    spool.write({"text": "x" * 20})
    with monkeypatch.context() as full:
        full.setattr(gzip, "compress", _no_room)
        with pytest.raises(OSError, match="no room"):
            spool.seal()
    assert not spool.write({"text": "y" * 40})
    spool.seal()
    assert [one["text"] for one in sealed(tmp_path)] == ["x" * 20]
    assert not list(tmp_path.glob("*.jsonl"))


def _no_room(*_: object, **__: object) -> bytes:
    message = "no room"
    raise OSError(message)


def test_it_is_its_owners_alone(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "a" / "spool", max_bytes=1 << 20)
    spool.write({"n": 1})
    (written,) = (tmp_path / "a" / "spool").iterdir()
    assert S_IMODE(written.stat().st_mode) == 0o600
    spool.seal()
    (written,) = (tmp_path / "a" / "spool").iterdir()
    assert S_IMODE(written.stat().st_mode) == 0o600
    assert S_IMODE((tmp_path / "a" / "spool").stat().st_mode) == 0o700


@pytest.mark.promise("what was kept stays, what finds no room is dropped", about="disks")
def test_a_full_folder_takes_no_more_until_something_is_taken_away(tmp_path: Path) -> None:
    waits = tmp_path / "20261126T000000Z-a.jsonl.gz"
    waits.write_bytes(b"z" * 250)
    spool = Spool(tmp_path, max_bytes=300)
    assert spool.write({"text": "x" * 20})
    assert not spool.write({"text": "y" * 20})
    waits.unlink()
    assert spool.write({"text": "y" * 20})
    spool.seal()
    assert [one["text"] for one in sealed(tmp_path)] == ["x" * 20, "y" * 20]


@pytest.mark.promise("no record is lost", about="kills")
@pytest.mark.parametrize("has_made_a_part", [False, True])
def test_what_a_killed_process_left_is_sealed_by_the_next(
    tmp_path: Path, *, has_made_a_part: bool
) -> None:
    first = Spool(tmp_path, max_bytes=1 << 20)
    first.write({"n": 1})
    if has_made_a_part:
        (left,) = tmp_path.glob("*.jsonl")
        left.with_suffix(".making").write_bytes(b"\x1f\x8b half")
    Spool(tmp_path, max_bytes=1 << 20)
    assert sealed(tmp_path) == [{"n": 1}]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        Spool(tmp_path / "file" / "spool", max_bytes=1)
