"""Which fields of an object belong to whom, as `metadata.managedFields` says it. Pure.

A field is a path of steps in the notation of FieldsV1: `f:spec`, `k:{"name":"a"}` for an item of a list that is a map,
`v:"a"` for one of a set. What is atomic is one field, whatever is inside. How ownership changes: `apply`.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.kubernetes_api.schema import ANYTHING, Schema, item_key, schema_of

Path = tuple[str, ...]
FieldSet = frozenset[Path]

_SERVERS_OWN = {
    ("f:apiVersion",),
    ("f:kind",),
    *(
        ("f:metadata", f"f:{key}")
        for key in (
            "creationTimestamp",
            "deletionGracePeriodSeconds",
            "deletionTimestamp",
            "generateName",
            "generation",
            "managedFields",
            "name",
            "namespace",
            "resourceVersion",
            "selfLink",
            "uid",
        )
    ),
}
_ITEM = object()
"""Stands for an item's being there, whatever is in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manager:
    """Who writes: one entry of managedFields."""

    name: str
    operation: str
    api_version: str
    subresource: str = ""


Managers = Mapping[Manager, FieldSet]


def fields_of(value: Any, schema: Schema) -> Mapping[Path, Any]:
    """Every field that the object sets, with its value; not those that only the server writes."""
    found: dict[Path, Any] = {}
    _collect(value, schema, (), found)
    return {
        path: one
        for path, one in found.items()
        if path[:2] not in _SERVERS_OWN and path[:1] not in _SERVERS_OWN
    }


def _collect(value: Any, schema: Schema, path: Path, found: dict[Path, Any]) -> None:
    if isinstance(value, Mapping) and value and not is_atomic(value, schema):
        for key, one in value.items():
            _collect(one, schema_of(key, schema) or ANYTHING, (*path, f"f:{key}"), found)
    elif isinstance(value, list) and value and not is_atomic(value, schema):
        for item in value:
            place = (*path, step_of(item, schema))
            found[place] = _ITEM
            if schema["x-kubernetes-list-type"] == "map":
                for key, one in item.items():
                    inner = schema_of(key, schema["items"]) or ANYTHING
                    _collect(one, inner, (*place, f"f:{key}"), found)
    else:
        found[path] = value


def is_atomic(value: Any, schema: Schema) -> bool:
    """Whether the value is owned as a whole: scalars, atomic maps, and lists that are neither map nor set."""
    if isinstance(value, Mapping):
        return schema.get("x-kubernetes-map-type") == "atomic"
    if isinstance(value, list):
        return schema.get("x-kubernetes-list-type", "atomic") == "atomic"
    return True


def step_of(item: Any, schema: Schema) -> str:
    """The step to an item of a list that is a map or a set."""
    if schema["x-kubernetes-list-type"] == "map":
        return f"k:{json.dumps(dict(item_key(item, schema)), separators=(',', ':'))}"
    return f"v:{json.dumps(item, separators=(',', ':'))}"


def shown_path(path: Path) -> str:
    """A path as a conflict names it: `.spec.ports[port=80,protocol="TCP"]`."""
    steps = []
    for step in path:
        kind, _, text = step.partition(":")
        match kind:
            case "f":
                steps.append(f".{text}")
            case "k":
                keys = ",".join(f"{key}={json.dumps(one)}" for key, one in json.loads(text).items())
                steps.append(f"[{keys}]")
            case _:
                steps.append(f"[={text}]")
    return "".join(steps)


def encoded(fields: FieldSet) -> dict[str, Any]:
    """Fields as FieldsV1 writes them."""
    tree: dict[str, Any] = {}
    for path in sorted(fields):
        node = tree
        for step in path:
            node = node.setdefault(step, {})
        if path[-1][:2] in ("k:", "v:"):
            node["."] = {}
    return tree


def decoded(tree: Mapping[str, Any], path: Path = ()) -> FieldSet:
    """Fields from FieldsV1."""
    found: set[Path] = set()
    for step, inner in tree.items():
        if step == ".":
            found.add(path)
        elif inner:
            found |= decoded(inner, (*path, step))
        else:
            found.add((*path, step))
    return frozenset(found)


def read_managers(body: Mapping[str, Any]) -> Managers:
    """Who owns what of a stored object."""
    return {
        _manager(entry): decoded(entry["fieldsV1"])
        for entry in body["metadata"].get("managedFields", ())
    }


def _manager(entry: Mapping[str, Any]) -> Manager:
    return Manager(
        name=entry["manager"],
        operation=entry["operation"],
        api_version=entry["apiVersion"],
        subresource=entry.get("subresource", ""),
    )


def written_since(body: Mapping[str, Any], manager: Manager) -> str | None:
    """When the manager last changed what it owns of the object."""
    entries: Iterable[Mapping[str, Any]] = body["metadata"].get("managedFields", ())
    return next((entry["time"] for entry in entries if _manager(entry) == manager), None)


def written_managers(
    managers: Managers, before: Mapping[str, Any] | None, now: str
) -> list[dict[str, Any]]:
    """The entries of managedFields; an entry that says what it said keeps its time."""
    known = {} if before is None else read_managers(before)
    entries = []
    for manager, fields in managers.items():
        since = now
        if before is not None and known.get(manager) == fields:
            since = written_since(before, manager) or now
        entry = {
            "manager": manager.name,
            "operation": manager.operation,
            "apiVersion": manager.api_version,
            "time": since,
            "fieldsType": "FieldsV1",
            "fieldsV1": encoded(fields),
        }
        entries.append(
            {**entry, **({"subresource": manager.subresource} if manager.subresource else {})}
        )
    return entries
