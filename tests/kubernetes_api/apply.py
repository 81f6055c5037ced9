"""Server-side apply: what an object becomes, who owns it then, and who is in the way. Pure.

The rules are those of Kubernetes' structured merge: a field that changes belongs to whoever changes it; an apply that
would change a field of somebody else is a conflict unless forced; what a manager no longer applies, and nobody else owns,
goes away. Defaults are not filled in before fields are compared, as in Kubernetes: an atomic list that was defaulted
conflicts with the same list written without its defaults.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.kubernetes_api.ownership import (
    FieldSet,
    Manager,
    Managers,
    Path,
    encoded,
    fields_of,
    is_atomic,
    read_managers,
    step_of,
)
from tests.kubernetes_api.schema import (
    ANYTHING,
    Schema,
    duplicate_faults,
    joined,
    schema_of,
    type_fault,
    unknown_fields,
)

Body = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What an object is after an apply, not yet defaulted or validated."""

    body: Body
    managers: Managers


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """Fields that the apply would change and that are somebody else's."""

    manager: Manager
    paths: tuple[Path, ...]


def apply(
    live: Body, config: Body, schema: Schema, *, manager: Manager, force: bool
) -> Applied | tuple[Conflict, ...]:
    """What `live` becomes when `manager` applies `config`; `live` without a spec for an object that is new."""
    before = read_managers(live)
    own = fields_of(config, schema)
    managers = {**before, manager: frozenset(own)}
    merged = merge(live, config, schema)
    kept = frozenset().union(*managers.values())
    gone = before.get(manager, frozenset()) - kept
    body = without(merged, gone, kept, schema) if gone else merged
    changed, removed = changes(live, body, schema)
    conflicts = tuple(
        Conflict(manager=other, paths=tuple(sorted(fields & changed)))
        for other, fields in before.items()
        if other != manager and fields & changed
    )
    if conflicts and not force:
        return conflicts
    return Applied(body=body, managers=_left(managers, manager, changed | removed))


def updated_managers(
    live: Body | None, body: Body, schema: Schema, *, manager: Manager
) -> Managers:
    """Who owns what after a write that is no apply: whoever changes a field takes it."""
    before = {} if live is None else read_managers(live)
    changed, removed = changes(live or {}, body, schema)
    own = (before.get(manager, frozenset()) - removed) | changed
    return _left({**before, manager: own}, manager, changed | removed)


def changes(old: Body, new: Body, schema: Schema) -> tuple[FieldSet, FieldSet]:
    """The fields that are new or different, and those that are gone."""
    before, after = fields_of(old, schema), fields_of(new, schema)
    changed = {path for path, one in after.items() if path not in before or before[path] != one}
    return frozenset(changed), frozenset(before.keys() - after.keys())


def _left(managers: Managers, manager: Manager, taken: FieldSet) -> Managers:
    """Everyone's fields once those that `manager` took or that are gone are no longer the others'."""
    left = {one: fields if one == manager else fields - taken for one, fields in managers.items()}
    return {one: fields for one, fields in left.items() if fields}


def merge(live: Any, config: Any, schema: Schema) -> Any:
    """`live` with what `config` says; what `config` does not name stays."""
    if isinstance(config, Mapping):
        if not isinstance(live, Mapping) or is_atomic(config, schema):
            return config
        named = {
            key: merge(live.get(key), one, schema_of(key, schema) or ANYTHING)
            for key, one in config.items()
        }
        return {**live, **named}
    if isinstance(config, list) and isinstance(live, list) and not is_atomic(config, schema):
        return _merged_items(live, config, schema)
    return config


def _merged_items(live: list[Any], config: list[Any], schema: Schema) -> list[Any]:
    """In the order of `config`; items of `live` alone stay behind the one that they followed."""
    standing = {step_of(one, schema): one for one in live}
    named = {step_of(one, schema): one for one in config}
    items = []
    waiting = list(standing)
    for step, one in named.items():
        items.append(merge(standing[step], one, schema["items"]) if step in standing else one)
        if step in waiting:
            position = waiting.index(step)
            before = [standing[other] for other in waiting[:position] if other not in named]
            items[-1:-1] = before
            waiting = waiting[position + 1 :]
    return [*items, *(standing[step] for step in waiting if step not in named)]


def without(value: Any, gone: FieldSet, kept: FieldSet, schema: Schema) -> Any:
    """`value` without the fields of `gone`; an item stays while somebody owns a field of it."""
    still = {path[:length] for path in kept for length in range(1, len(path) + 1)}
    left = frozenset(path for path in gone if path not in still)
    return _without(value, encoded(left), schema, (), kept)


def _without(
    value: Any, tree: Mapping[str, Any], schema: Schema, path: Path, kept: FieldSet
) -> Any:
    if isinstance(value, Mapping):
        left = {}
        for key, one in value.items():
            inner, place = tree.get(f"f:{key}"), (*path, f"f:{key}")
            if inner is None:
                left[key] = one
            elif inner and isinstance(one, (Mapping, list)):
                below = schema_of(key, schema) or ANYTHING
                rest = _without(one, inner, below, place, kept)
                if rest or place in kept:
                    left[key] = rest
        return left
    items = []
    for item in value:
        step = step_of(item, schema)
        inner = tree.get(step)
        if inner is None:
            items.append(item)
        elif "." not in inner:
            items.append(_without(item, inner, schema["items"], (*path, step), kept))
    return items


def typed_faults(value: Any, schema: Schema, place: str = "") -> list[str]:
    """Why a patch cannot be applied at all, which is an answer of 500: before any validation."""
    undeclared = [
        f".{path}: field not declared in schema" for path in unknown_fields(value, schema, place)
    ]
    return undeclared + _type_faults(value, schema, place)


def _type_faults(value: Any, schema: Schema, place: str) -> list[str]:
    if value is None:
        return []
    if type_fault(value, schema, place):
        wanted = schema.get("type", "number or string")
        return [f".{place}: expected {wanted}, got {type(value).__name__}"]
    found: list[str] = []
    if isinstance(value, Mapping):
        for key, one in value.items():
            if (inner := schema_of(key, schema)) is not None:
                found += _type_faults(one, inner, joined(place, key))
    elif isinstance(value, list):
        items = schema.get("items", ANYTHING)
        for index, one in enumerate(value):
            inner = f"{place}[{index}]"
            found += [f".{inner}: got null"] if one is None else _type_faults(one, items, inner)
        if not found:
            found += [
                f".{fault.field}: duplicate entries for key"
                for fault in duplicate_faults(value, schema, place)
            ]
    return found
