"""Who is let in, and which key files are believed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy_targets.guard.access_control import parse_keys
from deploy_targets.guard.errors import KeyFileInvalid, KeyRefused
from tests.guard.stub import keys_json

RING = parse_keys(keys_json(anna="sk-a", ben="sk-b"))


def test_each_key_names_its_caller() -> None:
    assert [RING.admit(f"Bearer {key}", endpoint="chat").name for key in ("sk-a", "sk-b")] == [
        "anna",
        "ben",
    ]
    assert RING.admit("bearer  sk-b ", endpoint="chat").name == "ben"


@given(st.none() | st.text().map("Bearer {}".format) | st.text())
def test_nothing_else_is_let_in(authorization: str | None) -> None:
    """Any text at all gets a refusal and no other exception, and the refusal does not repeat it."""
    with pytest.raises(KeyRefused):
        RING.admit(authorization, endpoint="chat")


def test_an_empty_ring_lets_nobody_in() -> None:
    with pytest.raises(KeyRefused):
        parse_keys('{"keys": []}').admit("Bearer ", endpoint="chat")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"keys": [{"name": "a", "sha256": "short"}]}',
        '{"keys": [{"name": "", "sha256": "' + 64 * "a" + '"}]}',
        '{"keys": [{"name": "a", "sha256": "' + 64 * "A" + '"}]}',
        '{"keys": [], "key": []}',
    ],
)
def test_a_file_in_another_form_is_refused(text: str) -> None:
    with pytest.raises(KeyFileInvalid):
        parse_keys(text)


def test_a_key_in_clear_is_not_repeated_in_the_message() -> None:
    text = json.dumps({"keys": [{"name": "a", "sha256": "sk-shipway-secret"}]})
    with pytest.raises(KeyFileInvalid) as invalid:
        parse_keys(text)
    assert "secret" not in str(invalid.value)
