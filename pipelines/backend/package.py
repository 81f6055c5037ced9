"""The project's files as one archive, and a digest that is the same wherever and whenever the same files are packed."""

import fnmatch
import hashlib
import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from registry.errors import BadInput

# What can be made again, what is no part of the code, and what may be secret.
_LEFT_OUT = (
    ".git", ".venv*", "venv", ".shipway*", "__pycache__", "*.pyc", "*.egg-info", ".*_cache", ".hypothesis", "node_modules",
    ".ipynb_checkpoints", "mlruns", "mlartifacts", "mlflow.db", ".env*", "*.pem", "*.key", "*.p12", "id_rsa*",
    "id_ed25519*", ".aws", ".ssh", ".netrc", ".kube", ".docker", ".git-credentials", ".pypirc", ".pgpass",
)  # fmt: skip
_LARGEST = 3
_MIB = 1 << 20
_TIME = (1980, 1, 1, 0, 0, 0)
"""The first that the format knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """An archive of a project."""

    file: Path
    digest: str
    """Of the files' names and bytes; how they were compressed is nothing to it."""
    files: int
    size_bytes: int
    """Of the files; the archive is smaller."""


def pack_project(project: Path, into: Path, *, exclude: Sequence[str], max_mib: int) -> Package:
    """Writes the archive of `project` into the folder `into`.

    Raises:
        BadInput: the project is too large, or a link leads out of it.
    """
    root = project.resolve()
    paths = sorted(_files(root, (*_LEFT_OUT, *exclude)))
    sizes = {path: (root / path).stat().st_size for path in paths}
    total = sum(sizes.values())
    if total > max_mib * _MIB:
        largest = sorted(sizes, key=lambda path: -sizes[path])[:_LARGEST]
        told = ", ".join(f"{path} ({sizes[path] / _MIB:.1f} MiB)" for path in largest)
        message = (
            f"The project {project} has {total / _MIB:.1f} MiB to be sent, and {max_mib} MiB are allowed. The largest files are "
            f"{told}. Name what the job does not need in `exclude` of --backend-config, or raise max_package_mib; models and "
            "data belong into S3."
        )
        raise BadInput(message)
    archive, digest = into / "project.zip", hashlib.sha256()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in paths:
            source = root / path
            entry = zipfile.ZipInfo(path, date_time=_TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o755 if os.access(source, os.X_OK) else 0o644) << 16
            content = source.read_bytes()
            file.writestr(entry, content)
            digest.update(f"{hashlib.sha256(content).hexdigest()} {path}\n".encode())
    return Package(file=archive, digest=digest.hexdigest(), files=len(paths), size_bytes=total)


def _files(root: Path, left_out: Sequence[str]) -> Iterator[str]:
    """The paths of the files below `root` that are sent; a link is sent as what it leads to."""

    def stays(path: str) -> bool:
        name = path.rpartition("/")[2]
        return any(fnmatch.fnmatch(name, one) or fnmatch.fnmatch(path, one) for one in left_out)

    for folder, folders, names in os.walk(root):
        here = Path(folder).relative_to(root)
        below = {name: (here / name).as_posix() for name in (*folders, *names)}
        folders[:] = [name for name in folders if not stays(below[name])]
        for name in (*folders, *names):
            path, place = below[name], root / below[name]
            if stays(path) or not place.is_symlink():
                continue
            if place.is_dir() or not place.resolve().is_relative_to(root) or not place.exists():
                message = (
                    f"{path} in the project is a link to {place.readlink()}, which cannot be sent. Name it in `exclude` of "
                    "--backend-config, or put a copy in its place."
                )
                raise BadInput(message)
        yield from (below[name] for name in names if not stays(below[name]))
