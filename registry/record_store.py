"""Records in S3 that are written once and never changed: `s3://<bucket>/<key>`."""

from collections.abc import Iterator
from typing import Any

from registry.errors import ArtifactStoreUnavailable, IntegrityError
from registry.s3 import answering, check_answer, code_of, list_objects

_EXISTS = {"PreconditionFailed", "412", "ConditionalRequestConflict"}


class RecordStore:
    """One bucket. Every method raises `ArtifactStoreUnavailable` when S3 does not answer or refuses."""

    def __init__(self, client: Any, *, bucket: str) -> None:
        """`client` is a boto3 S3 client with bounded timeouts and retries."""
        self._client = client
        self._bucket = bucket

    def put(self, key: str, content: bytes) -> None:
        """Writes an object where there is none yet; the same content again is fine.

        Raises:
            ArtifactStoreUnavailable: somebody else writes or deletes it at this moment, besides the above.
            IntegrityError: something else is there.
            NotFound: there is no such bucket.
        """
        with answering(f"the record {key}"):
            try:
                answer = self._client.put_object(
                    Bucket=self._bucket, Key=key, Body=content, IfNoneMatch="*"
                )
            except self._client.exceptions.ClientError as error:
                if code_of(error) not in _EXISTS:
                    raise
                try:
                    found = self._read(key)
                except self._client.exceptions.NoSuchKey as gone:
                    message = f"s3://{self._bucket}/{key} was there a moment ago and is gone: somebody writes or deletes it just now."
                    raise ArtifactStoreUnavailable(message) from gone
                if found != content:
                    message = f"s3://{self._bucket}/{key} holds another record than the one to be written. Nothing was changed."
                    raise IntegrityError(message) from error
            else:
                check_answer(answer, f"the record {key}")

    def read(self, prefix: str) -> Iterator[bytes]:
        """The objects below a folder, in the order of their names."""
        with answering(f"the records {prefix}"):
            for key in sorted(self.keys(prefix)):
                yield self._read(key)

    def keys(self, folder: str) -> tuple[str, ...]:
        """The names of all objects below a folder."""
        with answering(f"the records {folder}"):
            found = list_objects(self._client, self._bucket, f"{folder}/")
            return tuple(item["Key"] for item in found)

    def delete(self, key: str) -> None:
        """Deletes an object; one that is gone already is fine."""
        with answering(f"the record {key}"):
            self._client.delete_object(Bucket=self._bucket, Key=key)

    def _read(self, key: str) -> bytes:
        found = self._client.get_object(Bucket=self._bucket, Key=key)
        check_answer(found, f"the record {key}")
        return found["Body"].read()
