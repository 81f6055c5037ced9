"""Model artifacts in S3, by digest: `s3://<bucket>/models/<digest>/<files>`, beside them a manifest and its signature.

A file that another artifact has is copied by S3 itself, so that each is sent once (docs/artifacts.md). What an engine needs
in another arrangement is composed of an artifact in the same way, below `derived/<artifact's digest>/`.
The manifest is written last, so a folder without one is an upload that did not finish and is never served. What is
fetched is compared with the digest that was promised, file by file, before anybody may load it.
"""

import hashlib
import re
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from registry.digests import BESIDE, MANIFEST_NAME, SIGNATURE_NAME, describe_folder, digest_bytes
from registry.errors import ArtifactStoreUnavailable, IntegrityError, NotFound
from registry.known_files import KnownFiles
from registry.local_copies import alone_in, discard, is_copy_of
from registry.parts import fetch_files
from registry.release import ArtifactManifest, Digest, FileEntry, split_source
from registry.s3 import ABSENT, answering, check_answer, code_of, connect_s3, list_objects
from registry.s3_files import promised_files
from registry.sending import Sending, UnfinishedUpload, abort_upload, list_unfinished
from registry.settings import RegistrySettings
from registry.transfer import WORKERS, copy_inside, patiently

_PREFIX, _DERIVED = "models", "derived"
_HEXADECIMAL = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredArtifact:
    """Where an artifact lies, what it consists of, and whether it lay there before."""

    source: str
    manifest: ArtifactManifest
    was_there: bool


def _ignore(_: int) -> None:
    """Nobody wants to know the progress."""


