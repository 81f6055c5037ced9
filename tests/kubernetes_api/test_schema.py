"""A structural schema's defaults, pruning and faults, on plain values."""

from typing import Any

import pytest

from tests.kubernetes_api.schema import defaulted, faults, pruned, unknown_fields

SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": {"type": "string", "minLength": 2, "maxLength": 4, "pattern": "^[a-z]+$"},
        "weight": {"type": "integer", "minimum": 0, "maximum": 100, "default": 1},
        "share": {"type": "number"},
        "kind": {"type": "string", "enum": ["A", "B"]},
        "since": {"type": "string", "format": "date-time"},
        "port": {"x-kubernetes-int-or-string": True},
        "is_on": {"type": "boolean"},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "anything": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "maybe": {"type": "string", "nullable": True},
        "tags": {
            "type": "array",
            "maxItems": 2,
            "x-kubernetes-list-type": "set",
            "items": {"type": "string"},
        },
        "options": {
            "type": "object",
            "default": {},
            "properties": {"mode": {"type": "string", "default": "auto"}},
        },
        "items": {
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["id"],
            "items": {
                "type": "object",
                "required": ["id"],
                "properties": {"id": {"type": "string"}, "size": {"type": "integer", "default": 3}},
            },
        },
    },
}


def found(**values: Any) -> list[tuple[str, str]]:
    given = {"name": "abc", **values}
    return [(one.field, one.reason) for one in faults(given, SCHEMA)]


@pytest.mark.parametrize(
    ("values", "field", "reason"),
    [
        ({"name": "a"}, "name", "FieldValueInvalid"),
        ({"name": "abcde"}, "name", "FieldValueInvalid"),
        ({"name": "A1"}, "name", "FieldValueInvalid"),
        ({"name": 1}, "name", "FieldValueTypeInvalid"),
        ({"weight": -1}, "weight", "FieldValueInvalid"),
        ({"weight": 101}, "weight", "FieldValueInvalid"),
        ({"weight": 1.5}, "weight", "FieldValueTypeInvalid"),
        ({"weight": True}, "weight", "FieldValueTypeInvalid"),
        ({"share": "a"}, "share", "FieldValueTypeInvalid"),
        ({"kind": "C"}, "kind", "FieldValueNotSupported"),
        ({"since": "yesterday"}, "since", "FieldValueTypeInvalid"),
        ({"port": 1.5}, "port", "FieldValueTypeInvalid"),
        ({"is_on": "true"}, "is_on", "FieldValueTypeInvalid"),
        ({"labels": {"a": 1}}, "labels.a", "FieldValueTypeInvalid"),
        ({"tags": ["a", "b", "c"]}, "tags", "FieldValueInvalid"),
        ({"tags": ["a", "a"]}, "tags[1]", "FieldValueDuplicate"),
        ({"items": [{"id": "a"}, {"id": "a"}]}, "items[1]", "FieldValueDuplicate"),
        ({"items": [{}]}, "items[0].id", "FieldValueRequired"),
    ],
)
def test_a_fault_names_its_field_and_its_reason(values, field, reason):
    assert found(**values) == [(field, reason)]


@pytest.mark.parametrize(
    "values",
    [
        {"weight": 3.0},
        {"share": 0.5},
        {"since": "2026-11-25T07:00:00Z"},
        {"since": "2026-11-25T07:00:00.5+01:00"},
        {"port": 80},
        {"port": "http"},
        {"maybe": None},
        {"anything": {"a": [1, {"b": None}]}},
        {"items": [{"id": "a"}, {"id": "b"}]},
    ],
)
def test_what_is_right_has_no_fault(values):
    assert found(**values) == []


def test_a_missing_field_is_a_fault():
    assert [one.field for one in faults({}, SCHEMA)] == ["name"]


def test_defaults_are_filled_in_at_every_depth():
    given = {"name": "abc", "items": [{"id": "a"}]}

    assert defaulted(given, SCHEMA) == {
        "name": "abc",
        "weight": 1,
        "options": {"mode": "auto"},
        "items": [{"id": "a", "size": 3}],
    }


def test_a_null_is_no_value_unless_it_may_be():
    given = {"name": "abc", "weight": None, "kind": None, "maybe": None}

    assert defaulted(given, SCHEMA) == {
        "name": "abc",
        "weight": 1,
        "maybe": None,
        "options": {"mode": "auto"},
    }


def test_unknown_fields_are_named_and_pruned():
    given = {"name": "a", "x": 1, "items": [{"id": "a", "y": 2}], "anything": {"z": {"w": 1}}}

    assert list(unknown_fields(given, SCHEMA)) == ["x", "items[0].y"]
    assert pruned(given, SCHEMA) == {
        "name": "a",
        "items": [{"id": "a"}],
        "anything": {"z": {"w": 1}},
    }


@pytest.mark.parametrize("word", ["oneOf", "x-kubernetes-embedded-resource", "exclusiveMinimum"])
def test_what_a_schema_says_and_nobody_knows_is_never_passed_by(word):
    with pytest.raises(NotImplementedError, match=word):
        list(faults("a", {"type": "string", word: [{}]}))
