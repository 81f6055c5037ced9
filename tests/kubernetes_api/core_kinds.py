"""The kinds of Kubernetes itself that we use, with schemas taken from the models of the `kubernetes` client.

The models say which fields there are and of what type; how lists and maps are merged, and the few defaults and limits
that matter here, are in the tables below. What admission or controllers would add (a Service's address, a token's
Secret) is not there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from kubernetes import client

Schema = Mapping[str, Any]

_TEXT: Schema = {"type": "string"}
_QUANTITY: Schema = {"x-kubernetes-int-or-string": True}
_SCALARS: Mapping[str, Schema] = {
    "str": _TEXT,
    "bytes": _TEXT,
    "datetime": {"type": "string", "format": "date-time"},
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "bool": {"type": "boolean"},
    "object": {"x-kubernetes-preserve-unknown-fields": True},
}
_QUANTITIES = {"limits", "requests", "allocatedResources", "capacity"}

_LIST_KEYS: Mapping[str, list[str]] = {
    "V1Condition": ["type"],
    "V1Container": ["name"],
    "V1ContainerPort": ["containerPort", "protocol"],
    "V1DeploymentCondition": ["type"],
    "V1EnvVar": ["name"],
    "V1LocalObjectReference": ["name"],
    "V1OwnerReference": ["uid"],
    "V1PodCondition": ["type"],
    "V1ServicePort": ["port", "protocol"],
    "V1TopologySpreadConstraint": ["topologyKey", "whenUnsatisfiable"],
    "V1Volume": ["name"],
    "V1VolumeMount": ["mountPath"],
}
"""Lists of these are maps; all others are atomic."""

_ATOMIC_MAPS = {"V1LabelSelector", "V1ObjectReference", "V1SecretKeySelector"}
_MORE: Mapping[tuple[str, str], Schema] = {
    ("V1ServicePort", "protocol"): {"default": "TCP"},
    ("V1ContainerPort", "protocol"): {"default": "TCP"},
    ("V1ServiceSpec", "selector"): {"x-kubernetes-map-type": "atomic"},
    ("V1ServiceSpec", "type"): {"default": "ClusterIP"},
    ("V1ServiceSpec", "sessionAffinity"): {"default": "None"},
    ("V1ServicePort", "port"): {"minimum": 1, "maximum": 65535},
    ("V1Secret", "type"): {"default": "Opaque"},
    ("V1DeploymentSpec", "replicas"): {"default": 1, "minimum": 0},
    ("V1LeaseSpec", "leaseDurationSeconds"): {"minimum": 1},
    ("V1LeaseSpec", "acquireTime"): {"format": "micro-time"},
    ("V1LeaseSpec", "renewTime"): {"format": "micro-time"},
    ("V1LeaseSpec", "leaseTransitions"): {"minimum": 0},
    ("V1ObjectMeta", "finalizers"): {"x-kubernetes-list-type": "set"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreKind:
    """One of Kubernetes' own, as far as it is served here."""

    group: str = ""
    plural: str
    kind: str
    is_namespaced: bool = True
    has_status: bool = False
    counts_generations: bool = False
    needs_version_to_replace: bool = False

    def schema(self) -> Schema:
        schema = model_schema(f"V1{self.kind}")
        return {**schema, "properties": {**schema["properties"], "metadata": METADATA}}


@cache
def model_schema(name: str) -> Schema:
    """The structural schema of one of the client's models."""
    model = getattr(client, name)
    properties = {}
    for attribute, kind in model.openapi_types.items():
        key = model.attribute_map[attribute]
        properties[key] = {**_field(kind, key), **_MORE.get((name, key), {})}
    required = [
        field.serialization_alias or attribute
        for attribute, field in model.model_fields.items()
        if field.is_required()
    ]
    schema: dict[str, Any] = {"type": "object", "properties": properties, "required": required}
    if name in _ATOMIC_MAPS:
        schema["x-kubernetes-map-type"] = "atomic"
    return schema


def _field(kind: str, key: str) -> Schema:
    if kind.startswith("List["):
        return _list(kind[5:-1])
    if kind.startswith("Dict[str, "):
        inner = _QUANTITY if key in _QUANTITIES else _field(kind[10:-1], key)
        return {"type": "object", "additionalProperties": inner}
    return _SCALARS[kind] if kind in _SCALARS else model_schema(kind)


def _list(item: str) -> Schema:
    schema: dict[str, Any] = {"type": "array", "items": _field(item, "")}
    if item in _LIST_KEYS:
        return {
            **schema,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": _LIST_KEYS[item],
        }
    return {**schema, "x-kubernetes-list-type": "atomic"}


METADATA: Schema = model_schema("V1ObjectMeta")

_RBAC = "rbac.authorization.k8s.io"
CORE: tuple[CoreKind, ...] = (
    CoreKind(plural="namespaces", kind="Namespace", is_namespaced=False, has_status=True),
    CoreKind(plural="secrets", kind="Secret"),
    CoreKind(plural="configmaps", kind="ConfigMap"),
    CoreKind(plural="services", kind="Service", has_status=True),
    CoreKind(plural="serviceaccounts", kind="ServiceAccount"),
    CoreKind(plural="pods", kind="Pod", has_status=True, counts_generations=True),
    CoreKind(
        group="apps",
        plural="deployments",
        kind="Deployment",
        has_status=True,
        counts_generations=True,
    ),
    CoreKind(
        group="coordination.k8s.io", plural="leases", kind="Lease", needs_version_to_replace=True
    ),
    CoreKind(
        group="networking.k8s.io",
        plural="networkpolicies",
        kind="NetworkPolicy",
        counts_generations=True,
    ),
    CoreKind(
        group="policy",
        plural="poddisruptionbudgets",
        kind="PodDisruptionBudget",
        has_status=True,
        counts_generations=True,
    ),
    CoreKind(group=_RBAC, plural="roles", kind="Role"),
    CoreKind(group=_RBAC, plural="rolebindings", kind="RoleBinding"),
    CoreKind(group=_RBAC, plural="clusterroles", kind="ClusterRole", is_namespaced=False),
    CoreKind(
        group=_RBAC, plural="clusterrolebindings", kind="ClusterRoleBinding", is_namespaced=False
    ),
)
