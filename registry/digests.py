"""Bytes on this disk as digests: one file, or a whole folder as an artifact's manifest.

On the standard library alone, for it runs inside engines, too, which compare what they load with what was evaluated.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from registry.errors import IntegrityError
from registry.release import ArtifactManifest, Digest, FileEntry

MANIFEST_NAME = "shipway-manifest.json"
SIGNATURE_NAME = "shipway-signature.json"
BESIDE = frozenset({MANIFEST_NAME, SIGNATURE_NAME})
"""Lie beside an artifact's files and are none of them."""
_WORKERS = 4


def describe_folder(folder: Path) -> ArtifactManifest:
    """The manifest of all files below `folder`; reads every byte once.

    Raises:
        IntegrityError: a link or another thing that is no plain file lies there.
    """
    paths: list[Path] = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            message = (
                f"{path.name} in the artifact is no plain file. Replace it by the file itself."
            )
            raise IntegrityError(message)
        if path.is_file() and path.name not in BESIDE:
            paths.append(path)
    with ThreadPoolExecutor(_WORKERS) as pool:
        return ArtifactManifest.of(
            FileEntry(
                path=path.relative_to(folder).as_posix(),
                digest=digest,
                size_bytes=path.stat().st_size,
            )
            for path, digest in zip(paths, pool.map(digest_file, paths), strict=True)
        )


def digest_file(path: Path) -> Digest:
    """The SHA-256 of one file's bytes."""
    with path.open("rb") as file:
        return Digest("sha256:" + hashlib.file_digest(file, "sha256").hexdigest())


def digest_bytes(content: bytes) -> Digest:
    """The SHA-256 of `content`."""
    return Digest("sha256:" + hashlib.sha256(content).hexdigest())
