"""What stands between us and the API server may answer anything: none of it is taken for an object or an event."""

import pytest

from deploy_targets.api_answer import Answer
from deploy_targets.cluster import EventStream
from registry.errors import TargetUnavailable

LOGIN = b'{"message": "sign in"}'
NO_OBJECTS = [LOGIN, b"<html>sign in</html>", b"[]", b'"ok"', b"null", b"7", b"", b"\xff"]


@pytest.mark.parametrize("text", NO_OBJECTS)
def test_a_page_in_the_place_of_an_object_is_no_answer(text: bytes) -> None:
    found = Answer.read(200, text, None)

    assert not found.is_final(may_cross=True)
    told = "sign in" if text == LOGIN else text.decode(errors="replace")
    assert found.told == f"502 {told}".strip()


@pytest.mark.parametrize("text", NO_OBJECTS)
def test_a_refusal_without_an_object_keeps_its_status(text: bytes) -> None:
    found = Answer.read(403, text, None)

    assert found.is_final(may_cross=True)
    assert found.told.startswith("403")
    assert not found.is_about_the_object


@pytest.mark.parametrize(
    "line",
    [*NO_OBJECTS, b'{"kind": "Status"}', b'{"type": "ERROR", "object": "gone"}', b"[" * 100_000],
)
def test_what_is_no_event_ends_the_watch(line: bytes) -> None:
    stream = EventStream([line], "/apis/x")

    with pytest.raises(TargetUnavailable, match="no event"):
        list(stream)
