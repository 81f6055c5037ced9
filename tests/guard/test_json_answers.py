"""Whether an answer is the JSON that was asked for."""

import json
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


def twice(applicator: str, times: int) -> dict[str, Any]:
    """Definitions in a row, each of which refers to the next twice."""
    defined: dict[str, Any] = {
        str(n): {applicator: [{"$ref": f"#/$defs/{n + 1}"}] * 2} for n in range(times)
    }
    return {"$defs": {**defined, str(times): {"type": "object"}}, "$ref": "#/$defs/0"}


def around_itself(times: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(times):
        schema = {"allOf": [schema], "unevaluatedProperties": {"type": "number"}}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        twice("allOf", 60), twice("anyOf", 60), around_itself(40), {"$ref": "#"}, {"not": {"$ref": "#"}},
        {"items": {"$dynamicRef": "#a"}}, {"properties": {"a": {"$id": "b", "$ref": "#"}}}, {"$ref": "#/$defs/none"},
    ],
)  # fmt: skip
def test_a_schema_that_could_take_for_ever_is_refused_at_once(schema: dict[str, Any]) -> None:
    started = time.process_time()
    with pytest.raises(RequestInvalid, match="schema"):
        json_check(asked(schema))
    assert time.process_time() - started < 1


def test_an_answer_that_could_take_for_ever_does_not_hold() -> None:
    schema = {**twice("allOf", 14), "items": twice("allOf", 14)}
    schema = {"$defs": schema["$defs"], "items": {"$ref": "#/$defs/0"}}
    schema["$defs"]["14"] = {"type": "number"}
    check = check_of(asked(schema))
    assert check.holds("[1, 2, 3]")
    started = time.process_time()
    assert not check.holds(json.dumps([1] * 100_000))
    assert time.process_time() - started < 1


def test_answers_of_a_schema_that_refers_to_itself_are_held_against_it() -> None:
    kinds = {
        kind: {
            "type": "object",
            "properties": {"kind": {"const": kind}, "left": {"$ref": "#/$defs/any"}},
            "required": ["kind"],
        }
        for kind in ("sum", "product", "number")
    }
    either = {"anyOf": [{"$ref": f"#/$defs/{kind}"} for kind in kinds]}
    check = check_of(asked({"$defs": {**kinds, "any": either}, "$ref": "#/$defs/any"}))
    answer: dict[str, Any] = {"kind": "number"}
    for _ in range(7):
        answer = {"kind": "sum", "left": answer}
    assert check.holds(json.dumps(answer))
    answer["left"]["kind"] = "quotient"
    assert not check.holds(json.dumps(answer))


def test_a_pattern_in_a_schema_cannot_hold_up_the_guard() -> None:
    check = check_of(asked({"type": "object", "properties": {"a": {"pattern": "^(a+)+$"}}}))
    started = time.thread_time()
    assert not check.holds('{"a": "' + "a" * 50_000 + '!"}')
    assert time.thread_time() - started < 1
