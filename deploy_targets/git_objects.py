"""The objects of one endpoint as files in a git repository, for Argo CD or Flux to apply.

It stands where `own_objects` stands when Shipway applies by itself: what is wanted is read from the branch and written to
it, one commit for each change; what is so is read from the cluster as ever. One file for each object, named as by
`shipway render -o`.
"""

import re
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import yaml

from deploy_targets.cluster import Kind
from deploy_targets.git_repository import GitRepository
from deploy_targets.manifest import Manifest, Object, canonical_yaml, object_labels, part
from registry.errors import TargetRefused
from registry.plain_yaml import load_yaml


class GitObjects:
    """What Shipway wants for one endpoint."""

    is_immediate = False
    """Whether what was written is so in the cluster at once."""

    def __init__(self, repository: GitRepository, *, folder: str, endpoint: str) -> None:
        """`folder` is that of the endpoint's namespace in the repository."""
        self._repository = repository
        self._folder = folder
        self._labels = object_labels(endpoint)
        name = re.escape(endpoint)
        self._own_name = re.compile(
            rf"{name}\.httproute\.yaml|{name}-v\d+\.(?!httproute)[a-z]+\.yaml"
        )
        self._files: dict[str, str | None] = {}
        self._objects: dict[str, Object] = {}

    @contextmanager
    def change(self, message: str) -> Generator[None]:
        """What is read inside is the branch as it stands, and what is written inside becomes one commit.

        Raises:
            TargetUnavailable: the repository does not answer, or did not take the commit.
            TargetRefused: a file there that has the name of one of ours cannot be read.
        """
        self._files = {}
        self._objects = dict(self._read())
        yield
        if self._files:
            self._repository.write(self._folder, self._files, message=message)

    def list(self, kind: Kind) -> tuple[Object, ...]:
        """All of the endpoint's of that kind."""
        return tuple(
            one
            for one in self._objects.values()
            if one.get("kind") == kind.kind and self._is_ours(one)
        )

    def get(self, kind: Kind, name: str) -> Object | None:
        """The endpoint's of that name; None where there is none."""
        found = self._objects.get(_file_name(kind.kind, name))
        return found if found is not None and self._is_ours(found) else None

    def ensure(self, manifest: Manifest, *, take_back: frozenset[str]) -> None:
        """Has the file as rendered. Who else writes these fields is for Argo CD or Flux to settle.

        Raises:
            TargetRefused: there is such a file, and it is somebody else's.
        """
        del take_back
        name = f"{manifest.name}.yaml"
        before = self._objects.get(name)
        if before is not None and not self._is_ours(before):
            message = (
                f"{self._folder}/{name} is in the repository already and not Shipway's: its labels differ. Rename the "
                "endpoint, or take that file away."
            )
            raise TargetRefused(message)
        self._files[name] = canonical_yaml([manifest])

    def ensure_over(
        self, seen: Object | None, manifest: Manifest, *, take_back: frozenset[str]
    ) -> None:
        """As `ensure`. What was seen was the cluster; whether the branch has moved is for the push to tell."""
        del seen
        self.ensure(manifest, take_back=take_back)

    def delete(self, kind: Kind, found: Object) -> None:
        """Takes the object's file away, if it is there."""
        name = _file_name(kind.kind, found["metadata"]["name"])
        if name in self._objects:
            self._files[name] = None

    def close(self) -> None:
        """Takes the clone away."""
        self._repository.close()

    def _read(self) -> Generator[tuple[str, Object]]:
        """What others keep there, templates say, need not be an object: it is none of our affair."""
        for name, content in self._repository.read(self._folder).items():
            if not name.endswith(".yaml"):
                continue
            try:
                found = load_yaml(content)
            except yaml.YAMLError as error:
                if not self._own_name.fullmatch(name):
                    continue
                message = f"{self._folder}/{name} in the repository is not one YAML document ({error}). Mend it."
                raise TargetRefused(message) from error
            if _is_object(found):
                yield name, found

    def _is_ours(self, found: Object) -> bool:
        return self._labels.items() <= dict(part(found, "metadata", "labels")).items()


def _is_object(found: Any) -> bool:
    """Whether any YAML has what is read of an object here."""
    try:
        name, labels = found["metadata"]["name"], found["metadata"].get("labels")
    except (AttributeError, IndexError, KeyError, TypeError):
        return False
    return isinstance(name, str) and isinstance(labels, dict | None)


def _file_name(kind: str, name: str) -> str:
    return f"{name}.{kind.lower()}.yaml"
