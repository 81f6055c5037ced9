"""A rendered object that is not applied yet, what the objects of all targets have in common, and their one spelling.

Names, labels, security, amounts, and the rules that no schema states. What each kind says is in `ray_serve.manifest`,
`triton.manifest` and `routing.http_route`.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import yaml

from registry.errors import ManifestInvalid

Object: TypeAlias = Mapping[str, Any]
"""A Kubernetes object, or a part of one, as the API server gives it."""

_DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
MAX_NAME = 47
"""Characters of an object's name. KubeRay adds 6 for the cluster and 10 for its Serve service, and a Service has 63."""

INSTANCE_LABEL, VERSION_LABEL = "app.kubernetes.io/instance", "app.kubernetes.io/version"
"""The endpoint's plain name, and the model version: what belongs together is found by them."""

OWN_LABELS: Mapping[str, str] = {
    "app.kubernetes.io/part-of": "shipway",
    "app.kubernetes.io/managed-by": "shipway",
}
"""What every object of ours carries, whichever endpoint it is for."""

CONTAINER_SECURITY: Mapping[str, Any] = {
    "runAsNonRoot": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One document: a Kubernetes object, or a configuration file of the local target."""

    name: str
    body: Mapping[str, Any]


def part(found: Object, *names: str) -> Object:
    """The part under these names; empty where any of them is missing or null, as in a status that is not written yet."""
    for name in names:
        found = found.get(name) or {}
    return found


def parts(found: Object, name: str) -> tuple[Object, ...]:
    """The list under that name; empty where it is missing or null."""
    return tuple(found.get(name) or ())


def revision_name(endpoint: str, version: str) -> str:
    """The name of one version in flight: `<endpoint>-v<version>`, valid as a DNS label and as a path segment."""
    return f"{endpoint}-v{version}"


def object_labels(endpoint: str, version: str | None = None) -> dict[str, str]:
    """The labels of an object of `endpoint`, and of `version` where it belongs to one alone."""
    labels = {**OWN_LABELS, INSTANCE_LABEL: endpoint}
    return labels if version is None else {**labels, VERSION_LABEL: version}


def limits(*, cpus: float, memory_gib: float, gpus: float = 0) -> dict[str, str]:
    """What a container gets, in Kubernetes' spelling: `{"cpu": "500m", "memory": "16Gi", "nvidia.com/gpu": "1"}`."""
    cpu = str(int(cpus)) if cpus % 1 == 0 else f"{math.ceil(cpus * 1000)}m"
    whole = memory_gib % 1 == 0
    memory = f"{int(memory_gib)}Gi" if whole else f"{math.ceil(memory_gib * 1024)}Mi"
    return {"cpu": cpu, "memory": memory, **({"nvidia.com/gpu": str(int(gpus))} if gpus else {})}


def environment(variables: Mapping[str, str]) -> list[dict[str, str]]:
    """The variables as a container lists them, by name."""
    return [{"name": name, "value": value} for name, value in sorted(variables.items())]


def kubernetes_object(
    api_version: str, kind: str, *, metadata: Mapping[str, Any], spec: Mapping[str, Any]
) -> Manifest:
    """The object as a manifest named `<name>.<kind>`.

    Raises:
        ManifestInvalid: the name is no DNS label, or too long for what operators derive from it.
    """
    name = str(metadata["name"])
    if not _DNS_LABEL.fullmatch(name):
        message = (
            f"{kind} {name} has a name that Kubernetes refuses. Give the version as MLflow's own number, and an endpoint "
            "name of lower-case letters, digits and hyphens."
        )
        raise ManifestInvalid(message)
    if len(name) > MAX_NAME:
        message = (
            f"{kind} {name} has a name of {len(name)} characters, but operators derive longer names from it, so it may "
            f"have {MAX_NAME}. Shorten the endpoint's name."
        )
        raise ManifestInvalid(message)
    body = {"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec}
    return Manifest(name=f"{name}.{kind.lower()}", body=body)


def check_distinct(manifests: Iterable[Manifest]) -> None:
    """Refuses two objects that would be one in the cluster: the second would overwrite the first.

    Raises:
        ManifestInvalid: two are of one kind, namespace and name.
    """
    seen: set[tuple[object, ...]] = set()
    for manifest in manifests:
        metadata = manifest.body.get("metadata")
        if metadata is None:
            continue
        identity = (manifest.body["kind"], metadata.get("namespace"), metadata["name"])
        if identity in seen:
            message = (
                f"Two endpoints render {identity[0]} {identity[2]} in namespace {identity[1]}, and the second would "
                "overwrite the first. Rename one of the endpoints."
            )
            raise ManifestInvalid(message)
        seen.add(identity)


class _PlainDumper(yaml.CSafeDumper):
    """For readers of a diff: what is said twice is written twice, and lines stay lines."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - as PyYAML calls it
        return True


def _text_node(dumper: Any, text: str) -> Any:  # PyYAML leaves its dumpers untyped
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_PlainDumper.add_representer(str, _text_node)


def yaml_text(document: Mapping[str, Any]) -> str:
    """The document as YAML, keys in their order: the same document always gives the same text."""
    return yaml.dump(dict(document), Dumper=_PlainDumper, sort_keys=False, width=100)


def canonical_yaml(manifests: Iterable[Manifest]) -> str:
    """YAML documents in the order given, keys as rendered: the same manifests always give the same text."""
    return "".join("---\n" + yaml_text(manifest.body) for manifest in manifests)
