"""A model version's bill of materials: CycloneDX 1.6, a `machine-learning-model` with its base, data, recipe and scores. Pure.

The library `cyclonedx` knows no model cards, so the document is put together here; a test has it validated there. It
states no time and no version number: the same model gives the same bill, whoever registers it.
"""

import json
import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from registry.release import ArtifactManifest, Digest
from registry.scorecard import NOISE

FILE_NAME = "bom.cdx.json"
_SPDX = frozenset(
    {
        "Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0",
        "CC-BY-NC-4.0", "GPL-2.0-only", "GPL-3.0-only", "AGPL-3.0-only", "LGPL-3.0-only", "MPL-2.0",
        "Unlicense",
    }
)  # fmt: skip
"""Licences that models commonly have, by SPDX's names; another one is stated by the name that its card gives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a bill states."""

    name: str
    """The registered model's."""
    source: str
    """Where its bytes lie."""
    manifest: ArtifactManifest
    base: Digest
    """The digest of the unquantized checkpoint."""
    origin: Mapping[str, str] = field(default_factory=dict[str, str])
    """Of the base: `source`, `revision`, `source_digest`, `licence`, `base_model`, as far as known."""
    recipe: Mapping[str, object] = field(default_factory=dict[str, object])
    data: Mapping[str, str] = field(default_factory=dict[str, str])
    """Digests of calibration, texts and tasks, by what they are for."""
    scores: Mapping[str, tuple[float, float]] = field(
        default_factory=dict[str, tuple[float, float]]
    )
    """Value and standard error."""
    gate: Mapping[str, float] = field(default_factory=dict[str, float])
    """The numbers of the comparison with the base and the champion: what was lost."""


def render_bill(facts: Facts) -> str:
    """The bill as JSON, one that CycloneDX's own strict schema takes."""
    digest, base = facts.manifest.digest, facts.base
    licences = _licences(facts.origin.get("licence", ""))
    data = {role: f"data:{role}" for role in sorted(facts.data)}
    model: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": digest,
        "name": facts.name,
        "version": digest,
        "licenses": licences,
        "hashes": [_hash(digest)],
        "externalReferences": [{"type": "distribution", "url": facts.source}],
        "pedigree": {"ancestors": [_base(facts, licences)]},
        "modelCard": {
            "modelParameters": {"datasets": [{"ref": ref} for ref in data.values()]},
            "quantitativeAnalysis": {"performanceMetrics": _metrics(facts)},
        },
        "components": [
            {
                "type": "file",
                "bom-ref": f"{digest}/{file.path}",
                "name": file.path,
                "hashes": [_hash(file.digest)],
                "properties": [{"name": "size_bytes", "value": str(file.size_bytes)}],
            }
            for file in facts.manifest.files
        ],
        "properties": [
            {"name": f"shipway:recipe:{name}", "value": str(value)}
            for name, value in sorted(facts.recipe.items())
        ],
    }
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": model},
        "components": [
            {
                "type": "data",
                "bom-ref": ref,
                "name": role,
                "hashes": [_hash(facts.data[role])],
                "data": [{"type": "dataset", "name": role}],
            }
            for role, ref in data.items()
        ],
        "dependencies": [
            {"ref": digest, "dependsOn": [*([base] if base != digest else []), *data.values()]},
            *({"ref": ref} for ref in (*([base] if base != digest else []), *data.values())),
        ],
    }
    text = json.dumps(document, sort_keys=True)
    document["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, text)}"
    return json.dumps(document, indent=1) + "\n"


def _base(facts: Facts, licences: list[dict[str, Any]]) -> dict[str, Any]:
    """The unquantized checkpoint, and the model that it was made of where its card names one."""
    origin = facts.origin
    known = ("source", "revision", "source_digest", "base_model")
    is_same = facts.base == facts.manifest.digest
    source = origin.get("source", "")
    return {
        "type": "machine-learning-model",
        "bom-ref": f"{facts.base}:unchanged" if is_same else facts.base,
        "name": source or "unquantized checkpoint",
        "version": origin.get("revision") or facts.base,
        "licenses": licences,
        "hashes": [_hash(facts.base)],
        "properties": [
            {"name": f"shipway:{name}", "value": origin[name]} for name in known if origin.get(name)
        ],
    }


def _metrics(facts: Facts) -> list[dict[str, Any]]:
    measured: list[dict[str, Any]] = []
    for name, (value, stderr) in sorted(facts.scores.items()):
        metric: dict[str, Any] = {"type": name, "value": f"{value:.6g}"}
        if math.isfinite(stderr):
            metric["confidenceInterval"] = {
                "lowerBound": f"{value - NOISE * stderr:.6g}",
                "upperBound": f"{value + NOISE * stderr:.6g}",
            }
        measured.append(metric)
    return [
        *measured,
        *(
            {"type": f"gate.{name}", "value": f"{value:.6g}", "slice": "compared"}
            for name, value in sorted(facts.gate.items())
        ),
    ]


def _licences(stated: str) -> list[dict[str, Any]]:
    """One or none, as CycloneDX has them."""
    if not stated:
        return []
    by_lower = {name.lower(): name for name in _SPDX}
    known = by_lower.get(stated.lower())
    return [{"license": {"id": known} if known else {"name": stated}}]


def _hash(digest: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": digest.removeprefix("sha256:")}
