"""The files below an `s3://` folder, or the one object that an address names, to be fetched in parts."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from botocore.exceptions import ClientError

from registry.digests import BESIDE
from registry.errors import IntegrityError, NotFound
from registry.parts import RemoteFile
from registry.release import ArtifactManifest, split_source
from registry.s3 import answering, code_of, list_objects

_PIECE_BYTES = 1 << 20
_ANOTHER = frozenset({"412", "416", "PreconditionFailed", "InvalidRange"})
"""It has another entity tag, or ends before the bytes that are asked for."""


def list_files(client: Any, address: str) -> tuple[RemoteFile, ...]:
    """Each object at `address`, by its path below it; an object of just that name has its own as its path.

    Raises:
        NotFound: nothing lies there.
        ArtifactStoreUnavailable: S3 does not answer, or refuses.
    """
    bucket, prefix = split_source(address)
    found: list[RemoteFile] = []
    with answering(f"the folder {address}"):
        for item in list_objects(client, bucket, prefix):
            key = str(item["Key"])
            name = prefix.rpartition("/")[2] if key == prefix else key[len(prefix) + 1 :]
            is_below = key == prefix or key.startswith(f"{prefix}/")
            if is_below and name and not name.endswith("/") and name not in BESIDE:
                found.append(_listed(client, bucket, name, item))
    if not found:
        message = f"There are no files at {address}. Look at the address."
        raise NotFound(message)
    return tuple(found)


def promised_files(client: Any, source: str, manifest: ArtifactManifest) -> tuple[RemoteFile, ...]:
    """Each file that `manifest` names of the artifact at `source`, with the digest that it must have."""
    bucket, prefix = split_source(source)
    return tuple(
        RemoteFile(
            path=entry.path,
            size_bytes=entry.size_bytes,
            tag=entry.digest,
            read=partial(_read, client, bucket, f"{prefix}/{entry.path}", {}),
            sha256=entry.digest.removeprefix("sha256:"),
        )
        for entry in manifest.files
    )


def _listed(client: Any, bucket: str, name: str, item: Any) -> RemoteFile:
    tag = str(item["ETag"])
    return RemoteFile(
        path=name,
        size_bytes=int(item["Size"]),
        tag=tag,
        read=partial(_read, client, bucket, str(item["Key"]), {"IfMatch": tag}),
    )


def _read(
    client: Any, bucket: str, key: str, condition: Mapping[str, str], start: int, stop: int
) -> Iterator[bytes]:
    """The bytes of one object from `start` to `stop`.

    Raises:
        IntegrityError: it is another one by now.
        NotFound: it is gone.
        ArtifactStoreUnavailable: S3 does not answer, refuses, or has cut it off.
    """
    with answering(f"s3://{bucket}/{key}"):
        try:
            answer = client.get_object(
                Bucket=bucket, Key=key, Range=f"bytes={start}-{stop - 1}", **condition
            )
        except ClientError as error:
            if code_of(error) not in _ANOTHER:
                raise
            message = (
                f"s3://{bucket}/{key} is not what was found there before: somebody has written it since. "
                "Nothing is made of it; look who writes there, then run again."
            )
            raise IntegrityError(message) from error
        yield from answer["Body"].iter_chunks(_PIECE_BYTES)
