"""A checkpoint in a tar or zip archive: looked at by its names first, then unpacked where it cannot leave its folder."""

import gzip
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from pipelines.checkpoint import check_names
from registry.errors import SourceInvalid

_PIECE_BYTES = 1 << 20
_MAX_MEMBERS = 10_000
"""The largest checkpoints have some hundreds of files."""
_MAX_HEADER_BYTES = 64 << 20
"""Of all headers of a tar together, which stay in memory; a member with a long name has two kilobytes of them."""
_GZIP = b"\x1f\x8b"
_ENDINGS = (".tar", ".tar.gz", ".tgz", ".zip")


def is_archive(name: str) -> bool:
    """Whether a file of that name is taken for an archive."""
    return name.lower().endswith(_ENDINGS)


_DAMAGED = (
    tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError, NotImplementedError,
    FileExistsError, IsADirectoryError, NotADirectoryError,  # one name is both a file and a folder
    ValueError,  # a name that no file can have
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Member:
    name: str
    size_bytes: int
    is_plain: bool
    open: Callable[[], IO[bytes]]


def unpack(archive: Path, into: Path, *, where: str) -> Path:
    """The folder below `into` that holds what `archive` does: `into` itself, or the one folder of the archive.

    Raises:
        SourceInvalid: it is damaged, holds what a checkpoint may not hold, or a name that leads out of the folder, or
            would not fit on the disk.
    """
    try:
        with _opened(archive) as members:
            _check(members, into, where=where)
            for member in members:
                target = into / member.name
                target.parent.mkdir(parents=True, exist_ok=True)
                with member.open() as given, target.open("wb") as file:
                    shutil.copyfileobj(given, file)
    except _DAMAGED as error:
        message = f"The archive {where} cannot be read ({error}). Copy or download it again."
        raise SourceInvalid(message) from error
    inside = list(into.iterdir())
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else into


def _check(members: Iterable[_Member], into: Path, *, where: str) -> None:
    listed = list(members)
    for member in listed:
        path = PurePosixPath(member.name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or not path.parts:
            message = f"The archive {where} holds {member.name!r}, which leads out of the folder. Nothing of it was unpacked."
            raise SourceInvalid(message)
        if not member.is_plain:
            message = f"The archive {where} holds {member.name!r}, which is a link or no plain file. Nothing of it was unpacked."
            raise SourceInvalid(message)
    if not any(member.name.endswith(".gguf") for member in listed):
        check_names((member.name for member in listed), where=where)
    size, free = sum(member.size_bytes for member in listed), shutil.disk_usage(into).free
    if size > free:
        message = f"The archive {where} unpacks to {size} bytes, and {into} has room for {free}. Make room there."
        raise SourceInvalid(message)


@contextmanager
def _opened(archive: Path) -> Generator[list[_Member]]:
    """Its members without the folders."""
    if archive.name.lower().endswith(".zip"):
        with zipfile.ZipFile(archive) as packed:
            if len(packed.infolist()) > _MAX_MEMBERS:
                raise zipfile.BadZipFile(f"more than {_MAX_MEMBERS} files")
            yield [_zipped(packed, info) for info in packed.infolist() if not info.is_dir()]
    else:
        with _unzipped(archive) as stream:
            pieces = _InPieces(stream)
            with tarfile.open(fileobj=cast("IO[bytes]", pieces), mode="r:") as packed:
                members = [_tarred(packed, info) for info in _few(packed) if not info.isdir()]
                pieces.headers_left = None
                yield members
            # The checksum of what is compressed comes after the last member.
            while stream.read(_PIECE_BYTES):
                pass


def _few(packed: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """All members. Empty ones weigh next to nothing in an archive, and a kilobyte each once they are listed."""
    for count, info in enumerate(packed, start=1):
        if count > _MAX_MEMBERS:
            raise tarfile.ReadError(f"more than {_MAX_MEMBERS} files")
        yield info


def _unzipped(archive: Path) -> IO[bytes]:
    with archive.open("rb") as file:
        is_zipped = file.read(len(_GZIP)) == _GZIP
    return cast("IO[bytes]", gzip.open(archive)) if is_zipped else archive.open("rb")


class _InPieces:
    """A tar's bytes. Members are read in pieces; it is a header that is read whole, and one may claim to be gigabytes."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.headers_left: int | None = _MAX_HEADER_BYTES
        """Bytes; None once all headers are read, and members follow."""
        self._stream = stream
        self.tell, self.seek = stream.tell, stream.seek

    def read(self, size: int = -1) -> bytes:
        """Raises `tarfile.ReadError` for a header that no archive needs."""
        if not 0 <= size <= _PIECE_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        if self.headers_left is not None:
            self.headers_left -= size
            if self.headers_left < 0:
                raise tarfile.ReadError(f"headers of more than {_MAX_HEADER_BYTES} bytes")
        return self._stream.read(size)


def _zipped(packed: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
    kind = stat.S_IFMT(info.external_attr >> 16)
    return _Member(
        name=info.filename,
        size_bytes=info.file_size,
        is_plain=kind in {0, stat.S_IFREG} and not info.flag_bits & 1,  # the flag: encrypted
        open=lambda: packed.open(info),
    )


def _tarred(packed: tarfile.TarFile, info: tarfile.TarInfo) -> _Member:
    def opened() -> Any:
        return packed.extractfile(info)

    return _Member(name=info.name, size_bytes=info.size, is_plain=info.isfile(), open=opened)
