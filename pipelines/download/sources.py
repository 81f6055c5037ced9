"""The ways to name a model's source, and how each is brought in.

`parse_source` reads the address and decides nothing else; `Fetcher` finds what lies there, says what identifies it
before anything is copied, and copies it. What may be let in is decided by `pipelines.checkpoint`.
"""

import importlib.util
import re
import shutil
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_never

from pipelines.checkpoint import check_names
from registry.artifact_store import ArtifactStore
from registry.digests import describe_folder, digest_file
from registry.errors import NotFound, SourceInvalid, Unavailable
from registry.release import DIGEST_TAG, parse_digest, split_source

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from registry.mlflow_registry import MlflowRegistry

_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_FILES = (
    "*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json",
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt",
    "chat_template.jin*", "chat_template.json",
)  # fmt: skip
"""What is fetched of a hub repository: the checkpoint at its top level, and nothing that could be executed."""
Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSource:
    """`hub://organisation/name@commit`, or with `/file.gguf` after the commit."""

    repository: str
    commit: str
    file: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Source:
    """`s3://bucket/folder`; an artifact of Shipway's is verified against its own digest."""

    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSource:
    """A folder or a `.gguf` file on this machine."""

    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrySource:
    """`models:/name/version` or `models:/name@alias`."""

    model: str
    version: str | None
    alias: str | None


