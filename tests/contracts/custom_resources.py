"""Objects against the schemas that operators publish, more strictly than an API server would be.

An API server prunes unknown fields silently on POST; here they are faults, and so are missing ones, wrong types, values
outside an enum, a range or a pattern, and doubles in lists that are maps or sets. Rules in CEL and in webhooks are not
evaluated: what we know of them is checked where the objects are rendered. The schemas are read from SHIPWAY_CRD_DIR, or
from `shared/crds` beside the checkout; the project holds no copy.
"""

import os
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.repo.reference import ROOT

FILES = {
    ("ray.io/v1", "RayService"): "kuberay/ray.io_rayservices",
    ("serving.kserve.io/v1beta1", "InferenceService"): (
        "kserve/serving.kserve.io_inferenceservices"
    ),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): (
        "gateway-api/gateway.networking.k8s.io_httproutes"
    ),
    ("monitoring.coreos.com/v1", "PrometheusRule"): "prometheus-operator/prometheusrules",
    ("monitoring.coreos.com/v1", "PodMonitor"): "prometheus-operator/podmonitors",
}
_TYPES = {
    "object": Mapping,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
}
_LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_METADATA = {"name", "namespace", "labels", "annotations"}


def schema_folder() -> Path:
    """Where the schemas are; skips the test where there are none, which is a failure in CI."""
    folder = Path(os.environ.get("SHIPWAY_CRD_DIR") or ROOT.parent / "shared" / "crds")
    if not folder.is_dir():
        pytest.skip(f"there are no schemas in {folder}; SHIPWAY_CRD_DIR names another folder")
    return folder


def object_faults(document: Mapping[str, Any]) -> list[str]:
    """What an operator's schema finds wrong with the whole object, each fault with its place."""
    kind = (document["apiVersion"], document["kind"])
    schema = _schema(schema_folder() / f"{FILES[kind]}.yaml", kind[0].rpartition("/")[2])
    return [*_metadata_faults(document["metadata"]), *faults(document, schema)]


@cache
def _schema(file: Path, version: str) -> Mapping[str, Any]:
    definition = yaml.load(file.read_text(), yaml.CSafeLoader)
    served = {one["name"]: one for one in definition["spec"]["versions"] if one["served"]}
    schema: Mapping[str, Any] = served[version]["schema"]["openAPIV3Schema"]
    # An object's metadata is declared as any object; `_metadata_faults` looks into it.
    return {**schema, "properties": {**schema["properties"], "metadata": _OPEN}}


_OPEN: Mapping[str, Any] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


def _metadata_faults(metadata: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"metadata.{key} is unknown" for key in metadata.keys() - _METADATA)
    for key, value in metadata.get("labels", {}).items():
        if not isinstance(value, str) or not _LABEL.fullmatch(value):
            yield f"metadata.labels.{key} is {value!r}, which is no label's value"
    for key, value in metadata.get("annotations", {}).items():
        if not isinstance(value, str):
            yield f"metadata.annotations.{key} is {value!r}, not a string"


def faults(value: Any, schema: Mapping[str, Any], place: str = "") -> Iterator[str]:
    """What a structural schema finds wrong with `value`."""
    name = place or "the object"
    if value is None:
        if not schema.get("nullable"):
            yield f"{name} is null"
        return
    if schema.get("x-kubernetes-int-or-string"):
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            yield f"{name} is {value!r}, neither a number nor a string"
            return
    elif not _is_a(value, schema.get("type")):
        yield f"{name} is {value!r}, not of type {schema.get('type')}"
        return
    yield from _value_faults(value, schema, name)
    if isinstance(value, Mapping):
        yield from _object_faults(value, schema, place)
    elif isinstance(value, list):
        yield from _list_faults(value, schema, place)


def _is_a(value: Any, kind: str | None) -> bool:
    if kind is None:
        return True
    return isinstance(value, _TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))


def _value_faults(value: Any, schema: Mapping[str, Any], name: str) -> Iterator[str]:
    if "enum" in schema and value not in schema["enum"]:
        yield f"{name} is {value!r}, not one of {schema['enum']}"
    if isinstance(value, str):
        if "pattern" in schema and not re.search(schema["pattern"], value):
            yield f"{name} is {value!r}, which does not match {schema['pattern']}"
        size = len(value)
        limits = (schema.get("minLength", 0), schema.get("maxLength", size))
    elif isinstance(value, (list, Mapping)):
        size = len(value)
        kind = "Items" if isinstance(value, list) else "Properties"
        limits = (schema.get(f"min{kind}", 0), schema.get(f"max{kind}", size))
    else:
        size = value
        limits = (schema.get("minimum", size), schema.get("maximum", size))
    if not limits[0] <= size <= limits[1]:
        yield f"{name} is {value!r}, outside {limits[0]} to {limits[1]}"


def _object_faults(
    value: Mapping[str, Any], schema: Mapping[str, Any], place: str
) -> Iterator[str]:
    known = dict(schema.get("properties", {}))
    if schema.get("x-kubernetes-embedded-resource"):
        text = {"type": "string"}
        known = {"apiVersion": text, "kind": text, "metadata": _OPEN, **known}
    others = schema.get("additionalProperties")
    for key in schema.get("required", ()):
        if key not in value:
            yield f"{place or 'the object'} lacks {key}"
    for key, one in value.items():
        inner = f"{place}.{key}".lstrip(".")
        if key in known:
            yield from faults(one, known[key], inner)
        elif isinstance(others, Mapping):
            yield from faults(one, others, inner)
        elif not others and not schema.get("x-kubernetes-preserve-unknown-fields"):
            yield f"{inner} is unknown"


def _list_faults(value: list[Any], schema: Mapping[str, Any], place: str) -> Iterator[str]:
    for index, one in enumerate(value):
        yield from faults(one, schema.get("items", {}), f"{place}.{index}")
    keys = schema.get("x-kubernetes-list-map-keys")
    match schema.get("x-kubernetes-list-type"):
        case "map":
            identities = [tuple(one.get(key) for key in keys) for one in value]
        case "set":
            identities = value
        case _:
            return
    for identity in identities:
        if identities.count(identity) > 1:
            yield f"{place} has {identity} twice"
