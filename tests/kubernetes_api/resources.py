"""The kinds that the server knows: the operators' by their CRD files, the core ones by the client's own models.

A CRD file is read when its kind is first asked for, and once in a process: the largest takes a second. Only the version
that is stored is served. The project holds no copy of these files.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from tests.kubernetes_api.core_kinds import CORE, METADATA
from tests.kubernetes_api.schema import Schema
from tests.repo.reference import ROOT

FETCHED = ROOT / ".crds"
"""What `make crds` has fetched."""
_HEAD = re.compile(
    r"^  group: (\S+)\n(?:.*\n)*?    kind: (\S+)\n(?:.*\n)*?    plural: (\S+)", re.MULTILINE
)
_HEAD_BYTES = 2000
"""The names stand at the top of each file."""
_TEXT: Schema = {"type": "string"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """A kind as the API serves it."""

    group: str
    version: str
    plural: str
    kind: str
    is_namespaced: bool = True
    has_status: bool = False
    counts_generations: bool = False
    needs_version_to_replace: bool = False
    """A PUT without resourceVersion is refused, rather than taken for whatever stands there."""
    is_custom: bool = False
    schema: Schema

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def full_name(self) -> str:
        """As messages name it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """What a server serves."""

    files: Mapping[tuple[str, str], Path]
    """CRD files by group and plural."""

    def find(self, group: str, version: str, plural: str) -> Resource | None:
        """The kind with that address; None where a real server says 404 without a Status."""
        if file := self.files.get((group, plural)):
            found = read_definition(file)
        else:
            found = _core().get((group, plural))
        return found if found is not None and found.version == version else None

    def of_group(self, group: str, version: str) -> Iterator[Resource]:
        """The kinds of a group and version."""
        for name in (*self.files, *_core()):
            if name[0] == group and (found := self.find(group, version, name[1])):
                yield found

    def without(self, *plurals: str) -> "Catalogue":
        """As if these CRDs had not been installed."""
        kept = {name: file for name, file in self.files.items() if name[1] not in plurals}
        return Catalogue(files=kept)


def crd_folder() -> Path:
    """Where the CRD files are: SHIPWAY_CRD_DIR, or where `make crds` puts them. It need not exist."""
    return Path(os.environ.get("SHIPWAY_CRD_DIR") or FETCHED)


def read_catalogue(folder: Path) -> Catalogue:
    """The kinds of all CRD files below the folder, and the core kinds."""
    files = {}
    for file in sorted(folder.rglob("*.yaml")):
        with file.open() as opened:
            head = _HEAD.search(opened.read(_HEAD_BYTES))
        if head is None:
            raise ValueError(f"{file} does not begin like a CustomResourceDefinition")
        files[head[1], head[3]] = file
    return Catalogue(files=files)


@cache
def read_definition(file: Path) -> Resource:
    """The kind that a CRD file defines."""
    spec = yaml.load(file.read_text(), yaml.CSafeLoader)["spec"]
    stored = next(one for one in spec["versions"] if one["storage"])
    schema = stored["schema"]["openAPIV3Schema"]
    own = {"apiVersion": _TEXT, "kind": _TEXT, "metadata": METADATA}
    return Resource(
        group=spec["group"],
        version=stored["name"],
        plural=spec["names"]["plural"],
        kind=spec["names"]["kind"],
        is_namespaced=spec["scope"] == "Namespaced",
        has_status="status" in stored.get("subresources", {}),
        counts_generations=True,
        needs_version_to_replace=True,
        is_custom=True,
        schema={**schema, "properties": {**schema["properties"], **own}},
    )


@cache
def _core() -> Mapping[tuple[str, str], Resource]:
    return {
        (one.group, one.plural): Resource(
            group=one.group,
            version="v1",
            plural=one.plural,
            kind=one.kind,
            is_namespaced=one.is_namespaced,
            has_status=one.has_status,
            counts_generations=one.counts_generations,
            needs_version_to_replace=one.needs_version_to_replace,
            schema=one.schema(),
        )
        for one in CORE
    }
