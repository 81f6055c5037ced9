"""Which files S3 has already, by SHA-256: of an artifact, and anywhere among the others. No bytes are read.

Trusted is what Shipway wrote: each of its objects has its SHA-256 as metadata, which goes with every copy that S3 makes
and is gone when somebody overwrites it.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from registry.digests import MANIFEST_NAME
from registry.errors import IntegrityError
from registry.release import ArtifactManifest, Digest, FileEntry
from registry.s3 import ABSENT, code_of, list_objects
from registry.transfer import WORKERS, copy_inside, digest_in, patiently

_GONE = ABSENT | {"412", "PreconditionFailed"}
_AT_ONCE = 64
"""Manifests that are read before looking whether all is found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownFile:
    """An object that holds what is looked for."""

    key: str
    etag: str


class KnownFiles:
    """One bucket. Raises what the SDK raises."""

    def __init__(self, client: Any, bucket: str) -> None:
        self._client = client
        self._bucket = bucket

    def missing(self, prefix: str, files: Sequence[FileEntry]) -> tuple[FileEntry, ...]:
        """Those of `files` that do not lie below `prefix` as Shipway would have written them."""
        listed = {item["Key"] for item in list_objects(self._client, self._bucket, f"{prefix}/")}
        keys = {f"{prefix}/{file.path}": file for file in files}
        there = {key: file for key, file in keys.items() if key in listed}
        with ThreadPoolExecutor(WORKERS) as pool:
            found = pool.map(self._at, there, there.values())
            right = {file for file, known in zip(there.values(), found, strict=True) if known}
        return tuple(file for file in files if file not in right)

    def copy_from_others(
        self, files: Sequence[FileEntry], *, below: str, to: str
    ) -> frozenset[FileEntry]:
        """Has S3 copy from the artifacts `below` a prefix into the folder `to` what they hold of `files`: which it did."""
        if not files:
            return frozenset()
        known = self.elsewhere(files, below=below)
        there = [file for file in files if file.digest in known]

        def copy(file: FileEntry) -> bool:
            found, key = known[file.digest], f"{to}/{file.path}"
            given = (self._bucket, found.key)
            try:
                patiently(
                    lambda: copy_inside(self._client, given, self._bucket, key, etag=found.etag)
                )
            except ClientError as error:
                # Deleted or overwritten since: no matter, for the bytes are at hand.
                if code_of(error) not in _GONE:
                    raise
                return False
            return True

        with ThreadPoolExecutor(WORKERS) as pool:
            done = pool.map(copy, there)
            return frozenset(file for file, is_copied in zip(there, done, strict=True) if is_copied)

    def elsewhere(self, files: Collection[FileEntry], *, below: str) -> Mapping[Digest, KnownFile]:
        """Where finished artifacts `below` a prefix hold the same bytes as `files`, as far as they do."""
        wanted = {file.digest: file for file in files}
        found: dict[Digest, KnownFile] = {}
        with ThreadPoolExecutor(WORKERS) as pool:
            for folders in _batches(self._folders(below)):
                keys: dict[str, FileEntry] = {}
                for folder, manifest in zip(
                    folders, pool.map(self._manifest, folders), strict=True
                ):
                    for file in () if manifest is None else manifest.files:
                        if file.digest in wanted and file.digest not in found:
                            keys[f"{folder}{file.path}"] = file
                for file, known in zip(
                    keys.values(), pool.map(self._at, keys, keys.values()), strict=True
                ):
                    if known is not None:
                        found[file.digest] = known
                if found.keys() == wanted.keys():
                    break
        return found

    def _folders(self, below: str) -> Iterator[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=f"{below}/", Delimiter="/"
        )
        for page in pages:
            for item in page.get("CommonPrefixes", ()):
                yield item["Prefix"]

    def _manifest(self, folder: str) -> ArtifactManifest | None:
        """None for what is not finished, or not readable: it holds nothing that could be relied on."""
        try:
            found = patiently(
                lambda: self._client.get_object(Bucket=self._bucket, Key=f"{folder}{MANIFEST_NAME}")
            )
            return ArtifactManifest.from_json(found["Body"].read())
        except IntegrityError:
            return None
        except ClientError as error:
            if code_of(error) in ABSENT:
                return None
            raise

    def _at(self, key: str, file: FileEntry) -> KnownFile | None:
        try:
            head = patiently(lambda: self._client.head_object(Bucket=self._bucket, Key=key))
        except ClientError as error:
            # Or a manifest names what cannot be a key: somebody else wrote it.
            if code_of(error) in ABSENT | {"400"}:
                return None
            raise
        is_it = head["ContentLength"] == file.size_bytes and digest_in(head) == file.digest
        return KnownFile(key=key, etag=head["ETag"]) if is_it else None


def _batches(folders: Iterator[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    for folder in folders:
        batch.append(folder)
        if len(batch) == _AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch
