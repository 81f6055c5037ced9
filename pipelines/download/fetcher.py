"""Finds what lies at a source, says what identifies it before anything is copied, and brings it in.

What may be let in is decided by `pipelines.checkpoint`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_never

from pipelines.checkpoint import PICKLES, check_names
from pipelines.download.archives import is_archive
from pipelines.download.hub import Hub
from pipelines.download.sources import (
    FileSource,
    HubSource,
    RegistrySource,
    RunSource,
    S3Source,
    Source,
)
from pipelines.progress import Announcer
from registry.artifact_store import ArtifactStore
from registry.digests import describe_folder, digest_bytes, digest_file
from registry.errors import NotFound, SourceInvalid
from registry.parts import RemoteFile, fetch_files
from registry.release import BASE_TAG, DIGEST_TAG, LICENCE_TAG, Digest, parse_digest
from registry.s3_files import list_files, promised_files

if TYPE_CHECKING:
    from registry.mlflow_registry import MlflowRegistry
    from registry.tracking import Tracking


_BY_MLFLOW = "mlflow-artifacts:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A source that exists."""

    address: str
    """Names the same bytes tomorrow, where the source can be named so: a commit for a branch, a number for an alias."""
    identity: Mapping[str, str]
    """Changes whenever the bytes may have changed."""
    digest: str | None
    """Of the bytes, where it is known before they are fetched."""
    bring: Callable[[Path, Announcer], Path]
    """Fetches into a folder, going on with what lies there; or leaves local files in place. Says where they are now."""
    facts: Mapping[str, str] = field(default_factory=dict[str, str])
    """What the source is known to be beside its bytes: `revision`, `licence`, `base`."""


