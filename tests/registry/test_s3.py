"""What is made of answers that S3 itself would not give: a proxy or another service sits on its address."""

import pytest

from registry.artifact_store import ArtifactStore
from registry.errors import ArtifactStoreUnavailable, NotFound
from registry.record_store import RecordStore
from registry.s3 import answering

STRANGER = "did not answer as S3 does"


def test_a_200_without_an_entity_tag_keeps_no_record(s3) -> None:
    client, stub = s3
    stub.add_response("put_object", {})
    with pytest.raises(ArtifactStoreUnavailable, match=STRANGER):
        RecordStore(client, bucket="b").put("k", b"content")


def test_a_list_of_nothing_at_all_is_no_empty_folder(s3) -> None:
    client, stub = s3
    stub.add_response("list_objects_v2", {})
    with pytest.raises(ArtifactStoreUnavailable, match=STRANGER):
        RecordStore(client, bucket="b").keys("folder")


@pytest.mark.parametrize("status", [200, 404])
def test_no_version_is_gone_or_spoilt_because_of_a_stranger_s_page(s3, status: int) -> None:
    client, stub = s3
    if status == 200:
        stub.add_response("get_object", {})
    else:
        stub.add_client_error("get_object", "404", http_status_code=404)
    with pytest.raises(ArtifactStoreUnavailable, match=STRANGER):
        ArtifactStore(client, bucket="b").manifest("s3://b/models/a")


def test_the_answer_to_a_head_has_no_body_and_is_believed_by_its_status(s3) -> None:
    client, stub = s3
    stub.add_client_error("head_object", "404", http_status_code=404)
    with pytest.raises(NotFound, match="S3 does not have it"), answering("it"):
        client.head_object(Bucket="b", Key="k")
