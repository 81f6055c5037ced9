"""A rendered object that is not applied yet, and the one spelling in which it is printed and compared."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One document: a Kubernetes object, or a configuration file of the local target."""

    name: str
    body: Mapping[str, Any]


def revision_name(endpoint: str, version: str) -> str:
    """The name of one version in flight: `<endpoint>-v<version>`, valid as a DNS label and as a path segment."""
    return f"{endpoint}-v{version}"


def canonical_yaml(manifests: Iterable[Manifest]) -> str:
    """YAML documents in the order given, keys as rendered: the same manifests always give the same text."""
    return "".join(
        "---\n" + yaml.safe_dump(dict(manifest.body), sort_keys=False, width=100)
        for manifest in manifests
    )
