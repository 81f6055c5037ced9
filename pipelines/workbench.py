"""Work that is done once: a folder named by its inputs, and a `done.json` in it that is written last.

A folder without `done.json` was left by a process that died: it is thrown away and made anew. A folder with one is
verified, file by file, and used again. One process works on a folder at a time (a file lock that dies with it).
"""

import contextlib
import errno
import fcntl
import hashlib
import importlib.metadata
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from registry.digests import describe_folder
from registry.errors import IntegrityError, StageFailed
from registry.release import ArtifactManifest, Digest

_DONE = "done.json"
_STARTED = "started.json"
_KEY_CHARACTERS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """What a finished piece of work says about itself, beside its files."""

    facts: Mapping[str, str] = field(default_factory=dict[str, str])
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    reports: tuple[str, ...] = ()
    """Files of the folder that people will want to read, by their path in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A folder whose work is done, and what it says."""

    folder: Path
    product: Product
    manifest: ArtifactManifest
    seconds: float
    """What the work took when it was done."""
    run_id: str
    """The MLflow run that did it."""
    is_reused: bool

    def files_of(self, name: str) -> ArtifactManifest:
        """The manifest of the subfolder `name`."""
        return subfolder(self.manifest, name)


class Workbench:
    """The work folders below `<home>/work`, and what downloads left half done below `<home>/incoming`."""

    def __init__(self, home: Path, *, fresh: bool = False) -> None:
        """`fresh` has every piece of work done again, once for this workbench."""
        self._root = home / "work"
        self._incoming = home / "incoming"
        self._fresh = fresh
        self._renewed: set[str] = set()

    def do(
        self,
        stage: str,
        inputs: Mapping[str, Any],
        work: Callable[[Path], Product],
        *,
        run_ids: Sequence[str] = (),
        on_abandoned: Callable[[str], None] = lambda _: None,
    ) -> Finished:
        """The finished work of `stage` on `inputs` (plain JSON values): what lies there, or `work` done now.

        `work` gets an empty folder to write into; nothing of it stays when it raises. `run_ids` are the MLflow run
        that does the work, and the one around it. `on_abandoned` is told each run of a process that died in the
        middle of the same work.

        Raises:
            StageFailed: the disk is full, or another process is at the same work.
        """
        folder = self._root / f"{stage}-{key_of(inputs)}"
        self._root.mkdir(parents=True, exist_ok=True)
        with _alone_with(folder):
            abandoned = _read(folder / _STARTED)
            again = self._fresh and folder.name not in self._renewed
            self._renewed.add(folder.name)
            if not again and (found := _verified(folder)) is not None:
                (folder / _DONE).touch()  # last used now, for `sweep`
                return found
            if abandoned is not None and not (folder / _DONE).exists():
                for run_id in abandoned.get("run_ids", ()):
                    on_abandoned(str(run_id))
            return _make(folder, dict(inputs), work, run_ids)

    def sweep(self, *, unused_since: float) -> tuple[str, ...]:
        """Deletes the folders that nobody used since then (seconds since the epoch), and returns their names.

        What another process works on at present stays.
        """
        swept: list[str] = []
        for folder in (*self._root.glob("*/"), *self._incoming.glob("*/")):
            if _last_used(folder) >= unused_since:
                continue
            with contextlib.suppress(StageFailed), _alone_with(folder):
                if _last_used(folder) >= unused_since:
                    continue  # somebody was faster
                (folder / _DONE).unlink(
                    missing_ok=True
                )  # first: what is half deleted is not finished
                shutil.rmtree(folder)
                swept.append(folder.name)
        return tuple(sorted(swept))

    def makers(self, digest: Digest) -> tuple["Maker", ...]:
        """The finished work whose `model/` has that digest, or whose inputs name it; last used last.

        What is read is what the work said of itself: its bytes are not looked at here.
        """
        found: list[tuple[float, Maker]] = []
        for note in self._root.glob(f"*/{_DONE}"):
            done = _read(note) or {}
            try:
                manifest = ArtifactManifest.from_json(json.dumps(done["files"]))
                maker = Maker(
                    stage=note.parent.name.rpartition("-")[0],
                    inputs=dict(done["inputs"]),
                    facts=dict(done["facts"]),
                    made=subfolder(manifest, "model").digest,
                )
                if maker.made == digest or maker.inputs.get("model") == digest:
                    found.append((note.stat().st_mtime, maker))
            except (IntegrityError, KeyError, TypeError, ValueError, FileNotFoundError):
                continue
        return tuple(maker for _, maker in sorted(found, key=lambda pair: pair[0]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Maker:
    """Finished work, as lineage."""

    stage: str
    inputs: Mapping[str, Any]
    facts: Mapping[str, str]
    made: Digest
    """The digest of its `model/`."""


def key_of(inputs: Mapping[str, Any]) -> str:
    """The name of these inputs: equal inputs, and only they, have an equal name."""
    text = json.dumps(inputs, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_KEY_CHARACTERS]


def code_of(package_file: str, libraries: Iterable[str]) -> dict[str, str]:
    """What the work of a package depends on beside its inputs: sources and the versions of `libraries`.

    The sources are the package's own and those of the modules beside it, which all packages share.
    """
    hasher = hashlib.sha256()
    package = Path(package_file).parent
    for path in sorted([*package.rglob("*.py"), *package.parent.glob("*.py")]):
        hasher.update(path.read_bytes())
    versions = {name: importlib.metadata.version(name) for name in libraries}
    return {"source": hasher.hexdigest(), **versions}


def subfolder(manifest: ArtifactManifest, name: str) -> ArtifactManifest:
    """The part of `manifest` below the folder `name`, with paths relative to it."""
    prefix = f"{name}/"
    return ArtifactManifest.of(
        replace(file, path=file.path.removeprefix(prefix))
        for file in manifest.files
        if file.path.startswith(prefix)
    )


def is_disk_full(error: BaseException | None) -> bool:
    """Whether `error`, or one that led to it, says that no space is left. Rust libraries say so in words only."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return True
        if f"os error {errno.ENOSPC}" in str(error) or "No space left on device" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _make(
    folder: Path, inputs: dict[str, Any], work: Callable[[Path], Product], run_ids: Sequence[str]
) -> Finished:
    shutil.rmtree(folder, ignore_errors=True)
    started = time.monotonic()
    run_id = next(iter(run_ids), "")
    try:
        folder.mkdir()
        (folder / _STARTED).write_text(json.dumps({"run_ids": list(run_ids)}))
        product = work(folder)
        manifest = _files(folder)
        seconds = time.monotonic() - started
        document = {
            "inputs": inputs,
            "facts": dict(product.facts),
            "metrics": dict(product.metrics),
            "reports": list(product.reports),
            "files": json.loads(manifest.to_json()),
            "seconds": round(seconds, 3),
            "run_id": run_id,
        }
        partial = folder / f".{_DONE}"
        partial.write_text(json.dumps(document, indent=1))
        partial.replace(folder / _DONE)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if is_disk_full(error):
            message = (
                f"The disk is full: {folder.name} could not be written below {folder.parent}. "
                "Make room there, or point SHIPWAY_HOME to another disk, and run again: "
                "what had finished before is reused."
            )
            raise StageFailed(message) from error
        raise
    return Finished(
        folder=folder,
        product=product,
        manifest=manifest,
        seconds=seconds,
        run_id=run_id,
        is_reused=False,
    )


def _verified(folder: Path) -> Finished | None:
    """The work that lies in `folder`, if it is finished and every byte is still the one that was written."""
    done = _read(folder / _DONE)
    if done is None:
        return None
    try:
        manifest = ArtifactManifest.from_json(json.dumps(done["files"]))
        if _files(folder) != manifest:
            return None
        return Finished(
            folder=folder,
            product=Product(
                facts=done["facts"], metrics=done["metrics"], reports=tuple(done["reports"])
            ),
            manifest=manifest,
            seconds=float(done["seconds"]),
            run_id=str(done["run_id"]),
            is_reused=True,
        )
    except (IntegrityError, KeyError, TypeError, ValueError):
        return None


def _files(folder: Path) -> ArtifactManifest:
    files = describe_folder(folder).files
    return ArtifactManifest.of(f for f in files if f.path not in {_DONE, _STARTED})


def _last_used(folder: Path) -> float:
    """When the finished work was made or taken, or anything of the unfinished was written."""
    # What goes away while one looks is in use.
    try:
        done = folder / _DONE
        if done.exists():
            return done.stat().st_mtime
        return max(path.lstat().st_mtime for path in (folder, *folder.rglob("*")))
    except FileNotFoundError:
        return math.inf


def _read(path: Path) -> dict[str, Any] | None:
    try:
        document: Any = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return cast("dict[str, Any]", document) if isinstance(document, dict) else None


@contextmanager
def _alone_with(folder: Path) -> Generator[None]:
    """Holds the folder's lock; the kernel lets go of it when the process dies, however it dies."""
    descriptor = os.open(folder.with_name(f".{folder.name}.lock"), os.O_CREAT | os.O_RDWR, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            message = (
                f"Another process is working on {folder.name}. Wait for it and run again: "
                "what it makes is reused."
            )
            raise StageFailed(message) from error
        yield
    finally:
        os.close(descriptor)
