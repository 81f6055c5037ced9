"""How objects are copied inside S3 and fetched from it, and how long is waited for it; `sending` is the way there."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from boto3.exceptions import RetriesExceededError
from boto3.s3 import transfer as sdk_transfer
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError, HTTPClientError
from s3transfer.exceptions import RetriesExceededError as TransferRetriesExceededError
from s3transfer.subscribers import BaseSubscriber

from registry.release import Digest
from registry.s3 import SERVER_ERROR, answering, code_of, status_of

DIGEST_METADATA = "sha256"
"""The metadata of an object that Shipway wrote: what somebody else put in its place has none."""
WORKERS = 8
_COPY = TransferConfig(
    multipart_threshold=512 << 20, multipart_chunksize=256 << 20, max_concurrency=4
)
_FETCH = TransferConfig(
    multipart_threshold=32 << 20, multipart_chunksize=16 << 20, max_concurrency=WORKERS
)
_PAUSES_S = (1.0, 4.0)
"""Between rounds of the client's own attempts for one piece."""
_MAY_PASS = frozenset(
    {
        "BadDigest",  # damaged on the way
        "IncompleteBody",
        "RequestTimeout",
        "SlowDown",
        "XAmzContentChecksumMismatch",
        "XAmzContentSHA256Mismatch",
    }
)
_Answer = TypeVar("_Answer")


def digest_in(head: Mapping[str, Any]) -> Digest | None:
    """What S3's answer about an object says that Shipway wrote there; None where somebody else did."""
    found = head.get("Metadata", {}).get(DIGEST_METADATA)
    return None if found is None else Digest(f"sha256:{found}")


def patiently(act: Callable[[], _Answer]) -> _Answer:
    """What `act` answers, tried three times in all where S3 is busy, away, or got other bytes than were sent."""
    for pause_s in _PAUSES_S:
        try:
            return act()
        except HTTPClientError:
            pass
        except ClientError as error:
            if status_of(error) < SERVER_ERROR and code_of(error) not in _MAY_PASS:
                raise
        time.sleep(pause_s)
    return act()


def copy_inside(
    client: Any, given: tuple[str, str], bucket: str, key: str, *, etag: str | None = None
) -> None:
    """Has S3 copy the object `given`, a bucket and a key, together with its metadata; with `etag` only if it has that one."""
    from_bucket, from_key = given
    more = {} if etag is None else {"CopySourceIfMatch": etag}
    client.copy({"Bucket": from_bucket, "Key": from_key}, bucket, key, ExtraArgs=more, Config=_COPY)


class _Progress(BaseSubscriber):
    def __init__(self, on_bytes: Callable[[int], None]) -> None:
        self._on_bytes = on_bytes

    def on_progress(self, future: Any, bytes_transferred: int, **_: Any) -> None:  # noqa: ARG002 - the base class's
        self._on_bytes(bytes_transferred)


def fetch_all(
    client: Any,
    bucket: str,
    targets: Mapping[str, Path],
    *,
    on_bytes: Callable[[int], None],
) -> None:
    """Writes the object under each key into its file. What arrives is not compared with anything here.

    Raises:
        NotFound: one of them is not there.
    """
    sdk: Any = sdk_transfer
    with sdk.create_transfer_manager(client, _FETCH) as manager:
        futures = {
            key: manager.download(bucket, key, str(target), subscribers=[_Progress(on_bytes)])
            for key, target in targets.items()
        }
        for key, future in futures.items():
            try:
                with answering(f"s3://{bucket}/{key}"):
                    future.result()
            except TransferRetriesExceededError as error:
                last: Any = error
                raise RetriesExceededError(last.last_exception) from error
