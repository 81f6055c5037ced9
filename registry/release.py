"""What a model version is, and when it may be called a release.

A `ModelVersion` is a fact read from the registry. A `Release` is a version that may be deployed: it names the
exact bytes (`digest`) and where they are (`source`). `ArtifactManifest` is how bytes become one digest.
The decision between the two is `promotion.check_gate`.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import NewType, Self

from registry.errors import IntegrityError, NotFound

Digest = NewType("Digest", str)
"""`sha256:` and 64 lower-case hexadecimal digits."""

DIGEST_TAG = "shipway.digest"
GATE_TAG = "shipway.gate"
SCORECARD_TAG = "shipway.scorecard"
BASE_TAG = "shipway.base"
PARENT_TAG = "shipway.parent"
"""The version that this one was trained from, `models:/name/version`."""
TRAINING_DATA_TAG = "shipway.training_data"
"""The digest of what it was trained on."""
ADAPTER_TAG = "shipway.adapter"
"""How it was trained: the adapter's recipe."""
RECIPE_TAG = "shipway.recipe"
SIZE_TAG = "shipway.size_bytes"
SIGNATURE_TAG = "shipway.signature"
"""The id of the key that signed the artifact. For people: what is checked is the signature in S3."""
LICENCE_TAG = "shipway.licence"
SOURCE_TAG = "shipway.source"
"""Where the bytes of the unquantized base are, as a source of `download`."""
REVISION_TAG = "shipway.source_revision"
DATA_TAG = "shipway.data"
BILL_TAG = "shipway.bill_of_materials"
STATUS_TAG = "shipway.status"
REASON_TAG = "shipway.reason"
ERROR_TAG = "shipway.error"
"""Of a run: what ended it."""
ROLLOUT_TAG = "shipway.rollout"
EXPERIMENT_TAG = "shipway.experiment"
APPROVAL_TAG = "shipway.approved"
ASKED_BY_TAG = "shipway.asked_by"
"""What the tags of `asked_by` begin with."""

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def parse_digest(text: str) -> Digest:
    """The digest that `text` spells.

    Raises:
        IntegrityError: `text` is not `sha256:` and 64 lower-case hexadecimal digits.
    """
    if not _DIGEST.fullmatch(text):
        message = (
            f"{text!r} is not a digest. Give sha256: followed by 64 lower-case hexadecimal digits."
        )
        raise IntegrityError(message)
    return Digest(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One file of an artifact: its path inside the folder, with `/`, its digest and its size."""

    path: str
    digest: Digest
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactManifest:
    """All the files of an artifact, sorted by path. Equal bytes under equal names give an equal digest."""

    files: tuple[FileEntry, ...]

    @classmethod
    def of(cls, files: Iterable[FileEntry]) -> Self:
        """The manifest of `files`, in path order."""
        return cls(files=tuple(sorted(files, key=lambda file: file.path)))

    @property
    def digest(self) -> Digest:
        """The SHA-256 over one line a file, `<digest> <size> <path>`, in path order."""
        listing = "".join(f"{file.digest} {file.size_bytes} {file.path}\n" for file in self.files)
        return Digest("sha256:" + hashlib.sha256(listing.encode()).hexdigest())

    @property
    def size_bytes(self) -> int:
        """The sum of the files' sizes."""
        return sum(file.size_bytes for file in self.files)

    def to_json(self) -> str:
        """The manifest as it is stored beside the files."""
        files = [
            {"path": file.path, "digest": file.digest, "size_bytes": file.size_bytes}
            for file in self.files
        ]
        return json.dumps({"digest": self.digest, "files": files}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The manifest that `to_json` wrote.

        Raises:
            IntegrityError: the text is no manifest, a size in it is below 0, its digest is not that of its files, or one file has two names.
        """
        try:
            document = json.loads(text)
            manifest = cls.of(
                FileEntry(
                    path=str(file["path"]),
                    digest=parse_digest(file["digest"]),
                    size_bytes=int(file["size_bytes"]),
                )
                for file in document["files"]
            )
            promised, found = parse_digest(document["digest"]), manifest.digest
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            message = (
                f"The artifact's manifest cannot be read ({error}). Run the version stage again."
            )
            raise IntegrityError(message) from error
        paths = [file.path for file in manifest.files]
        if len(set(paths)) != len(paths) or any(path != str(PurePosixPath(path)) for path in paths):
            message = (
                "The manifest names a file twice, or by another path than its own. Do not serve it."
            )
            raise IntegrityError(message)
        if any(file.size_bytes < 0 for file in manifest.files):
            message = "The manifest names a file of less than no bytes. Do not serve it."
            raise IntegrityError(message)
        if found != promised:
            message = (
                f"The manifest says {promised}, but its files add up to {found}. Do not serve it."
            )
            raise IntegrityError(message)
        return manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """One version of a registered model as MLflow tells it."""

    model: str
    version: str
    source: str
    """Where the artifact is; a copy made by "Promote model" names `models:/name/version`."""
    stage: str = "None"
    run_id: str | None = None
    updated_ms: int = 0
    """Milliseconds since the epoch of the last change that MLflow notes (stage transitions, not aliases)."""
    tags: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A model version that may be deployed: its gate has passed and its bytes are named."""

    model: str
    version: str
    source: str
    """A plain `s3://` folder."""
    digest: Digest

    def __str__(self) -> str:
        return f"{self.model} v{self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A request that is answered with no, and why. The reasons are written on the version."""

    version: str
    reasons: tuple[str, ...]


def split_source(source: str) -> tuple[str, str]:
    """Bucket and prefix of an `s3://bucket/prefix` address, without a slash at the end.

    Raises:
        NotFound: it is no such address.
    """
    bucket, _, prefix = source.removeprefix("s3://").strip("/").partition("/")
    if not source.startswith("s3://") or not bucket or not prefix:
        message = f"{source!r} is no address of an S3 folder. Give s3://bucket/folder."
        raise NotFound(message)
    return bucket, prefix
