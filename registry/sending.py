"""Files from this disk into S3: many at once and in parts at once, over one pool of threads.

One thread reads and hashes while the pool sends, so no more memory is used than for the parts on their way. S3 compares
each with the SHA-256 that it goes with, and says so. Nothing is finished under the digest of other bytes: a file that
changed since it was described is found out before its last part goes. What was cut off is left in S3, and the next
upload of the same bytes goes on after the parts that arrived.
"""

import base64
import hashlib
import threading
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from botocore.exceptions import ClientError

from registry.errors import IntegrityError
from registry.release import FileEntry
from registry.s3 import code_of
from registry.transfer import DIGEST_METADATA, WORKERS, digest_in, patiently

_PART_BYTES = 16 << 20
_MAX_PARTS = 10_000
_ENDED = frozenset({"NoSuchUpload"})


def part_bytes(size_bytes: int) -> int:
    """How large each part of a file is; it follows from the size, so that a later upload cuts at the same places."""
    return max(_PART_BYTES, -(-size_bytes // _MAX_PARTS))


@dataclass(frozen=True, slots=True, kw_only=True)
class UnfinishedUpload:
    """A file on its way in parts, or cut off there."""

    key: str
    id: str
    written: datetime
    """When its last part came, or it was begun."""


def list_unfinished(client: Any, bucket: str, prefix: str) -> Generator[UnfinishedUpload]:
    """What was begun in parts below `prefix` and is neither finished nor given up."""
    pages = client.get_paginator("list_multipart_uploads").paginate(
        Bucket=bucket, Prefix=f"{prefix}/"
    )
    for page in pages:
        for one in page.get("Uploads", ()):
            key, upload_id, times = one["Key"], one["UploadId"], [one["Initiated"]]
            parts = _list_parts(client, bucket, key, upload_id) or {}
            times += [part["LastModified"] for part in parts.values()]
            yield UnfinishedUpload(key=key, id=upload_id, written=max(times))


def abort_upload(client: Any, bucket: str, key: str, upload_id: str) -> None:
    """Has S3 delete the parts; one that is over already is fine."""
    try:
        client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload_id)
    except ClientError as error:
        if code_of(error) not in _ENDED:
            raise


def _list_parts(
    client: Any, bucket: str, key: str, upload_id: str
) -> dict[int, Mapping[str, Any]] | None:
    """Those that arrived, by number; None where the upload is over."""
    pages = client.get_paginator("list_parts").paginate(Bucket=bucket, Key=key, UploadId=upload_id)
    try:
        return {one["PartNumber"]: one for page in pages for one in page.get("Parts", ())}
    except ClientError as error:
        if code_of(error) not in _ENDED:
            raise
        return None


@dataclass(kw_only=True)
class _Parts:
    """A file on its way in parts."""

    key: str
    file: FileEntry
    upload_id: str
    number: int
    """How many there are."""
    known: Mapping[int, Mapping[str, Any]]
    """Those of an earlier upload, as S3 lists them."""
    done: dict[int, dict[str, Any]] = field(default_factory=dict[int, dict[str, Any]])
    lock: threading.Lock = field(default_factory=threading.Lock)

    def finish(self, number: int, etag: str, checksum: str) -> bool:
        """Notes a part as there; True for the last one."""
        with self.lock:
            self.done[number] = {"PartNumber": number, "ETag": etag, "ChecksumSHA256": checksum}
            return len(self.done) == self.number


class Sending:
    """A block in which files are sent; when it is left they are there, or what went wrong first is raised.

    What was begun by others goes to its end then, and nothing new is begun.
    """

    def __init__(
        self, client: Any, bucket: str, prefix: str, *, on_bytes: Callable[[int], None]
    ) -> None:
        """They go below `prefix`."""
        self._client = client
        self._bucket = bucket
        self._prefix = prefix
        self._on_bytes = on_bytes
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="s3")
        self._room = threading.BoundedSemaphore(WORKERS + 2)
        self._failures: list[BaseException] = []
        self._unfinished: Mapping[str, str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: object, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=error is not None)
        if error is None and self._failures:
            raise self._failures[0]

    def send(self, path: Path, file: FileEntry) -> None:
        """Reads the file at `path`, which `file` describes, and has it sent.

        Raises:
            IntegrityError: it is not what was described. Nothing is finished in its place then.
        """
        key = f"{self._prefix}/{file.path}"
        try:
            with path.open("rb") as content:
                size = part_bytes(file.size_bytes)
                if file.size_bytes <= size:
                    whole = content.read(file.size_bytes)
                    hashed = hashlib.sha256(whole)
                    _compare(hashed.hexdigest(), file)
                    self._submit(partial(self._put, key, whole, file, _base64(hashed.digest())))
                    return
                parts = self._begin(key, file, -(-file.size_bytes // size))
                hashed = hashlib.sha256()
                for number in range(1, parts.number + 1):
                    left = file.size_bytes - (number - 1) * size
                    piece = content.read(min(size, left))
                    hashed.update(piece)
                    if number == parts.number:
                        self._compare_or_abort(hashed.hexdigest(), parts)
                    self._submit(partial(self._send_part, parts, number, piece))
        except FileNotFoundError as error:
            message = f"{file.path} is gone since it was described. Nothing is registered; run the stage again."
            raise IntegrityError(message) from error

    def _submit(self, act: Callable[[], None]) -> None:
        self._room.acquire()
        if self._failures:
            raise self._failures[0]
        self._pool.submit(act).add_done_callback(self._note)

    def _note(self, done: Future[None]) -> None:
        if not done.cancelled() and (error := done.exception()) is not None:
            self._failures.append(error)
        self._room.release()

    def _put(self, key: str, whole: bytes, file: FileEntry, checksum: str) -> None:
        answer = patiently(
            lambda: self._client.put_object(
                Bucket=self._bucket,
                Key=key,
                Body=whole,
                ChecksumSHA256=checksum,
                Metadata=_metadata(file),
            )
        )
        _confirm(answer, whole, checksum, key)
        self._on_bytes(len(whole))

    def _begin(self, key: str, file: FileEntry, number: int) -> _Parts:
        upload_id = self._cut_off().get(key)
        known = (
            None if upload_id is None else _list_parts(self._client, self._bucket, key, upload_id)
        )
        if upload_id is None or known is None:
            known = {}
            begun = patiently(
                lambda: self._client.create_multipart_upload(
                    Bucket=self._bucket,
                    Key=key,
                    ChecksumAlgorithm="SHA256",
                    Metadata=_metadata(file),
                )
            )
            upload_id = begun["UploadId"]
        return _Parts(key=key, file=file, upload_id=upload_id, number=number, known=known)

    def _cut_off(self) -> Mapping[str, str]:
        """The newest upload that was cut off of each file: its id by key."""
        if self._unfinished is None:
            listed = list_unfinished(self._client, self._bucket, self._prefix)
            in_order = sorted(listed, key=lambda upload: upload.written)
            self._unfinished = {upload.key: upload.id for upload in in_order}
        return self._unfinished

    def _send_part(self, parts: _Parts, number: int, piece: bytes) -> None:
        checksum = _base64(hashlib.sha256(piece).digest())
        known = parts.known.get(number)
        named = {"Bucket": self._bucket, "Key": parts.key, "UploadId": parts.upload_id}
        try:
            if known is not None and _is_part(known, piece, checksum):
                etag = known["ETag"]
            else:
                answer = patiently(
                    lambda: self._client.upload_part(
                        **named, PartNumber=number, Body=piece, ChecksumSHA256=checksum
                    )
                )
                _confirm(answer, piece, checksum, parts.key)
                self._on_bytes(len(piece))
                etag = answer["ETag"]
            if parts.finish(number, etag, checksum):
                listed = [parts.done[number] for number in sorted(parts.done)]
                patiently(
                    lambda: self._client.complete_multipart_upload(
                        **named, MultipartUpload={"Parts": listed}
                    )
                )
        except ClientError as error:
            # Somebody else who sends the same bytes came first, or gave up this upload.
            if code_of(error) not in _ENDED or not self._is_there(parts):
                raise

    def _is_there(self, parts: _Parts) -> bool:
        try:
            head = self._client.head_object(Bucket=self._bucket, Key=parts.key)
        except ClientError:
            return False
        return digest_in(head) == parts.file.digest

    def _compare_or_abort(self, found: str, parts: _Parts) -> None:
        try:
            _compare(found, parts.file)
        except IntegrityError:
            abort_upload(self._client, self._bucket, parts.key, parts.upload_id)
            raise


def _compare(found: str, file: FileEntry) -> None:
    if f"sha256:{found}" != file.digest:
        message = f"{file.path} changed since it was described as {file.digest}. Nothing is registered; run the stage again."
        raise IntegrityError(message)


def _metadata(file: FileEntry) -> dict[str, str]:
    return {DIGEST_METADATA: file.digest.removeprefix("sha256:")}


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


def _confirm(answer: Mapping[str, Any], piece: bytes, checksum: str, key: str) -> None:
    """S3 names the checksum that it compared; one that knows none has at least to give the bytes' MD5 as entity tag."""
    if answer.get("ChecksumSHA256") != checksum and not _has_md5(answer, piece):
        message = f"S3 does not say that what arrived at {key} is what was sent. Use a server that compares checksums."
        raise IntegrityError(message)


def _is_part(known: Mapping[str, Any], piece: bytes, checksum: str) -> bool:
    if known["Size"] != len(piece):
        return False
    return known.get("ChecksumSHA256") == checksum or _has_md5(known, piece)


def _has_md5(answer: Mapping[str, Any], piece: bytes) -> bool:
    etag = str(answer.get("ETag", "")).strip('"')
    return etag == hashlib.md5(piece, usedforsecurity=False).hexdigest()