class ArtifactStore:
    """One bucket. Every method raises `ArtifactStoreUnavailable` when S3 does not answer or refuses."""

    def __init__(self, client: Any, *, bucket: str) -> None:
        """`client` is a boto3 S3 client with bounded timeouts and retries."""
        self._client = client
        self._bucket = bucket
        self._known = KnownFiles(client, bucket)

    def put(
        self,
        folder: Path,
        *,
        manifest: ArtifactManifest | None = None,
        on_bytes: Callable[[int], None] = _ignore,
    ) -> StoredArtifact:
        """Sends what S3 does not have yet of the files below `folder`, and then their manifest.

        `manifest` is that of the folder where it is known already. What lies under this digest and is not as Shipway
        wrote it is replaced. `on_bytes` is called with the size of each piece sent, from several threads.

        Raises:
            IntegrityError: a file is not, or no longer, as the manifest says. There is no finished artifact then.
        """
        manifest = describe_folder(folder) if manifest is None else manifest
        prefix = f"{_PREFIX}/{_hexadecimal(manifest.digest)}"
        source = f"s3://{self._bucket}/{prefix}"
        is_finished = self._is_finished(source, manifest)
        with answering(f"the upload to {source}"):
            missing = self._known.missing(prefix, manifest.files)
            copied = self._known.copy_from_others(missing, below=_PREFIX, to=prefix)
            with Sending(self._client, self._bucket, prefix, on_bytes=on_bytes) as sending:
                for file in missing:
                    if file not in copied:
                        sending.send(folder / file.path, file)
        if missing and (wrong := _wrong_sizes(manifest, self._sizes(source))):
            message = f"{', '.join(wrong)} at {source} is gone again: somebody deletes there. Nothing was registered; run again."
            raise ArtifactStoreUnavailable(message)
        with answering(f"the upload to {source}"):
            # Even where it is there: what was written lately is spared by `gc`, though no version names it yet.
            self._write(prefix, {MANIFEST_NAME: manifest.to_json().encode()})
        return StoredArtifact(
            source=source, manifest=manifest, was_there=is_finished and not missing
        )

    def _write(self, prefix: str, files: Mapping[str, bytes]) -> None:
        """Small files, in this order."""
        for name, content in files.items():
            key = f"{prefix}/{name}"
            answer = patiently(
                lambda key=key, content=content: self._client.put_object(
                    Bucket=self._bucket, Key=key, Body=content, ChecksumAlgorithm="SHA256"
                )
            )
            check_answer(answer, key)

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
        given = self.promised(source, digest)
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
        sizes = self._sizes(stored)
        was_there = self._is_finished(stored, manifest) and not _wrong_sizes(manifest, sizes)
        if not was_there:
            left = {path: one for path, one in moved.items() if sizes.get(path) != one.size_bytes}

            def copy(path: str) -> None:
                given = (from_bucket, f"{from_prefix}/{left[path].path}")
                patiently(
                    lambda: copy_inside(self._client, given, self._bucket, f"{prefix}/{path}")
                )

            with answering(f"the copy of {source} to {stored}"):
                with ThreadPoolExecutor(WORKERS) as pool:
                    for _ in pool.map(copy, left):
                        pass
                self._write(prefix, {**beside, MANIFEST_NAME: manifest.to_json().encode()})
        return StoredArtifact(source=stored, manifest=manifest, was_there=was_there)

    def promised(self, source: str, digest: Digest) -> ArtifactManifest:
        """The manifest at `source`, which is that of `digest`.

        Raises:
            NotFound: there is no finished artifact.
            IntegrityError: it is another one, or the manifest contradicts itself.
        """
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
        manifest = self.promised(source, digest)
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

    def _is_finished(self, source: str, manifest: ArtifactManifest) -> bool:
        """Whether `source` has that manifest, which is written last."""
        try:
            self.promised(source, manifest.digest)
        except (NotFound, IntegrityError):
            return False
        return True

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
            answer = self._client.put_object(
                Bucket=bucket,
                Key=f"{prefix}/{SIGNATURE_NAME}",
                Body=signature,
                ChecksumAlgorithm="SHA256",
            )
        check_answer(answer, f"the signature at {source}")

    def signature(self, source: str) -> bytes | None:
        """What lies there as its signature; None when nothing does."""
        bucket, prefix = split_source(source)
        try:
            with answering(f"the signature at {source}"):
                found = self._client.get_object(Bucket=bucket, Key=f"{prefix}/{SIGNATURE_NAME}")
                check_answer(found, f"the signature at {source}")
                return found["Body"].read()
        except NotFound:
            return None

    def _objects(self, source: str) -> Generator[tuple[str, Any]]:
        """Each object below an `s3://` folder: its name there, and what S3 lists of it."""
        bucket, prefix = split_source(source)
        with answering(f"the folder {source}"):
            for item in list_objects(self._client, bucket, f"{prefix}/"):
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
            check_answer(found, f"the artifact at {source}")
            text = found["Body"].read()
        return ArtifactManifest.from_json(text)

    def fetch(self, source: str, digest: Digest, *, into: Path) -> Path:
        """A local folder, `<into>/<hexadecimal digest>`, with exactly the bytes that `digest` names.

        A copy that is there is verified and used again. The folder appears at once and whole. Of several processes that
        fetch the same artifact one does and the others wait; one that is cut off is followed by another that goes on there.

        Raises:
            NotFound: there is no finished artifact at `source`.
            StageFailed: the disk has no room for it.
            IntegrityError: what lies there, or arrived, has another digest.
        """
        final = into / _hexadecimal(digest)
        if is_copy_of(final, digest):
            return final
        manifest = self.promised(source, digest)
        partial = into / f".fetching-{final.name}"
        with alone_in(partial):
            if is_copy_of(final, digest):  # by whoever was in there before
                discard(partial)
                return final
            discard(final)
            is_new = not any(partial.iterdir())
            files = promised_files(self._client, source, manifest)
            try:
                folder = fetch_files(files, partial, on_bytes=_ignore)
            except NotFound:
                discard(partial)
                raise
            except IntegrityError as error:
                discard(partial)
                message = f"{error} What lies at {source} is not served: delete that folder in S3, then run the release again."
                raise IntegrityError(message) from error
            if not (is_new or is_copy_of(folder, digest)):
                discard(partial)
                message = f"Somebody changed {partial} while {source} was fetched there. It was thrown away; run again."
                raise IntegrityError(message)
            folder.rename(final)
            discard(partial)
        return final

    def written(self) -> Mapping[str, datetime]:
        """Every artifact folder of the bucket, finished or not, with the time of the last write to it or what is composed of it."""
        newest: dict[str, datetime] = {}
        for parent in (_PREFIX, _DERIVED):
            for name, item in self._objects(f"s3://{self._bucket}/{parent}"):
                folder = name.partition("/")[0]
                if _HEXADECIMAL.fullmatch(folder):
                    source, time = f"s3://{self._bucket}/{_PREFIX}/{folder}", item["LastModified"]
                    newest[source] = max(newest.get(source, time), time)
        return newest

    def unfinished(self) -> tuple[UnfinishedUpload, ...]:
        """What is on its way in parts, or was cut off there; S3 keeps the parts, and shows them to nobody."""
        with answering("the unfinished uploads"):
            return tuple(
                one
                for parent in (_PREFIX, _DERIVED)
                for one in list_unfinished(self._client, self._bucket, parent)
            )

    def give_up(self, upload: UnfinishedUpload) -> None:
        """Deletes its parts; one that is finished or given up already is fine."""
        with answering(f"the end of the upload of {upload.key}"):
            abort_upload(self._client, self._bucket, upload.key, upload.id)

    def delete(self, source: str, *, unless_written_since: datetime | None = None) -> bool:
        """Deletes the artifact, and what was composed of it; False, and nothing is, where somebody wrote there since.

        Manifests go first: what is half deleted is not whole.

        Raises:
            NotFound: `source` is not the address of an artifact; a folder of them, say, is never deleted.
        """
        bucket, prefix = split_source(source)
        parent, _, name = prefix.rpartition("/")
        if (bucket, parent) != (self._bucket, _PREFIX) or not _HEXADECIMAL.fullmatch(name):
            message = f"{source} is not an artifact of the bucket {self._bucket}, so it is not deleted. Give s3://{self._bucket}/{_PREFIX}/DIGEST."
            raise NotFound(message)
        with answering(f"the deletion of {source}"):
            composed = self._objects(f"s3://{bucket}/{_DERIVED}/{name}")
            items = [item for found in (self._objects(source), composed) for _, item in found]
            if unless_written_since is not None and any(
                item["LastModified"] >= unless_written_since for item in items
            ):
                return False
            # The artifact's own comes before those composed of it.
            keys = [item["Key"] for item in items]
            for key in sorted(keys, key=lambda key: not key.endswith(f"/{MANIFEST_NAME}")):
                self._client.delete_object(Bucket=bucket, Key=key)
            return True

    def ensure_bucket(self) -> None:
        """Creates the bucket where it is missing."""
        with answering(f"the bucket {self._bucket}"):
            try:
                self._client.head_bucket(Bucket=self._bucket)
            except ClientError as error:
                if code_of(error) not in ABSENT:
                    raise
                self._client.create_bucket(Bucket=self._bucket)


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