class Fetcher:
    """The clients are connected already, or (S3's own, which is passed as a function) when they are needed."""

    def __init__(
        self,
        store: ArtifactStore,
        registry: "MlflowRegistry",
        tracking: "Tracking",
        connect_s3: Callable[[], Any],
        hub: Hub,
    ) -> None:
        """`store` knows which folders of S3 are artifacts of ours."""
        self._store = store
        self._registry = registry
        self._tracking = tracking
        self._connect_s3 = connect_s3
        self._hub = hub

    def find(self, source: Source) -> Found:
        """What lies at `source`. A commit of a hub is not asked for: what was fetched of it once is what it is.

        Raises:
            SourceInvalid: nothing does, or it is refused by its names alone.
            NotFound: the registry or S3 does not have it.
        """
        match source:
            case FileSource():
                return _find_file(source)
            case S3Source(address=address):
                return self._find_s3(address)
            case RegistrySource():
                return self._find_version(source)
            case RunSource():
                return self._find_run(source)
            case HubSource():
                return self._find_hub(source)
            case _:
                assert_never(source)

    def _find_s3(self, address: str, promised: Digest | None = None) -> Found:
        """What lies at `address`; with `promised`, only if it is the artifact of that digest."""
        try:
            manifest = (
                self._store.manifest(address)
                if promised is None
                else self._store.promised(address, promised)
            )
        except NotFound:
            if promised is not None:
                raise
            return self._find_plain(address)
        identity = {"digest": manifest.digest}

        def bring(folder: Path, announcer: Announcer) -> Path:
            return _fetch(promised_files(self._connect_s3(), address, manifest), folder, announcer)

        return Found(address=address, identity=identity, digest=manifest.digest, bring=bring)

    def _find_plain(self, address: str) -> Found:
        files = list_files(self._connect_s3(), address)
        listing = "".join(sorted(f"{file.path} {file.size_bytes} {file.tag}\n" for file in files))
        only = (
            files[0].path if [file.path for file in files] == [address.rpartition("/")[2]] else None
        )
        if only is not None:
            _check_one(only, where=address)
        elif not any(file.path.endswith(".gguf") for file in files):
            check_names((file.path for file in files), where=address)

        def bring(folder: Path, announcer: Announcer) -> Path:
            fetched = _fetch(files, folder, announcer)
            return fetched if only is None else fetched / only

        identity = {"s3": address, "listing": digest_bytes(listing.encode())}
        return Found(address=address, identity=identity, digest=None, bring=bring)

    def _find_version(self, source: RegistrySource) -> Found:
        number = source.version
        if number is None:
            number = self._registry.aliases(source.model).get(source.alias or "")
        if number is None:
            message = f"{source.model} has no alias {source.alias!r}. Set it in the MLflow UI, or name a version."
            raise NotFound(message)
        version = self._registry.version(source.model, number)
        if not version.source.startswith("s3://"):
            message = (
                f"{source.model} v{number} lies at {version.source}, which cannot be fetched from here. "
                "Only versions whose source is an s3:// folder can."
            )
            raise SourceInvalid(message)
        promised = version.tags.get(DIGEST_TAG)
        found = self._find_s3(version.source, None if promised is None else parse_digest(promised))
        told = {"licence": version.tags.get(LICENCE_TAG), "base": version.tags.get(BASE_TAG)}
        return Found(
            address=f"models:/{source.model}/{number}",
            identity=found.identity,
            digest=found.digest,
            bring=found.bring,
            facts={"revision": number, **{name: text for name, text in told.items() if text}},
        )

    def _find_run(self, source: RunSource) -> Found:
        address = f"runs:/{source.run_id}/{source.path}"
        root = self._tracking.artifact_address(source.run_id)
        if root.startswith("s3://"):
            found = self._find_plain(f"{root.rstrip('/')}/{source.path}")
            return Found(
                address=address, identity=found.identity, digest=None, bring=found.bring,
                facts={"revision": source.run_id},
            )  # fmt: skip
        if not root.startswith(_BY_MLFLOW):
            # Whoever may make an experiment says where its artifacts lie: this machine's files, or an address inside of a network.
            message = (
                f"The artifacts of run {source.run_id} lie at {root}, which is not asked. "
                "Only those in S3 and those that MLflow's server hands out itself are sources."
            )
            raise SourceInvalid(message)
        listed = self._tracking.list_artifacts(source.run_id, source.path)
        if not listed:
            message = (
                f"There are no files at {address}. Look at the run's artifacts in the MLflow UI."
            )
            raise NotFound(message)
        if not any(path.endswith(".gguf") for path in listed):
            check_names(listed, where=address)
        listing = "".join(f"{path} {size}\n" for path, size in sorted(listed.items()))

        def bring(folder: Path, announcer: Announcer) -> Path:
            # Through MLflow's server, which hands out whole files: what was cut off begins anew.
            announcer.say("download", f"{len(listed)} files through MLflow's server")
            here = folder / "files"
            here.mkdir(parents=True, exist_ok=True)
            return self._tracking.download_artifacts(source.run_id, source.path, here)

        return Found(
            address=address,
            identity={"run": address, "listing": digest_bytes(listing.encode())},
            digest=None,
            bring=bring,
            facts={"revision": source.run_id},
        )

    def _find_hub(self, source: HubSource) -> Found:
        commit = (
            source.revision
            if source.is_pinned
            else self._hub.resolve(source.repository, source.revision)
        )
        file = "" if source.file is None else f"/{source.file}"

        def bring(folder: Path, announcer: Announcer) -> Path:
            files = self._hub.files(source.repository, commit, file=source.file)
            fetched = _fetch(files, folder, announcer)
            return fetched if source.file is None else fetched / source.file

        return Found(
            address=f"hub://{source.repository}@{commit}{file}",
            identity={"hub": source.repository, "commit": commit, "file": source.file or ""},
            digest=None,
            bring=bring,
            facts={"revision": commit},
        )


def _fetch(files: tuple[RemoteFile, ...], folder: Path, announcer: Announcer) -> Path:
    total = sum(file.size_bytes for file in files)
    with announcer.bar("download", total=total, unit="bytes") as advance:
        return fetch_files(files, folder, on_bytes=advance)


def _find_file(source: FileSource) -> Found:
    path = source.path
    if path.is_dir():
        digest = describe_folder(path).digest
    elif path.is_file():
        _check_one(path.name, where=str(path))
        digest = digest_file(path)
    else:
        message = f"There is no model at {path}. Look at the path."
        raise SourceInvalid(message)

    def bring(_: Path, __: Announcer) -> Path:
        return path

    return Found(address=source.address, identity={"digest": digest}, digest=digest, bring=bring)


def _check_one(name: str, *, where: str) -> None:
    """Refuses one file that holds no model."""
    if not name.lower().endswith(".gguf") and not is_archive(name):
        if Path(name).suffix.lower() in PICKLES:
            check_names([name], where=where)
        message = f"{where} is one file. Give the folder of the checkpoint, a .gguf file, or an archive (.tar, .tar.gz, .zip)."
        raise SourceInvalid(message)
