"""What a structural schema says about a value: defaults, unknown fields, and what is wrong. Pure.

A fault carries the field and the reason that an API server names in its Status. Rules in CEL stand in `cel`. What a
schema could say and this module does not know stops the first object that meets it; it is never ignored.
"""

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from tests.kubernetes_api import cel

Schema = Mapping[str, Any]

ANYTHING: Schema = {"x-kubernetes-preserve-unknown-fields": True}
"""Also what is inside a preserved field."""

_KNOWN = {
    "additionalProperties",
    "anyOf",
    "default",
    "description",
    "enum",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maximum",
    "minItems",
    "minLength",
    "minimum",
    "nullable",
    "pattern",
    "properties",
    "required",
    "type",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-map-type",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
}
_INT_OR_STRING = [{"type": "integer"}, {"type": "string"}]
_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, Mapping),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: (
        not isinstance(value, bool)
        and (isinstance(value, int) or (isinstance(value, float) and value.is_integer()))
    ),
    "number": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
}
_SECOND, _ZONE = r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}", r"([Zz]|[+-]\d{2}:\d{2})"
_FORMATS = {
    "date-time": re.compile(rf"{_SECOND}(\.\d+)?{_ZONE}", re.ASCII),
    "micro-time": re.compile(rf"{_SECOND}\.\d{{6}}{_ZONE}", re.ASCII),
}
"""Of texts. The second is that of a Lease's times, which are refused without six digits."""
_LIMITS = (
    ("minimum", "maximum", "be", lambda value: value, (int, float)),
    ("minLength", "maxLength", "have a length that is", len, str),
    ("minItems", "maxItems", "have a number of items that is", len, list),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that is wrong: a cause in a Status of 422."""

    field: str
    reason: str
    message: str


def _check_is_known(schema: Schema, place: str) -> None:
    unknown = schema.keys() - _KNOWN
    if unknown or schema.get("anyOf", _INT_OR_STRING) != _INT_OR_STRING:
        names = ", ".join(sorted(unknown or {"anyOf"}))
        raise NotImplementedError(f"the stand-in does not know {names} in the schema of {place}")


def schema_of(key: str, schema: Schema) -> Schema | None:
    """The schema of an object's field; None when it is unknown there."""
    if (inner := schema.get("properties", {}).get(key)) is not None:
        return inner
    others = schema.get("additionalProperties")
    if isinstance(others, Mapping):
        return others
    if others or schema.get("x-kubernetes-preserve-unknown-fields"):
        return ANYTHING
    return None


def joined(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key


def unknown_fields(value: Any, schema: Schema, place: str = "") -> Iterator[str]:
    """The places of the fields that the schema does not declare."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            inner = schema_of(key, schema)
            if inner is None:
                yield joined(place, key)
            else:
                yield from unknown_fields(one, inner, joined(place, key))
    elif isinstance(value, list):
        for index, one in enumerate(value):
            yield from unknown_fields(one, schema.get("items", ANYTHING), f"{place}[{index}]")


def pruned(value: Any, schema: Schema) -> Any:
    """A copy without unknown fields."""
    if isinstance(value, Mapping):
        known = ((key, one, schema_of(key, schema)) for key, one in value.items())
        return {key: pruned(one, inner) for key, one, inner in known if inner is not None}
    if isinstance(value, list):
        return [pruned(one, schema.get("items", ANYTHING)) for one in value]
    return value


def defaulted(value: Any, schema: Schema) -> Any:
    """A copy with the schema's defaults, and without nulls where null is no value."""
    if isinstance(value, Mapping):
        found: dict[str, Any] = {}
        for key, one in value.items():
            inner = schema_of(key, schema) or ANYTHING
            if one is not None or inner.get("nullable") or inner is ANYTHING:
                found[key] = defaulted(one, inner)
        for key, inner in schema.get("properties", {}).items():
            if "default" in inner and key not in found:
                found[key] = defaulted(copy.deepcopy(inner["default"]), inner)
        return found
    if isinstance(value, list):
        return [defaulted(one, schema.get("items", ANYTHING)) for one in value]
    return value


def faults(value: Any, schema: Schema, place: str = "", *, old: Any = None) -> Iterator[Fault]:
    """What is wrong with a value that was pruned and defaulted.

    `old` is what stood there before an update, for rules that compare; None where that cannot be said.

    Raises:
        NotImplementedError: the schema says something here, or has a rule in CEL, that is not known to us.
    """
    _check_is_known(schema, place)
    if value is None and (schema.get("nullable") or "type" not in schema):
        return
    if wrong := type_fault(value, schema, place):
        yield wrong
        return
    yield from _value_faults(value, schema, place)
    inside: list[Fault] = []
    if isinstance(value, Mapping):
        inside.extend(_object_faults(value, schema, place, old))
    elif isinstance(value, list):
        items = schema.get("items", ANYTHING)
        for index, one in enumerate(value):
            inside.extend(faults(one, items, f"{place}[{index}]"))
        inside.extend(duplicate_faults(value, schema, place))
    yield from inside
    if inside:  # rules may presume what the schema says
        return
    for rule in schema.get("x-kubernetes-validations", ()):
        if not cel.holds(rule["rule"], value, old):
            said = rule.get("message", f"failed rule: {rule['rule']}")
            yield Fault(field=place, reason="FieldValueInvalid", message=f"Invalid value: {said}")


def type_fault(value: Any, schema: Schema, place: str) -> Fault | None:
    """The fault of a value of the wrong type."""
    if schema.get("x-kubernetes-int-or-string"):
        wanted, right = "integer or string", _TYPES["integer"](value) or isinstance(value, str)
    else:
        wanted = schema.get("type", "")
        right = not wanted or _TYPES[wanted](value)
    if right:
        return None
    message = f"Invalid value: {shown(value)}: {place} in body must be of type {wanted}"
    return Fault(field=place, reason="FieldValueTypeInvalid", message=message)


def shown(value: Any) -> str:
    """A value as a message names it."""
    if isinstance(value, Mapping):
        return '"object"'
    if isinstance(value, list):
        return '"array"'
    return f'"{value}"' if isinstance(value, str) else str(value).lower()


def _value_faults(value: Any, schema: Schema, place: str) -> Iterator[Fault]:
    if "enum" in schema and value not in schema["enum"]:
        choices = ", ".join(f'"{one}"' for one in schema["enum"])
        yield Fault(
            field=place,
            reason="FieldValueNotSupported",
            message=f"Unsupported value: {shown(value)}: supported values: {choices}",
        )

    def invalid(what: str) -> Fault:
        message = f"Invalid value: {shown(value)}: {place} in body should {what}"
        return Fault(field=place, reason="FieldValueInvalid", message=message)

    for least, most, verb, measure, kind in _LIMITS:
        if not isinstance(value, kind) or isinstance(value, bool):
            continue
        if least in schema and measure(value) < schema[least]:
            yield invalid(f"{verb} greater than or equal to {schema[least]}")
        if most in schema and measure(value) > schema[most]:
            yield invalid(f"{verb} less than or equal to {schema[most]}")
    if isinstance(value, str):
        if "pattern" in schema and not _pattern(schema["pattern"]).search(value):
            yield invalid(f"match '{schema['pattern']}'")
        kind = schema.get("format", "")
        if kind in _FORMATS and not _FORMATS[kind].fullmatch(value):
            message = f"Invalid value: {shown(value)}: {place} in body must be of type {kind}"
            yield Fault(field=place, reason="FieldValueTypeInvalid", message=message)


@cache
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text)


def _object_faults(
    value: Mapping[str, Any], schema: Schema, place: str, old: Any
) -> Iterator[Fault]:
    for key in schema.get("required", ()):
        if key not in value:
            field = joined(place, key)
            yield Fault(field=field, reason="FieldValueRequired", message="Required value")
    for key, one in value.items():
        inner = schema_of(key, schema)
        if inner is not None:
            before = old.get(key) if isinstance(old, Mapping) else None
            yield from faults(one, inner, joined(place, key), old=before)


def item_key(item: Any, schema: Schema) -> tuple[tuple[str, Any], ...]:
    """What tells an item of a list that is a map from the others; a key's default stands in for a missing one."""
    known = schema.get("items", {}).get("properties", {})
    keys = sorted(schema["x-kubernetes-list-map-keys"])
    return tuple((key, item.get(key, known.get(key, {}).get("default"))) for key in keys)


def duplicate_faults(value: list[Any], schema: Schema, place: str) -> Iterator[Fault]:
    """Doubles in a list that is a map or a set."""
    match schema.get("x-kubernetes-list-type"):
        case "map":
            identities = [item_key(one, schema) for one in value if isinstance(one, Mapping)]
        case "set":
            identities = value
        case _:
            return
    for index, identity in enumerate(identities):
        if identity in identities[:index]:
            named = dict(identity) if isinstance(identity, tuple) else identity
            yield Fault(
                field=f"{place}[{index}]",
                reason="FieldValueDuplicate",
                message=f"Duplicate value: {named}",
            )
