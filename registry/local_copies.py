"""Folders on this disk that are there whole or not at all, while several processes make and discard the same one."""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Generator
from pathlib import Path

from registry.digests import describe_folder
from registry.errors import IntegrityError
from registry.release import Digest


def is_copy_of(folder: Path, digest: Digest) -> bool:
    """Whether `folder` holds exactly what `digest` names."""
    # Something that is no file was put into it, or another process discards it.
    with contextlib.suppress(IntegrityError, FileNotFoundError):
        return describe_folder(folder).digest == digest
    return False


def discard(folder: Path) -> None:
    """Takes `folder` away at once, so that two processes that do so do not meet halfway."""
    aside = tempfile.TemporaryDirectory(dir=folder.parent, prefix=".discarded-")
    with aside as name, contextlib.suppress(FileNotFoundError):
        folder.rename(Path(name) / "artifact")


@contextlib.contextmanager
def alone_in(folder: Path) -> Generator[None]:
    """Makes `folder` where it is missing, and waits until no other process is in it; a killed one is in it no more."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # Whoever was in it before may have taken it away, and this be nobody's any more.
            if _is(folder, descriptor):
                yield
                return
        finally:
            os.close(descriptor)


def _is(folder: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(folder.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
