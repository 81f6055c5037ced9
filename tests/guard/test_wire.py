"""What is accepted as a chat request, and how a refusal reads."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy_targets.guard.errors import RequestInvalid
from deploy_targets.guard.wire import Asked, parse_chat
from tests.guard.stub import a_chat

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
FIELDS = (
    "model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "n", "stop", "stream",
    "stream_options",
)  # fmt: skip


def parse(document: object) -> Asked:
    return parse_chat(json.dumps(document).encode())


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"temperature": 0, "top_p": 1},
        {"temperature": None, "max_tokens": None, "stream": None, "stop": None},
        {"max_completion_tokens": 5, "stop": ["a", "b"], "n": 1, "user": "u", "tools": []},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]},
        {
            "messages": [
                {"role": "system", "content": ""},
                {"role": "assistant", "content": "a", "name": "x"},
            ]
        },
        {"stream_options": {"include_usage": True, "new": 1}},
    ],
)
def test_what_clients_send_is_accepted(fields: dict[str, Any]) -> None:
    asked = parse(a_chat(**fields))

    assert (asked.model, asked.is_streamed) == ("chat", False)
    assert asked.document() == a_chat(**fields)


def test_a_stream_is_recognised() -> None:
    assert parse(a_chat(stream=True)).is_streamed


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "wizard", "content": "hi"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": []}]}, "messages.0.content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages.0.content",
        ),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": float("inf")}, "top_p"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": []}, "stream_options"),
    ],
)
def test_what_cannot_work_is_refused_with_its_place(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestInvalid) as refused:
        parse(a_chat(**fields))
    assert refused.value.param == param
    assert str(refused.value).startswith(f"{param}: ")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"model": "\\ud800"}'])
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(RequestInvalid):
        parse_chat(body)


def test_a_refusal_never_repeats_the_prompt() -> None:
    body = a_chat(messages=[{"role": "secret role", "content": {"secret": "content"}}])
    with pytest.raises(RequestInvalid) as refused:
        parse({**body, "temperature": "secret number"})
    assert "secret" not in str(refused.value)


@given(st.binary(max_size=200))
def test_any_bytes_are_parsed_or_refused(body: bytes) -> None:
    """No input gets another exception out of the parser: each would be a 500."""
    try:
        parse_chat(body)
    except RequestInvalid as refused:
        assert json.dumps(refused.envelope())  # noqa: PT017 - it may be parsed as well


@given(field=st.sampled_from(FIELDS), value=JSON)
def test_any_value_in_any_field_is_parsed_or_refused(field: str, value: Any) -> None:
    try:
        parsed = parse({**a_chat(), field: value})
    except RequestInvalid as refused:
        assert (refused.param or "").startswith(field)  # noqa: PT017 - it may be parsed as well
    else:
        assert isinstance(parsed, Asked)


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_fields_that_are_unknown_here_do_no_harm(extra: dict[str, Any]) -> None:
    unknown = {name: value for name, value in extra.items() if name not in FIELDS}
    asked = parse({**unknown, **a_chat()})
    assert replace(asked, body=b"") == replace(parse(a_chat()), body=b"")
