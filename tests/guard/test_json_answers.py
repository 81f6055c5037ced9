"""Whether an answer is the JSON that was asked for."""

import time
from typing import Any

import pytest

from deploy_targets.guard.errors import RequestInvalid
from deploy_targets.guard.json_answers import JsonCheck, json_check

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


def asked(schema: object) -> dict[str, Any]:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    return {"response_format": form}


def check_of(document: dict[str, Any]) -> JsonCheck:
    check = json_check(document)
    assert check is not None
    return check


@pytest.mark.parametrize("form", [None, {"type": "text"}])
def test_text_is_not_checked(form: object) -> None:
    assert json_check({"response_format": form}) is None
    assert json_check({}) is None


@pytest.mark.parametrize(
    ("answer", "holds"), [("{}", True), (' {"a": [1]}\n', True), ("[]", False), ("{", False), ("Sure! {}", False), ("", False)]
)  # fmt: skip
def test_a_json_object_is_one_and_nothing_else(answer: str, *, holds: bool) -> None:
    assert check_of({"response_format": {"type": "json_object"}}).holds(answer) is holds


@pytest.mark.parametrize(
    ("answer", "holds"), [('{"a": 1}', True), ('{"a": "1"}', False), ("{}", False), ('{"a": 1} ok', False), ("[" * 5000, False)]
)  # fmt: skip
def test_an_answer_is_held_against_the_schema(answer: str, *, holds: bool) -> None:
    assert check_of(asked(SCHEMA)).holds(answer) is holds


@pytest.mark.parametrize(
    "document",
    [
        {"response_format": "json"},
        {"response_format": {"type": "xml"}},
        {"response_format": {"type": "json_schema"}},
        asked("no object"),
        asked({"type": "no such type"}),
        asked({"$ref": "http://127.0.0.1:9/schema.json"}),
        asked({"$ref": "file:///etc/passwd"}),
        asked({"pattern": "("}),
        asked({"description": "x" * 70_000}),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(RequestInvalid) as refused:
        json_check(document)
    assert refused.value.param == "response_format"


def test_a_pattern_in_a_schema_cannot_hold_up_the_guard() -> None:
    check = check_of(asked({"type": "object", "properties": {"a": {"pattern": "^(a+)+$"}}}))
    started = time.thread_time()
    assert not check.holds('{"a": "' + "a" * 50_000 + '!"}')
    assert time.thread_time() - started < 1
