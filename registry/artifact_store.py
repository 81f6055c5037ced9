"""Model artifacts in S3, by digest: `s3://<bucket>/models/<digest>/<files>`, beside them a manifest and its signature.

What an engine needs in another arrangement is composed of an artifact by S3 itself, below `derived/<artifact's digest>/`.
The manifest is written last, so a folder without one is an upload that did not finish and is never served. What is
fetched is compared with the digest that was promised, file by file, before anybody may load it.
"""

import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

from registry.digests import BESIDE, MANIFEST_NAME, SIGNATURE_NAME, describe_folder, digest_bytes
from registry.errors import IntegrityError, NotFound
from registry.release import ArtifactManifest, Digest, FileEntry, split_source
from registry.s3 import ABSENT, answering, code_of, connect_s3
from registry.settings import RegistrySettings

_PREFIX, _DERIVED = "models", "derived"
_HEXADECIMAL = re.compile("[0-9a-f]{64}")
_TRANSFER = TransferConfig(
    multipart_threshold=64 << 20, multipart_chunksize=32 << 20, max_concurrency=4
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredArtifact:
    """Where an artifact lies, what it consists of, and whether it lay there before."""

    source: str
    manifest: ArtifactManifest
    was_there: bool


def _ignore(_: int) -> None:
    """Nobody wants to know the progress."""


def _is_copy_of(folder: Path, digest: Digest) -> bool:
    """Whether `folder` holds exactly what `digest` names."""
    # Something that is no file was put into it, or another process discards it.
    with contextlib.suppress(IntegrityError, FileNotFoundError):
        return describe_folder(folder).digest == digest
    return False


def _discard(folder: Path) -> None:
    """Takes `folder` away at once, so that two processes that do so do not meet halfway."""
    aside = tempfile.TemporaryDirectory(dir=folder.parent, prefix=".discarded-")
    with aside as name, contextlib.suppress(FileNotFoundError):
        folder.rename(Path(name) / "artifact")


class ArtifactStore:
    """One bucket. Every method raises `ArtifactStoreUnavailable` when S3 does not answer or refuses."""

    def __init__(self, client: Any, *, bucket: str) -> None:
        """`client` is a boto3 S3 client with bounded timeouts and retries."""
        self._client = client
        self._bucket = bucket

    def put(self, folder: Path, *, on_bytes: Callable[[int], None] = _ignore) -> StoredArtifact:
        """Uploads the files below `folder` and then their manifest; does nothing when all of that is there.

        What is there under this digest and not whole is replaced. `on_bytes` is called with the size of each piece
        sent, from several threads.
        """
        manifest = describe_folder(folder)
        prefix = f"{_PREFIX}/{_hexadecimal(manifest.digest)}"
        source = f"s3://{self._bucket}/{prefix}"
        was_there = self._is_whole(source, manifest)
        if not was_there:
            with answering(f"the upload to {source}"):
                for entry in manifest.files:
                    self._client.upload_file(
                        str(folder / entry.path),
                        self._bucket,
                        f"{prefix}/{entry.path}",
                        Callback=on_bytes,
                        Config=_TRANSFER,
                    )
                self._client.put_object(
                    Bucket=self._bucket,
                    Key=f"{prefix}/{MANIFEST_NAME}",
                    Body=manifest.to_json().encode(),
                )
        return StoredArtifact(source=source, manifest=manifest, was_there=was_there)

    def compose(
        self, source: str, digest: Digest, *, under: str, beside: Mapping[str, bytes]
    ) -> StoredArtifact:
        """The files of the artifact at `source`, now below the folder `under`, and those of `beside` around them.

        S3 copies what is there already, so that only `beside` is sent; nothing is when all of it is there. One that did not
        come to its end goes on after the files that it had copied. The bytes are not read here: whoever loads them has to
        compare them with the digest.

        Raises:
            NotFound: there is no finished artifact at `source`.
            IntegrityError: what lies there has another digest.
        """
        given = self._promised(source, digest)
        from_bucket, from_prefix = split_source(source)
        moved = {f"{under}/{file.path}": file for file in given.files}
        manifest = ArtifactManifest.of(
            [
                *(replace(file, path=path) for path, file in moved.items()),
                *(
                    FileEntry(path=path, digest=digest_bytes(content), size_bytes=len(content))
                    for path, content in beside.items()
                ),
            ]
        )
        names = (_DERIVED, _hexadecimal(digest), _hexadecimal(manifest.digest))
        prefix = "/".join(names)
        stored = f"s3://{self._bucket}/{prefix}"
        was_there = self._is_whole(stored, manifest)
        if not was_there:
            sizes = {name: item["Size"] for name, item in self._objects(stored)}
            left = {path: one for path, one in moved.items() if sizes.get(path) != one.size_bytes}
            with answering(f"the copy of {source} to {stored}"):
                for path, file in left.items():
                    self._client.copy(
                        {"Bucket": from_bucket, "Key": f"{from_prefix}/{file.path}"},
                        self._bucket,
                        f"{prefix}/{path}",
                        Config=_TRANSFER,
                    )
                last = {**beside, MANIFEST_NAME: manifest.to_json().encode()}
                for path, content in last.items():
                    self._client.put_object(
                        Bucket=self._bucket, Key=f"{prefix}/{path}", Body=content
                    )
        return StoredArtifact(source=stored, manifest=manifest, was_there=was_there)

    def _promised(self, source: str, digest: Digest) -> ArtifactManifest:
        """The manifest at `source`, which is that of `digest`."""
        manifest = self.manifest(source)
        if manifest.digest != digest:
            message = f"{source} holds {manifest.digest}, but {digest} was evaluated. It is not served; release it anew."
            raise IntegrityError(message)
        return manifest

    def check(self, source: str, digest: Digest) -> ArtifactManifest:
        """The manifest of the artifact at `source`, which is the one of `digest`, with each of its files there.

        Its bytes are not read here: whoever loads them compares them with the digest.

        Raises:
            NotFound: there is no finished artifact.
            IntegrityError: it is another one, a file is missing or of another size, or one too many lies there.
        """
        manifest = self._promised(source, digest)
        sizes = self._sizes(source)
        if wrong := _wrong_sizes(manifest, sizes):
            message = f"{', '.join(wrong)} at {source} is missing or not of the size that was evaluated. Release it anew."
            raise IntegrityError(message)
        if strange := sizes.keys() - {file.path for file in manifest.files} - BESIDE:
            message = (
                f"{', '.join(sorted(strange))} at {source} was put there by somebody else, and whoever reads the whole "
                "folder would load it. Delete it in S3."
            )
            raise IntegrityError(message)
        return manifest

    def _is_whole(self, source: str, manifest: ArtifactManifest) -> bool:
        """Whether `source` has that manifest and an object of the right size for each of its files."""
        try:
            self._promised(source, manifest.digest)
        except (NotFound, IntegrityError):
            return False
        return not _wrong_sizes(manifest, self._sizes(source))

    def _sizes(self, source: str) -> Mapping[str, int]:
        return {name: item["Size"] for name, item in self._objects(source)}

    def digest_of(self, source: str, path: str) -> Digest:
        """The SHA-256 of one file's bytes as S3 gives them now; nothing is kept.

        Raises:
            NotFound: it is not there.
        """
        bucket, prefix = split_source(source)
        hashed = hashlib.sha256()
        with answering(f"{source}/{path}"):
            body = self._client.get_object(Bucket=bucket, Key=f"{prefix}/{path}")["Body"]
            for piece in body.iter_chunks(1 << 20):
                hashed.update(piece)
        return Digest("sha256:" + hashed.hexdigest())

    def sign(self, source: str, signature: bytes) -> None:
        """Lays the signature of the artifact at `source` beside its manifest, in place of one that is there."""
        bucket, prefix = split_source(source)
        with answering(f"the signature at {source}"):
            self._client.put_object(Bucket=bucket, Key=f"{prefix}/{SIGNATURE_NAME}", Body=signature)

    def signature(self, source: str) -> bytes | None:
        """What lies there as its signature; None when nothing does."""
        bucket, prefix = split_source(source)
        try:
            with answering(f"the signature at {source}"):
                found = self._client.get_object(Bucket=bucket, Key=f"{prefix}/{SIGNATURE_NAME}")
                return found["Body"].read()
        except NotFound:
            return None

    def _objects(self, source: str) -> Generator[tuple[str, Any]]:
        """Each object below an `s3://` folder: its name there, and what S3 lists of it."""
        bucket, prefix = split_source(source)
        with answering(f"the folder {source}"):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=bucket, Prefix=f"{prefix}/"
            )
            for page in pages:
                for item in page.get("Contents", ()):
                    yield item["Key"].removeprefix(f"{prefix}/"), item

    def manifest(self, source: str) -> ArtifactManifest:
        """The manifest of the artifact at `source`.

        Raises:
            NotFound: there is no finished artifact.
            IntegrityError: the manifest contradicts itself.
        """
        bucket, prefix = split_source(source)
        with answering(f"the artifact at {source}"):
            found = self._client.get_object(Bucket=bucket, Key=f"{prefix}/{MANIFEST_NAME}")
            text = found["Body"].read().decode()
        return ArtifactManifest.from_json(text)

    def fetch(
        self, source: str, digest: Digest, *, into: Path, on_bytes: Callable[[int], None] = _ignore
    ) -> Path:
        """A local folder, `<into>/<hexadecimal digest>`, with exactly the bytes that `digest` names.

        A copy that is there is verified and used again. The folder appears at once and whole, so several processes
        may fetch the same artifact.

        Raises:
            NotFound: there is no finished artifact at `source`.
            IntegrityError: what lies there, or arrived, has another digest.
        """
        final = into / _hexadecimal(digest)
        if final.is_dir():
            if _is_copy_of(final, digest):
                return final
            _discard(final)
        manifest = self._promised(source, digest)
        into.mkdir(parents=True, exist_ok=True)
        bucket, prefix = split_source(source)
        with tempfile.TemporaryDirectory(dir=into, prefix=".fetching-") as name:
            partial = Path(name) / "artifact"
            partial.mkdir()
            for entry in manifest.files:
                target = partial / entry.path
                if not target.resolve().is_relative_to(partial.resolve()):
                    message = f"The manifest of {source} names {entry.path!r}, outside its folder. Do not serve it."
                    raise IntegrityError(message)
                target.parent.mkdir(parents=True, exist_ok=True)
                with answering(f"{source}/{entry.path}"):
                    self._client.download_file(
                        bucket,
                        f"{prefix}/{entry.path}",
                        str(target),
                        Callback=on_bytes,
                        Config=_TRANSFER,
                    )
            arrived = describe_folder(partial)
            if arrived != manifest:
                changed = {f.path for f in manifest.files} - {
                    f.path for f in arrived.files if f in manifest.files
                }
                message = (
                    f"The bytes of {', '.join(sorted(changed))} at {source} are not those that were evaluated. "
                    "They are not served; delete that folder in S3, then run the release again."
                )
                raise IntegrityError(message)
            try:
                os.rename(partial, final)  # noqa: PTH104 - Path.rename would do; this says that it must not replace
            except OSError:
                if not final.is_dir():
                    raise
        return final

    def written(self) -> Mapping[str, datetime]:
        """Every artifact folder of the bucket, finished or not, with the time of its last write."""
        newest: dict[str, datetime] = {}
        for name, item in self._objects(f"s3://{self._bucket}/{_PREFIX}"):
            folder = name.partition("/")[0]
            if _HEXADECIMAL.fullmatch(folder):
                source, time = f"s3://{self._bucket}/{_PREFIX}/{folder}", item["LastModified"]
                newest[source] = max(newest.get(source, time), time)
        return newest

    def delete(self, source: str) -> None:
        """Deletes the artifact, and what was composed of it. Manifests go first: what is half deleted is not whole.

        Raises:
            NotFound: `source` is not the address of an artifact; a folder of them, say, is never deleted.
        """
        bucket, prefix = split_source(source)
        parent, _, name = prefix.rpartition("/")
        if (bucket, parent) != (self._bucket, _PREFIX) or not _HEXADECIMAL.fullmatch(name):
            message = f"{source} is not an artifact of the bucket {self._bucket}, so it is not deleted. Give s3://{self._bucket}/{_PREFIX}/DIGEST."
            raise NotFound(message)
        with answering(f"the deletion of {source}"):
            self._client.delete_object(Bucket=bucket, Key=f"{prefix}/{MANIFEST_NAME}")
            composed = self._objects(f"s3://{bucket}/{_DERIVED}/{name}")
            keys = [item["Key"] for found in (self._objects(source), composed) for _, item in found]
            for key in sorted(keys, key=lambda key: not key.endswith(f"/{MANIFEST_NAME}")):
                self._client.delete_object(Bucket=bucket, Key=key)

    def ensure_bucket(self) -> None:
        """Creates the bucket where it is missing."""
        with answering(f"the bucket {self._bucket}"):
            try:
                self._client.head_bucket(Bucket=self._bucket)
            except ClientError as error:
                if code_of(error) not in ABSENT:
                    raise
                self._client.create_bucket(Bucket=self._bucket)

    def download_plain(
        self, source: str, into: Path, *, on_bytes: Callable[[int], None] = _ignore
    ) -> None:
        """Copies every object below an `s3://` folder of somebody else's, which has no manifest, into `into`.

        Raises:
            NotFound: nothing lies there.
            IntegrityError: an object's name leads out of the folder.
        """
        bucket, _ = split_source(source)
        found = False
        for name, item in self._objects(source):
            target = into / name
            if not target.resolve().is_relative_to(into.resolve()):
                message = f"{source} has an object named {name!r}, which leads out of the folder."
                raise IntegrityError(message)
            if name in BESIDE or name.endswith("/"):
                continue
            found = True
            target.parent.mkdir(parents=True, exist_ok=True)
            with answering(f"{source}/{name}"):
                self._client.download_file(
                    bucket, item["Key"], str(target), Callback=on_bytes, Config=_TRANSFER
                )
        if not found:
            message = f"There are no files at {source}. Look at the address."
            raise NotFound(message)

    def listing_digest(self, source: str) -> Digest:
        """The SHA-256 over names, sizes and entity tags below an `s3://` folder: another one means other bytes.

        Raises:
            NotFound: nothing lies there.
        """
        lines = [
            f"{item['Key']} {item['Size']} {item['ETag']}\n" for _, item in self._objects(source)
        ]
        if not lines:
            message = f"There are no files at {source}. Look at the address."
            raise NotFound(message)
        return Digest("sha256:" + hashlib.sha256("".join(sorted(lines)).encode()).hexdigest())


def connect_store(
    settings: RegistrySettings, *, keys: tuple[str, str] | None = None
) -> ArtifactStore:
    """The store of artifacts on a new client; `keys` as for `connect_s3`."""
    return ArtifactStore(connect_s3(settings, keys=keys), bucket=settings.bucket)


def _wrong_sizes(manifest: ArtifactManifest, sizes: Mapping[str, int]) -> list[str]:
    """The files that are missing or of another size."""
    return [file.path for file in manifest.files if sizes.get(file.path) != file.size_bytes]


def _hexadecimal(digest: Digest) -> str:
    return digest.removeprefix("sha256:")
