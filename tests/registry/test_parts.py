"""Files in parts: each byte once, whatever happens in between."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry import parts
from registry.errors import IntegrityError, StageFailed, Unavailable
from registry.parts import RemoteFile, fetch_files

CONTENT = bytes(range(256)) * 40


class Source:
    """Hands out `content`, counts what it handed out, and breaks off where it is told to."""

    def __init__(self, content: bytes = CONTENT, *, breaks: int = 0, piece: int = 100) -> None:
        self.content, self.breaks, self.piece = content, breaks, piece
        self.sent = 0
        self._lock = threading.Lock()

    def file(self, path: str = "a/weights", **promised: str) -> RemoteFile:
        return RemoteFile(
            path=path, size_bytes=len(self.content), tag="1", read=self._read, **promised
        )

    def _read(self, start: int, stop: int) -> Iterator[bytes]:
        for at in range(start, stop, self.piece):
            with self._lock:
                if self.sent > 0 and self.breaks > 0:
                    self.breaks -= 1
                    raise Unavailable("cut off")
                piece = self.content[at : min(at + self.piece, stop)]
                self.sent += len(piece)
            yield piece


@pytest.fixture(autouse=True)
def small_parts(monkeypatch) -> None:
    monkeypatch.setattr(parts, "PART_BYTES", 1000)
    monkeypatch.setattr(parts, "_PAUSE_S", 0)


def nothing(_: float) -> None:
    """Nobody watches."""


def test_what_arrives_is_what_was_there(tmp_path) -> None:
    source, empty, told = Source(), Source(b""), []
    files = [source.file(), empty.file("empty")]
    folder = fetch_files(files, tmp_path, on_bytes=told.append)
    assert (folder / "a" / "weights").read_bytes() == CONTENT
    assert (folder / "empty").read_bytes() == b""
    assert (source.sent, sum(told)) == (len(CONTENT), len(CONTENT))
    assert list((tmp_path / "parts").iterdir()) == []


def test_a_few_cuts_are_borne_with_and_cost_no_byte_twice(tmp_path) -> None:
    source = Source(breaks=3)
    folder = fetch_files([source.file()], tmp_path, on_bytes=nothing)
    assert (folder / "a" / "weights").read_bytes() == CONTENT
    assert source.sent == len(CONTENT)


def test_any_number_of_cuts_is_borne_with_that_each_bring_more(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(parts, "_LITTLE_BYTES", 50)
    monkeypatch.setattr(parts, "PART_BYTES", len(CONTENT))
    content = iter(range(0, len(CONTENT), 100))

    def read(start: int, stop: int) -> Iterator[bytes]:
        assert start == next(content)
        yield CONTENT[start : min(start + 100, stop)]
        raise Unavailable("cut off")

    file = RemoteFile(path="a", size_bytes=len(CONTENT), tag="1", read=read)
    folder = fetch_files([file], tmp_path, on_bytes=nothing)
    assert (folder / "a").read_bytes() == CONTENT


def test_too_many_cuts_end_it_and_the_next_call_goes_on(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(parts, "WORKERS", 1)
    source = Source()
    broken = Source()
    broken._read = lambda start, stop: source._read(start, stop) if start < 3000 else _cut()
    with pytest.raises(Unavailable):
        fetch_files([broken.file()], tmp_path, on_bytes=nothing)
    assert source.sent == 3000
    fetch_files([source.file()], tmp_path, on_bytes=nothing)
    assert source.sent == len(CONTENT)


def _cut() -> Iterator[bytes]:
    raise Unavailable("cut off")
    yield b""


def test_a_source_that_says_less_than_it_promised_is_told(tmp_path) -> None:
    short = RemoteFile(path="a", size_bytes=10, tag="1", read=lambda *_: iter([b"12"] * 0))
    with pytest.raises(Unavailable, match="was cut off 4 times"):
        fetch_files([short], tmp_path, on_bytes=nothing)


def test_a_killed_process_leaves_what_it_had(tmp_path) -> None:
    script = textwrap.dedent("""
        import sys, time
        from pathlib import Path
        from registry import parts
        parts.PART_BYTES, parts.WORKERS = 1000, 1
        def read(start, stop):
            if start >= 4000:
                print("here", flush=True)
                time.sleep(600)
            yield (bytes(range(256)) * 40)[start:stop]
        file = parts.RemoteFile(path="a/weights", size_bytes=10240, tag="1", read=read)
        parts.fetch_files([file], Path(sys.argv[1]), on_bytes=lambda _: None)
    """)
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout.readline() == b"here\n"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    source = Source()
    folder = fetch_files([source.file()], tmp_path, on_bytes=nothing)
    assert (folder / "a" / "weights").read_bytes() == CONTENT
    assert source.sent == len(CONTENT) - 4000


def test_a_note_that_was_not_written_to_its_end_does_not_count(tmp_path) -> None:
    source = Source()
    partial = parts._partial(tmp_path / "parts", source.file())
    partial.parent.mkdir()
    partial.write_bytes(CONTENT[:2000])
    partial.with_suffix(".done").write_text("0\n100")
    folder = fetch_files([source.file()], tmp_path, on_bytes=nothing)
    assert (folder / "a" / "weights").read_bytes() == CONTENT
    assert source.sent == len(CONTENT) - 1000


@pytest.mark.parametrize("promised", [{"sha256": "0" * 64}, {"git_blob": "0" * 40}])
def test_other_bytes_than_promised_are_thrown_away(tmp_path, promised) -> None:
    source = Source()
    with pytest.raises(IntegrityError, match="are not those that the source promised"):
        fetch_files([source.file(**promised)], tmp_path, on_bytes=nothing)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


@pytest.mark.parametrize("path", ["../a", "/etc/passwd", "a/../../b", "", "a\0b"])
def test_a_name_that_leads_out_is_refused_before_anything_is_fetched(tmp_path, path) -> None:
    source = Source()
    with pytest.raises(IntegrityError, match="leads out of the folder"):
        fetch_files([source.file(), source.file(path)], tmp_path, on_bytes=nothing)
    assert source.sent == 0


def test_what_cannot_fit_is_not_begun(tmp_path) -> None:
    huge = RemoteFile(path="a", size_bytes=1 << 50, tag="1", read=lambda *_: iter(()))
    monkeypatch_parts = parts.PART_BYTES
    parts.PART_BYTES = 1 << 49
    try:
        with pytest.raises(StageFailed, match="are to be fetched, and"):
            fetch_files([huge], tmp_path, on_bytes=nothing)
    finally:
        parts.PART_BYTES = monkeypatch_parts


def test_several_parts_are_under_way_at_once(tmp_path) -> None:
    together = threading.Barrier(4, timeout=20)

    def read(start: int, stop: int) -> Iterator[bytes]:
        together.wait()
        yield CONTENT[start:stop]

    file = RemoteFile(path="a", size_bytes=4000, tag="1", read=read)
    fetch_files([file], tmp_path, on_bytes=nothing)


def test_an_interrupt_ends_it_soon(tmp_path) -> None:
    def watch(_: float) -> None:
        if watch.armed:
            raise KeyboardInterrupt

    watch.armed = False

    def read(start: int, _: int) -> Iterator[bytes]:
        watch.armed = True
        while True:
            yield CONTENT[start : start + 1]
            time.sleep(0.01)

    file = RemoteFile(path="a", size_bytes=4000, tag="1", read=read)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        fetch_files([file], tmp_path, on_bytes=watch)
    assert time.monotonic() - began < 10


def test_the_journal_of_a_file_that_went_its_way_vouches_for_no_other(tmp_path) -> None:
    source = Source()
    partial = parts._partial(tmp_path / "parts", source.file())
    partial.parent.mkdir()
    partial.with_suffix(".done").write_text("0\n1000\n")
    parts._arrived(tmp_path / "parts", source.file())
    partial.write_bytes(bytes(len(CONTENT)))
    folder = fetch_files([source.file()], tmp_path, on_bytes=nothing)
    assert (folder / "a" / "weights").read_bytes() == CONTENT
