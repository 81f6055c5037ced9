"""Files fetched in parts, several at a time; a fetch that was cut off goes on where it was, in whatever process.

A file of the folder `files/` is whole and was compared with what was promised. What is under way lies in `parts/`: the
file with holes, and beside it a list of the parts that are on the disk. Who gives the bytes is the caller's to say
(`s3_files`, `hub`).
"""

import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from registry.digests import digest_file
from registry.errors import IntegrityError, StageFailed, Unavailable

PART_BYTES = 32 << 20
"""What a killed process may have to fetch again, for each of the workers."""
WORKERS = 8
_ATTEMPTS = 4
"""In a row, for one part, that bring less than `_LITTLE_BYTES`."""
_LITTLE_BYTES = 64 << 10
_PAUSE_S = 0.5
_GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """One file of a source."""

    path: str
    """Inside the folder, with `/`."""
    size_bytes: int
    tag: str
    """Another one means other bytes."""
    read: Callable[[int, int], Iterator[bytes]]
    """The bytes from the first position up to the second. Raises `Unavailable` when it is cut off."""
    sha256: str | None = None
    git_blob: str | None = None
    """What git calls the file, where no SHA-256 is known."""


@dataclass(frozen=True, slots=True)
class _Part:
    file: RemoteFile
    start: int
    stop: int


def fetch_files(
    files: Sequence[RemoteFile], into: Path, *, on_bytes: Callable[[int], None]
) -> Path:
    """The folder below `into` that holds all of `files`, whole and compared; `on_bytes` is told each piece, also those found.

    Raises:
        IntegrityError: a name leads out of the folder, or what arrived is not what was promised.
        StageFailed: the disk has no room for it.
        Unavailable: it was cut off more often than is borne with. What arrived is kept for the next call.
    """
    folder, parts = into / "files", into / "parts"
    for file in files:
        _check_path(file.path)
    folder.mkdir(parents=True, exist_ok=True)
    parts.mkdir(exist_ok=True)
    lacking = [file for file in files if not (folder / file.path).is_file()]
    todo: list[_Part] = []
    for file in lacking:
        arrived = _arrived(parts, file)
        todo += [
            part
            for start in range(0, file.size_bytes, PART_BYTES)
            if start not in arrived
            for part in [_Part(file, start, min(start + PART_BYTES, file.size_bytes))]
        ]
    missing = sum(part.stop - part.start for part in todo)
    on_bytes(sum(file.size_bytes for file in files) - missing)
    _check_room(into, missing)
    stop = threading.Event()
    with ThreadPoolExecutor(WORKERS) as pool:
        try:
            fetched = [pool.submit(_fetch, parts, part, on_bytes, stop) for part in todo]
            for future in as_completed(fetched):
                future.result()
            for future in as_completed(
                [pool.submit(_finish, parts, folder, file) for file in lacking]
            ):
                future.result()
        except Unavailable:
            pool.shutdown(cancel_futures=True)  # parts under way come to their end, and are kept
            raise
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return folder


def _check_path(path: str) -> None:
    parsed = PurePosixPath(path)
    if parsed.is_absolute() or not parsed.parts or ".." in parsed.parts or "\0" in path:
        message = f"The source has a file named {path!r}, which leads out of the folder. It is not fetched."
        raise IntegrityError(message)


def _check_room(into: Path, missing: int) -> None:
    free = shutil.disk_usage(into).free
    if missing > free:
        message = (
            f"The disk is full: {missing / _GIB:.2f} GiB are to be fetched, and {into.parent} has room for "
            f"{free / _GIB:.2f} GiB. Make room there, or point SHIPWAY_HOME to another disk."
        )
        raise StageFailed(message)


def _partial(parts: Path, file: RemoteFile) -> Path:
    name = hashlib.sha256(f"{file.path}\0{file.tag}\0{file.size_bytes}".encode()).hexdigest()[:24]
    return parts / name


def _arrived(parts: Path, file: RemoteFile) -> set[int]:
    """Where the parts begin that are on the disk. A line that was not written to its end does not count."""
    partial = _partial(parts, file)
    journal = partial.with_suffix(".done")
    if not partial.exists():
        journal.unlink(
            missing_ok=True
        )  # of a file that went its way: it would vouch for the next one
    try:
        lines = journal.read_text().split("\n")[:-1]
    except FileNotFoundError:
        return set()
    return {int(line) for line in lines if line.isdigit()}


def _fetch(
    parts: Path, part: _Part, on_bytes: Callable[[int], None], stop: threading.Event
) -> None:
    """Puts one part onto the disk, then notes that it is there."""
    partial = _partial(parts, part.file)
    descriptor = os.open(partial, os.O_CREAT | os.O_WRONLY, 0o644)
    try:
        at, attempt = part.start, 0
        while True:
            began, cut = at, None
            try:
                for piece in part.file.read(at, part.stop):
                    if stop.is_set():
                        return
                    written = os.pwrite(descriptor, piece[: part.stop - at], at)
                    at += written
                    on_bytes(written)
            except Unavailable as error:
                cut = error
            if at >= part.stop:
                break
            attempt = 1 if at - began >= _LITTLE_BYTES else attempt + 1
            if attempt == _ATTEMPTS:
                message = f"{part.file.path} was cut off {_ATTEMPTS} times. Run again: what has arrived is kept."
                raise cut or Unavailable(message)
            stop.wait(_PAUSE_S * attempt)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    with partial.with_suffix(".done").open("a") as journal:
        journal.write(f"{part.start}\n")


def _finish(parts: Path, folder: Path, file: RemoteFile) -> None:
    """Compares a file whose parts are all there, and moves it to its place."""
    partial = _partial(parts, file)
    partial.touch()
    for promised, found in (
        (file.sha256, lambda: digest_file(partial).removeprefix("sha256:")),
        (file.git_blob, lambda: _git_blob(partial, file.size_bytes)),
    ):
        if promised is not None and promised != found():
            partial.with_suffix(".done").unlink(missing_ok=True)
            partial.unlink()
            message = (
                f"The bytes of {file.path} that arrived are not those that the source promised ({promised}). "
                "They were thrown away; run again, and if it happens again, the source is broken."
            )
            raise IntegrityError(message)
    target = folder / file.path
    target.parent.mkdir(parents=True, exist_ok=True)
    partial.replace(target)
    partial.with_suffix(".done").unlink(missing_ok=True)


def _git_blob(path: Path, size: int) -> str:
    hasher = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    hasher.update(path.read_bytes())
    return hasher.hexdigest()