Source = HubSource | S3Source | FileSource | RegistrySource


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A source that exists."""

    identity: Mapping[str, str]
    """Changes whenever the bytes may have changed."""
    digest: str | None
    """Of the bytes, where it is known before they are fetched."""
    bring: Callable[[Path], Path]
    """Puts the files into an empty folder, or leaves local ones in place; says where they are now."""


def parse_source(text: str) -> Source:
    """What `text` names.

    Raises:
        SourceInvalid: no way of naming a source reads like this.
    """
    scheme, separator, rest = text.partition("://")
    if not separator and text.startswith("models:/"):
        scheme, rest = "models", text.removeprefix("models:/")
    elif not separator:
        scheme, rest = "file", text
    match scheme:
        case "hub":
            return _parse_hub(text, rest)
        case "s3":
            try:
                split_source(text)
            except NotFound as error:
                raise SourceInvalid(str(error)) from error
            return S3Source(address=text.rstrip("/"))
        case "file" if rest:
            return FileSource(path=Path(rest).expanduser())
        case "package":
            return FileSource(path=_in_package(text, rest))
        case "models":
            found = re.fullmatch(r"([^/@]+)(?:/(\d+)|@([^/@]+))", rest)
            if found:
                return RegistrySource(model=found[1], version=found[2], alias=found[3])
        case _:
            pass
    message = (
        f"{text!r} names no model source. Give hub://organisation/name@<commit>, s3://bucket/folder, a path, "
        "models:/name/version, models:/name@alias, or package://<python package>/<file>."
    )
    raise SourceInvalid(message)


def _parse_hub(text: str, rest: str) -> HubSource:
    repository, _, revision = rest.partition("@")
    commit, _, file = revision.partition("/")
    if repository.count("/") != 1 or not _COMMIT.fullmatch(commit):
        message = (
            f"{text!r} does not name one commit. Give hub://organisation/name@<40 hexadecimal digits>: "
            "a branch or a tag may mean other bytes tomorrow. The hub shows the commit under Files, History."
        )
        raise SourceInvalid(message)
    return HubSource(repository=repository, commit=commit, file=file or None)


def _in_package(text: str, rest: str) -> Path:
    """A file that an installed Python package brings; the package is found, never imported."""
    package, _, file = rest.partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        message = f"{text}: there is no installed Python package {package!r}. Install it with pip."
        raise SourceInvalid(message)
    root = Path(spec.submodule_search_locations[0]).resolve()
    path = (root / file).resolve()
    if not file or not path.is_relative_to(root):
        message = f"{text} names no file inside the package. Give package://{package}/<file>."
        raise SourceInvalid(message)
    return path


class Fetcher:
    """Finds and copies sources; the clients are connected already, but not used before they are needed."""

    def __init__(self, store: ArtifactStore, registry: "MlflowRegistry", hub: "HfApi") -> None:
        """`hub` says which server a `hub://` address means."""
        self._store = store
        self._registry = registry
        self._hub = hub

    def find(self, source: Source, *, on_bytes: Progress) -> Found:
        """What lies at `source`.

        Raises:
            SourceInvalid: nothing does, or it is refused by its names alone.
            NotFound: the registry or S3 does not have it.
        """
        match source:
            case FileSource(path=path):
                return _find_file(path)
            case S3Source(address=address):
                return self._find_s3(address, on_bytes)
            case RegistrySource():
                return self._find_version(source, on_bytes)
            case HubSource():
                return self._find_hub(source)
            case _:
                assert_never(source)

    def _find_s3(self, address: str, on_bytes: Progress) -> Found:
        try:
            digest = self._store.manifest(address).digest
        except NotFound:
            identity = {"s3": address, "listing": self._store.listing_digest(address)}

            def copy(folder: Path) -> Path:
                self._store.download_plain(address, folder, on_bytes=on_bytes)
                return folder

            return Found(identity=identity, digest=None, bring=copy)
        return Found(
            identity={"digest": digest},
            digest=digest,
            bring=lambda folder: self._store.fetch(address, digest, into=folder, on_bytes=on_bytes),
        )

    def _find_version(self, source: RegistrySource, on_bytes: Progress) -> Found:
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
        if promised is None:
            return self._find_s3(version.source, on_bytes)
        digest = parse_digest(promised)
        return Found(
            identity={"digest": digest},
            digest=digest,
            bring=lambda folder: self._store.fetch(
                version.source, digest, into=folder, on_bytes=on_bytes
            ),
        )

    def _find_hub(self, source: HubSource) -> Found:
        where = f"hub://{source.repository}@{source.commit}"
        with _hub_answering(where):
            names = self._hub.list_repo_files(source.repository, revision=source.commit)
        if source.file is not None and source.file not in names:
            message = f"{where} has no file {source.file!r}. Look at its list of files."
            raise SourceInvalid(message)
        if source.file is None and not any(name.endswith(".safetensors") for name in names):
            check_names(names, where=where)

        def download(folder: Path) -> Path:
            hub: Any = self._hub
            with _hub_answering(where):
                hub.snapshot_download(
                    source.repository,
                    revision=source.commit,
                    local_dir=folder,
                    allow_patterns=list(_HUB_FILES) if source.file is None else [source.file],
                    ignore_patterns=["*/*"] if source.file is None else None,
                )
            shutil.rmtree(folder / ".cache", ignore_errors=True)
            return folder if source.file is None else folder / source.file

        identity = {"hub": source.repository, "commit": source.commit, "file": source.file or ""}
        return Found(identity=identity, digest=None, bring=download)


def _find_file(path: Path) -> Found:
    if path.is_dir():
        digest = describe_folder(path).digest
    elif path.is_file() and path.suffix.lower() == ".gguf":
        digest = digest_file(path)
    elif path.is_file():
        check_names([path.name], where=str(path))
        message = f"{path} is one file. Give the folder of the checkpoint, or a .gguf file."
        raise SourceInvalid(message)
    else:
        message = f"There is no model at {path}. Look at the path."
        raise SourceInvalid(message)
    return Found(identity={"digest": digest}, digest=digest, bring=lambda _: path)


@contextmanager
def _hub_answering(where: str) -> Generator[None]:
    """Turns the hub client's exceptions into ours; a full disk passes through."""
    from httpx2 import HTTPError
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        yield
    except HfHubHTTPError as error:
        message = (
            f"The hub refused {where} ({str(error)[:300]}). "
            "Look at the name and the commit; a gated model needs HF_TOKEN."
        )
        raise SourceInvalid(message) from error
    except (HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        message = f"The hub did not answer for {where} ({str(error)[:300]}). Look at the network, then run again."
        raise Unavailable(message) from error
