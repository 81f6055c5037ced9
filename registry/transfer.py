"""How objects are copied inside S3, and how long is waited for it; `sending` is the way there, `s3_files` the way back."""

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError, HTTPClientError

from registry.release import Digest
from registry.s3 import SERVER_ERROR, code_of, status_of

DIGEST_METADATA = "sha256"
"""The metadata of an object that Shipway wrote: what somebody else put in its place has none."""
WORKERS = 8
_COPY = TransferConfig(
    multipart_threshold=512 << 20, multipart_chunksize=256 << 20, max_concurrency=4
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
