"""Folders of somebody else's in S3, on the real server."""

from pathlib import Path

import pytest

from registry.errors import NotFound
from registry.parts import fetch_files
from registry.s3_files import list_files
from tests.registry.test_artifact_store import Bucket, contents

pytestmark = pytest.mark.real


def test_a_plain_folder_is_copied_without_its_markers(servers, tmp_path: Path) -> None:
    source = f"s3://shipway/plain/{tmp_path.name}"
    bucket = Bucket(servers.store, source)
    bucket.write("a/", b"")
    bucket.write("a/b.txt", b"b")
    files = list_files(servers.store._client, source)
    copy = fetch_files(files, tmp_path / "copy", on_bytes=lambda _: None)
    assert contents(copy) == {"a/b.txt": b"b"}


def test_an_empty_plain_folder_is_not_found(servers) -> None:
    with pytest.raises(NotFound, match="no files"):
        list_files(servers.store._client, "s3://shipway/nothing/here")
