"""How much work it may be to hold an answer against a JSON schema, found out before anybody begins. Pure.

Schemas come from clients, and a few lines can mean billions of steps: definitions that refer to others twice each, thirty
of them in a row, or `unevaluatedProperties` around itself. The library cannot be stopped, and the guard has one thread for
all its clients. Counted is how many subschemas may look at a place of an answer and at those that it lies in, at the most:
what is referred to counts each time, alternatives count all, properties of different names count by the heaviest.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import unquote

MAX_LOOKS = 20_000_000
"""Of all places of an answer together: two tenths of a second (measured: 2^20 in 11 ms). What programs write has thousands."""
MAX_DEPTH = 32
_HERE_LISTS = ("allOf", "anyOf", "oneOf")
_HERE = ("not", "if", "then", "else")
_HERE_BY_NAME = ("dependentSchemas", "dependencies")
_BELOW = (
    "additionalProperties", "unevaluatedProperties", "propertyNames",
    "items", "additionalItems", "unevaluatedItems", "contains",
)  # fmt: skip
_BELOW_LISTS = ("prefixItems", "items")
_ELSEWHERE = ("$dynamicRef", "$recursiveRef")
_UNEVALUATED_TIMES = 3
"""What is beside an `unevaluated…` is looked at anew for it: 2.5 times as much for each of 18 around another (measured)."""
_ENOUGH = 1 << 40


class Unmeasurable(ValueError):
    """A schema that refers to what cannot be followed here, or to itself at the same place."""


@dataclass(slots=True)
class _Part:
    """One subschema, and by their numbers those that it has look as well."""

    here: list[int] = field(default_factory=list[int])
    """At the same place."""
    named: list[int] = field(default_factory=list[int])
    """At places below, each at one of its own."""
    below: list[int] = field(default_factory=list[int])
    """At any place below."""
    times: int = 1
    """How often those `here` do."""


def count_looks(schema: dict[str, Any]) -> tuple[int, ...]:
    """How many subschemas may look at a place and at those that it lies in, by how deep it lies: at the top, below it, ...

    Places deeper than the last have no more.

    Raises:
        Unmeasurable: that cannot be said.
    """
    parts = _parts(schema)
    order = _order(parts)
    counted: list[int] = []
    before = [0] * len(parts)
    for _ in range(MAX_DEPTH + 1):
        looks = [0] * len(parts)
        for number in order:
            part = parts[number]
            here = part.times * sum(looks[one] for one in part.here)
            named = max((before[one] for one in part.named), default=0)
            below = named + sum(before[one] for one in part.below)
            looks[number] = min(1 + here + below, _ENOUGH)
        if looks == before:
            break
        counted.append(looks[0])
        if looks[0] > MAX_LOOKS:
            break
        before = looks
    return tuple(counted)


def is_too_much(document: object, looks: Sequence[int]) -> bool:
    """Whether a JSON value is nested too deep, or may be looked at too often."""
    depth, values, level = -1, 0, [document]
    while level:
        depth, values = depth + 1, values + len(level)
        if depth > MAX_DEPTH:
            return True
        level = [inner for value in level for inner in _inner(value)]
    return values * looks[min(depth, len(looks) - 1)] > MAX_LOOKS


def _inner(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        yield from cast("dict[str, object]", value).values()
    elif isinstance(value, list):
        yield from cast("list[object]", value)


def _parts(root: dict[str, Any]) -> list[_Part]:
    """Every subschema that the root has look, itself first."""
    numbers = {id(root): 0}
    parts, schemas = [_Part()], [root]

    def numbered(candidates: Iterator[Any]) -> list[int]:
        found: list[int] = []
        for one in candidates:
            # True and False look at nothing.
            if isinstance(one, dict):
                schema = cast("dict[str, Any]", one)
                if id(schema) not in numbers:
                    numbers[id(schema)] = len(parts)
                    parts.append(_Part())
                    schemas.append(schema)
                found.append(numbers[id(schema)])
        return found

    for number, schema in enumerate(schemas):  # which grows meanwhile
        if any(name in schema for name in _ELSEWHERE) or (number and "$id" in schema):
            raise Unmeasurable
        part = parts[number]
        part.here = numbered(_here(schema, root))
        part.named = numbered(_values(schema.get("properties")))
        part.below = numbered(_below(schema))
        if "unevaluatedProperties" in schema or "unevaluatedItems" in schema:
            part.times = _UNEVALUATED_TIMES
    return parts


def _here(schema: dict[str, Any], root: dict[str, Any]) -> Iterator[Any]:
    if "$ref" in schema:
        yield _target(schema["$ref"], root)
    yield from (schema[name] for name in _HERE if name in schema)
    for name in _HERE_LISTS:
        yield from _listed(schema.get(name))
    for name in _HERE_BY_NAME:
        yield from _values(schema.get(name))


def _below(schema: dict[str, Any]) -> Iterator[Any]:
    yield from (schema[name] for name in _BELOW if name in schema)
    for name in _BELOW_LISTS:
        yield from _listed(schema.get(name))
    yield from _values(schema.get("patternProperties"))


def _listed(value: Any) -> Iterator[Any]:
    yield from cast("list[Any]", value) if isinstance(value, list) else ()


def _values(value: Any) -> Iterator[Any]:
    yield from cast("dict[str, Any]", value).values() if isinstance(value, dict) else ()


def _target(reference: Any, root: dict[str, Any]) -> Any:
    """What a reference within the schema leads to."""
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        raise Unmeasurable
    found: Any = root
    for step in unquote(reference).split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        try:
            is_list = isinstance(cast("object", found), list)
            found = found[int(name) if is_list else name]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise Unmeasurable from error
    return found


def _order(parts: list[_Part]) -> list[int]:
    """The parts, each after those that it has look at its own place."""
    order: list[int] = []
    waiting = [len(part.here) for part in parts]
    askers: list[list[int]] = [[] for _ in parts]
    for number, part in enumerate(parts):
        for one in part.here:
            askers[one].append(number)
    ready = [number for number, count in enumerate(waiting) if count == 0]
    while ready:
        number = ready.pop()
        order.append(number)
        for one in askers[number]:
            waiting[one] -= 1
            if waiting[one] == 0:
                ready.append(one)
    if len(order) < len(parts):
        raise Unmeasurable
    return order
