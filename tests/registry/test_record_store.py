"""Records that are written once: what S3 may answer to a write that finds something there."""

import pytest

from registry.errors import ArtifactStoreUnavailable, NotFound
from registry.record_store import RecordStore


@pytest.mark.parametrize("answer", ["PreconditionFailed", "ConditionalRequestConflict"])
def test_what_was_there_and_is_gone_when_it_is_read_may_be_written_later(s3, answer: str) -> None:
    client, stub = s3
    stub.add_client_error("put_object", answer, http_status_code=409)
    stub.add_client_error("get_object", "NoSuchKey", http_status_code=404)
    with pytest.raises(ArtifactStoreUnavailable, match="s3://b/k was there a moment ago"):
        RecordStore(client, bucket="b").put("k", b"content")


def test_a_bucket_that_is_missing_is_named_as_such(s3) -> None:
    client, stub = s3
    stub.add_client_error("put_object", "NoSuchBucket", http_status_code=404)
    with pytest.raises(NotFound, match="the record k"):
        RecordStore(client, bucket="b").put("k", b"content")
