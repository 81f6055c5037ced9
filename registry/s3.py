"""The client of S3: the only place that makes one, and where the SDK's exceptions become ours."""

import contextlib
from collections.abc import Generator, Iterator, Mapping
from typing import Any

import boto3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from registry.errors import ArtifactStoreUnavailable, BadInput, NotFound
from registry.settings import RegistrySettings

ABSENT = frozenset({"404", "NoSuchKey", "NoSuchBucket", "NotFound"})
"""S3's own names for what is not there."""
_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"})
SERVER_ERROR = 500
"""From this status on the request was right and S3 could not."""


def connect_s3(settings: RegistrySettings, *, keys: tuple[str, str] | None = None) -> Any:
    """A new S3 client.

    `keys` are access key and secret key; without them credentials come from AWS' own chain.

    Raises:
        BadInput: the address is none.
    """
    sdk: Any = boto3
    try:
        return sdk.client(
            "s3",
            endpoint_url=settings.s3_endpoint_url,
            region_name=None if keys is None else "us-east-1",
            aws_access_key_id=None if keys is None else keys[0],
            aws_secret_access_key=None if keys is None else keys[1],
            config=Config(
                connect_timeout=5,
                read_timeout=60,
                max_pool_connections=16,
                retries={"max_attempts": 4, "mode": "standard"},
                s3={
                    # What is sent goes with its SHA-256 in a header that is signed, and S3 compares it. On plain http the
                    # SDK would hash each body once more, and S3 too.
                    "payload_signing_enabled": False,
                    **({"addressing_style": "path"} if settings.s3_endpoint_url else {}),
                },
            ),
        )
    except ValueError as error:
        message = f"AWS_ENDPOINT_URL_S3 is no address ({error}). Set it to one like http://127.0.0.1:8333, or unset it for AWS."
        raise BadInput(message) from error


def code_of(error: ClientError) -> str:
    """S3's own name for what went wrong."""
    answer: Any = error.response
    return str(answer.get("Error", {}).get("Code"))


def status_of(error: ClientError) -> int:
    """The status of HTTP; 0 where there was none."""
    answer: Any = error.response
    return int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def list_objects(client: Any, bucket: str, prefix: str) -> Iterator[Any]:
    """Each object whose key begins with `prefix`, as S3 lists it.

    Raises what the SDK raises, and `ArtifactStoreUnavailable` as `check_answer` does.
    """
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    for page in pages:
        check_answer(page, f"the folder s3://{bucket}/{prefix}", has="Name")
        yield from page.get("Contents", ())


@contextlib.contextmanager
def answering(what: str) -> Generator[None]:
    """Turns the SDK's exceptions into ours."""
    try:
        yield
    except ClientError as error:
        code = code_of(error)
        if code in ABSENT and not _is_bare(error):
            why = " There is no such bucket." if code == "NoSuchBucket" else ""
            message = f"S3 does not have {what}.{why}"
            raise NotFound(message) from error
        raise ArtifactStoreUnavailable(_refusal(what, error)) from error
    except (BotoCoreError, Boto3Error) as error:
        message = (
            f"S3 did not give {what}: {error}. Is the server up, and AWS_ENDPOINT_URL_S3 right?"
        )
        raise ArtifactStoreUnavailable(message) from error


def check_answer(answer: Mapping[str, Any], what: str, *, has: str = "ETag") -> None:
    """Passes an answer that `has` what S3's own always have: a page of something else on its address may be a 200, too.

    Raises:
        ArtifactStoreUnavailable: it has not. Nothing is known.
    """
    if not answer.get(has):
        raise ArtifactStoreUnavailable(_stranger(what))


def _stranger(what: str) -> str:
    return f"What was asked for {what} did not answer as S3 does. Look at what AWS_ENDPOINT_URL_S3 leads to."


def _is_bare(error: ClientError) -> bool:
    """A status without S3's word for it, which only the answer to a HEAD has to do without."""
    failed: Any = error
    return code_of(error).isdecimal() and not failed.operation_name.startswith("Head")


def _refusal(what: str, error: ClientError) -> str:
    code, status = code_of(error), status_of(error)
    if code in _EXPIRED:
        return f"S3 refused {what}: the credentials have expired ({code}). Renew them and run the same again: what arrived is not sent again."
    if status >= SERVER_ERROR:
        return f"S3 failed at {what} ({status} {code}), however often it was asked. Run the same again when it can: what arrived is not sent again."
    if _is_bare(error):
        return _stranger(what)
    return f"S3 refused {what} ({code}). Look at the credentials and the bucket's policy."
