"""Objects against the schemas that operators publish, more strictly than an API server would be.

An API server prunes unknown fields silently on POST and drops nulls; here both are faults, beside all that it refuses, its
rules in CEL included (`tests.kubernetes_api.schema`). What only webhooks refuse is checked where objects are rendered. The
schemas are read from SHIPWAY_CRD_DIR, or from where `make crds` puts them; the project holds no copy.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.kubernetes_api import schema
from tests.kubernetes_api.resources import crd_folder, read_definition

FILES = {
    ("ray.io/v1", "RayCronJob"): "kuberay/ray.io_raycronjobs",
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
_LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_METADATA = {"name", "namespace", "labels", "annotations"}


def schema_folder() -> Path:
    """Where the schemas are; skips the test where there are none, which is a failure in CI."""
    folder = crd_folder()
    if not folder.is_dir():
        pytest.skip(
            f"there are no schemas in {folder}: run `make crds`, or name their folder in SHIPWAY_CRD_DIR"
        )
    return folder


def object_faults(document: Mapping[str, Any]) -> list[str]:
    """What an operator's schema finds wrong with the whole object, each fault with its place."""
    kind = (document["apiVersion"], document["kind"])
    resource = read_definition(schema_folder() / f"{FILES[kind]}.yaml")
    assert (resource.api_version, resource.kind) == kind
    return [*_metadata_faults(document["metadata"]), *faults(document, resource.schema)]


def _metadata_faults(metadata: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"metadata.{key} is unknown" for key in metadata.keys() - _METADATA)
    for key, value in metadata.get("labels", {}).items():
        if isinstance(value, str) and not _LABEL.fullmatch(value):
            yield f"metadata.labels.{key} is {value!r}, which is no label's value"


def faults(value: Any, structure: schema.Schema) -> Iterator[str]:
    """What a structural schema finds wrong with `value` as it was written, before pruning and defaults."""
    yield from (f"{place} is unknown" for place in schema.unknown_fields(value, structure))
    yield from (f"{place} is null" for place in _nulls(value, structure, ""))
    found = schema.faults(schema.defaulted(value, structure), structure)
    yield from (f"{one.field}: {one.message}" for one in found)


def _nulls(value: Any, structure: schema.Schema, place: str) -> Iterator[str]:
    if value is None and not structure.get("nullable"):
        yield place
    elif isinstance(value, Mapping):
        for key, one in value.items():
            inner = schema.schema_of(key, structure) or schema.ANYTHING
            yield from _nulls(one, inner, schema.joined(place, key))
    elif isinstance(value, list):
        for index, one in enumerate(value):
            inner = structure.get("items", schema.ANYTHING)
            yield from _nulls(one, inner, f"{place}[{index}]")
