"""The ways to name a model's source. What lies there, and how it is brought in, is in `fetcher`."""

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from registry.errors import NotFound, SourceInvalid
from registry.release import split_source

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSource:
    """`hub://organisation/name@revision`, or with `/file.gguf` after the revision."""

    repository: str
    revision: str
    """A commit; or a branch or tag, which means what it means when the download begins."""
    file: str | None

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit."""
        return _COMMIT.fullmatch(self.revision) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Source:
    """`s3://bucket/folder`, or one object; an artifact of Shipway's is verified against its own digest."""

    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSource:
    """A folder, a `.gguf` file or an archive on this machine."""

    path: Path
    address: str
    """As it was given: `package://` names the same file on every machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrySource:
    """`models:/name/version` or `models:/name@alias`."""

    model: str
    version: str | None
    alias: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSource:
    """`runs:/<run id>/path`: what a run of MLflow's logged as artifacts."""

    run_id: str
    path: str


Source = HubSource | S3Source | FileSource | RegistrySource | RunSource


def parse_source(text: str) -> Source:
    """What `text` names.

    Raises:
        SourceInvalid: no way of naming a source reads like this.
    """
    if "\0" in text:
        message = f"{text!r} holds the character NUL, which no address has. Take it out."
        raise SourceInvalid(message)
    scheme, separator, rest = text.partition("://")
    if not separator and text.startswith(("models:/", "runs:/")):
        scheme, _, rest = text.partition(":/")
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
            return FileSource(path=_at_home(text, rest), address=text)
        case "package":
            return FileSource(path=_in_package(text, rest), address=text)
        case _ if parsed := _parse_mlflow(scheme, rest):
            return parsed
        case _:
            pass
    message = (
        f"{text!r} names no model source. Give hub://organisation/name@<commit>, s3://bucket/folder, a path, "
        "models:/name/version, models:/name@alias, runs:/<run id>/<folder>, or package://<python package>/<file>."
    )
    raise SourceInvalid(message)


def _at_home(text: str, rest: str) -> Path:
    try:
        return Path(rest).expanduser()
    except RuntimeError as error:
        message = f"{text!r} begins in the home of a user whom this machine does not know. Give the whole path."
        raise SourceInvalid(message) from error


def _parse_hub(text: str, rest: str) -> HubSource:
    repository, _, tail = rest.partition("@")
    revision, _, file = tail.partition("/")
    if repository.count("/") != 1 or not all(repository.split("/")):
        message = f"{text!r} does not name a repository. Give hub://organisation/name@<commit>."
        raise SourceInvalid(message)
    if not revision:
        message = (
            f"{text!r} does not say which revision. Give hub://{repository}@<40 hexadecimal digits>, as the hub shows "
            f"under Files, History; or hub://{repository}@main for what that branch is today: the commit is noted."
        )
        raise SourceInvalid(message)
    return HubSource(repository=repository, revision=revision, file=file or None)


def _parse_mlflow(scheme: str, rest: str) -> RegistrySource | RunSource | None:
    """What `models:/` and `runs:/` name, as MLflow writes them."""
    if scheme == "models":
        found = re.fullmatch(r"([^/@]+)(?:/(\d+)|@([^/@]+))", rest)
        return found and RegistrySource(model=found[1], version=found[2], alias=found[3])
    run_id, _, path = rest.strip("/").partition("/")
    is_named = re.fullmatch(r"[0-9a-zA-Z_-]+", run_id) and path and ".." not in path.split("/")
    return RunSource(run_id=run_id, path=path) if scheme == "runs" and is_named else None


def _in_package(text: str, rest: str) -> Path:
    """A file that an installed Python package brings; the package is found, never imported."""
    package, _, file = rest.partition("/")
    try:
        spec = importlib.util.find_spec(package) if package.isidentifier() else None
    except ValueError:  # a module that was made and not found, as __main__ is
        spec = None
    if spec is None or not spec.submodule_search_locations:
        message = f"{text}: there is no installed Python package {package!r}. Install it with pip."
        raise SourceInvalid(message)
    root = Path(spec.submodule_search_locations[0]).resolve()
    path = (root / file).resolve()
    if not file or not path.is_relative_to(root):
        message = f"{text} names no file inside the package. Give package://{package}/<file>."
        raise SourceInvalid(message)
    return path
