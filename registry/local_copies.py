"""Folders on this disk that are there whole or not at all, while several processes make and discard the same one."""

import contextlib
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
def appearing_whole(final: Path) -> Generator[Path]:
    """A folder to fill, which becomes `final` at the end of the block, unless another process was faster."""
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=final.parent, prefix=".fetching-") as name:
        partial = Path(name) / "artifact"
        partial.mkdir()
        yield partial
        try:
            os.rename(partial, final)  # noqa: PTH104 - Path.rename would do; this says that it must not replace
        except OSError:
            if not final.is_dir():
                raise
