"""The files below an `s3://` folder, or the one object that an address names, to be fetched in parts."""

from collections.abc import Iterator
from typing import Any

from pipelines.download.parts import RemoteFile
from registry.digests import BESIDE
from registry.errors import IntegrityError, NotFound
from registry.release import ArtifactManifest, split_source
from registry.s3 import answering

_PIECE_BYTES = 1 << 20


def list_files(client: Any, address: str) -> tuple[RemoteFile, ...]:
    """Each object at `address`, by its path below it; an object of just that name has its own as its path.

    Raises:
        NotFound: nothing lies there.
        ArtifactStoreUnavailable: S3 does not answer, or refuses.
    """
    bucket, prefix = split_source(address)
    found: list[RemoteFile] = []
    with answering(f"the folder {address}"):
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        for page in pages:
            for item in page.get("Contents", ()):
                key = str(item["Key"])
                name = prefix.rpartition("/")[2] if key == prefix else key[len(prefix) + 1 :]
                is_below = key == prefix or key.startswith(f"{prefix}/")
                if is_below and name and not name.endswith("/") and name not in BESIDE:
                    found.append(_file(client, bucket, key, name, item))
    if not found:
        message = f"There are no files at {address}. Look at the address."
        raise NotFound(message)
    return tuple(found)


def promise(files: tuple[RemoteFile, ...], manifest: ArtifactManifest) -> tuple[RemoteFile, ...]:
    """Those of `files` that `manifest` names, each with the digest that it must have.

    Raises:
        IntegrityError: one is missing, or of another size.
    """
    there = {file.path: file for file in files}
    wrong = [
        entry.path
        for entry in manifest.files
        if entry.path not in there or there[entry.path].size_bytes != entry.size_bytes
    ]
    if wrong:
        message = f"{', '.join(wrong)} is missing in S3, or not of the size that its manifest says. Upload it again."
        raise IntegrityError(message)
    return tuple(
        RemoteFile(
            path=entry.path,
            size_bytes=entry.size_bytes,
            tag=entry.digest,
            read=there[entry.path].read,
            sha256=entry.digest.removeprefix("sha256:"),
        )
        for entry in manifest.files
    )


def _file(client: Any, bucket: str, key: str, name: str, item: Any) -> RemoteFile:
    tag = str(item["ETag"])

    def read(start: int, stop: int) -> Iterator[bytes]:
        with answering(f"s3://{bucket}/{key}"):
            answer = client.get_object(
                Bucket=bucket, Key=key, Range=f"bytes={start}-{stop - 1}", IfMatch=tag
            )
            yield from answer["Body"].iter_chunks(_PIECE_BYTES)

    return RemoteFile(path=name, size_bytes=int(item["Size"]), tag=tag, read=read)
