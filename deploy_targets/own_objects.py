"""The objects of one endpoint in the cluster, and the line between ours and everybody else's.

Ours is what carries all of our labels for this endpoint. An object of a name that we need and that is not ours is never
written and never deleted. What is already as rendered is not written either: a dry run says so. What is written names
the state of the object that it was decided on, so that an attempt that arrives late changes nothing.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from deploy_targets.cluster import FIELD_MANAGER, Cluster, Kind, kind_of
from deploy_targets.manifest import Manifest, Object, object_labels, part, parts
from deploy_targets.object_diff import Change
from deploy_targets.pod_status import is_live
from registry.errors import ObjectChanged, TargetChanged, TargetRefused, TargetUnavailable


class OwnObjects:
    """What Shipway has in one namespace for one endpoint."""

    is_immediate = True
    """Whether what was written is so in the cluster at once."""

    def __init__(self, cluster: Cluster, *, namespace: str, endpoint: str) -> None:
        """`endpoint` is its plain name."""
        self._cluster = cluster
        self._namespace = namespace
        self._labels = object_labels(endpoint)

    def close(self) -> None:
        """Closes the connections to the cluster."""
        self._cluster.close()

    def change(self, message: str) -> AbstractContextManager[None]:
        """Around the writes of one change; each of them acts by itself here, so there is nothing to do."""
        del message
        return nullcontext()

    def list(self, kind: Kind) -> tuple[Object, ...]:
        """All of ours that are not being deleted, and with them what operators made of ours.

        Raises:
            TargetUnavailable: see `Cluster.list`.
        """
        return tuple(filter(is_live, self._cluster.list(kind, self._namespace, self._labels)))

    def get(self, kind: Kind, name: str) -> Object | None:
        """Ours of that name; None where there is none, or somebody else's.

        Raises:
            TargetUnavailable: see `Cluster.get`.
        """
        found = self._cluster.get(kind, self._namespace, name)
        return found if found is not None and is_live(found) and self._is_ours(found) else None

    def preview(self, manifest: Manifest, *, take_back: frozenset[str]) -> Change:
        """What an apply would change, by the API server's own dry run.

        Raises:
            TargetRefused: it would be refused, or the name is taken by somebody else's object.
            TargetUnavailable: no answer, or an object of that name is still being deleted.
        """
        body = manifest.body
        name = body["metadata"]["name"]
        before = self._cluster.get(kind_of(body), self._namespace, name)
        if before is not None and not self._is_ours(before):
            message = (
                f"There is a {body['kind']} {name} in namespace {self._namespace} that is not Shipway's: its labels differ. "
                "Rename the endpoint, or remove that object."
            )
            raise TargetRefused(message)
        if before is not None and not is_live(before):
            message = (
                f"{body['kind']} {name} is still being deleted; the next look tries again. If it stays so, see its "
                "finalizers: the operator that has to remove them may be down."
            )
            raise TargetUnavailable(message)
        after = self._cluster.apply(body, take_back=take_back, dry_run=True)
        return Change(before=before, after=after)

    def ensure(self, manifest: Manifest, *, take_back: frozenset[str]) -> None:
        """Has the object as rendered; nothing is written where it already is so.

        Raises:
            TargetUnavailable: see `preview` and `Cluster.apply`.
        """
        self._write(manifest, self.preview(manifest, take_back=take_back), take_back)

    def ensure_over(
        self, seen: Object | None, manifest: Manifest, *, take_back: frozenset[str]
    ) -> None:
        """As `ensure`, where nobody has written another wish since ours was `seen`, or seen not to be there.

        An operator's status is no wish: it may have been written meanwhile.

        Raises:
            TargetChanged: somebody has; nothing is written.
            TargetUnavailable: see `preview` and `Cluster.apply`.
        """
        change = self.preview(manifest, take_back=take_back)
        if _wish(change.before) != _wish(seen):
            message = f"{change.name} was written by somebody else since it was looked at; the next look decides anew."
            raise TargetChanged(message)
        self._write(manifest, change, take_back)

    def _write(self, manifest: Manifest, change: Change, take_back: frozenset[str]) -> None:
        if change.is_none:
            return
        try:
            self._cluster.apply(manifest.body, take_back=take_back, over=change.before)
        except ObjectChanged as error:
            raise TargetChanged(str(error)) from error

    def delete(self, kind: Kind, found: Object) -> None:
        """Deletes this very object, if it is still there.

        Raises:
            TargetUnavailable: see `Cluster.delete`.
        """
        self._cluster.delete(found, kind)

    def _is_ours(self, found: Object) -> bool:
        return self._labels.items() <= dict(part(found, "metadata", "labels")).items()


def _wish(found: Object | None) -> tuple[Any, Any] | None:
    """Which state of what is wanted an object has."""
    if found is None:
        return None
    return found["metadata"]["uid"], found["metadata"]["generation"]


def disturbance(found: Object, fields: frozenset[str]) -> str:
    """Who else set one of these fields last, so that it is no longer ours, and what to do; empty where nobody did.

    `fields` are spelled as the API server does in conflicts: `.spec.rules`.
    """
    lost = {
        field: tuple(others)
        for field in sorted(fields)
        if FIELD_MANAGER not in (others := list(_managers(found, field))) and others
    }
    if not lost:
        return ""
    who = ", ".join(sorted({other for others in lost.values() for other in others}))
    return (
        f"{who} changed {', '.join(lost)} of {found['kind']} {found['metadata']['name']}, which Shipway writes. It is written "
        f"again; let {who} leave these fields alone."
    )


def _managers(found: Object, field: str) -> Iterator[str]:
    """Everybody who owns the field, by the object's own record."""
    for entry in parts(part(found, "metadata"), "managedFields"):
        owned = part(entry, "fieldsV1")
        if not entry.get("subresource") and _holds(owned, field.strip(".").split(".")):
            yield str(entry.get("manager"))


def _holds(owned: Object, path: list[str]) -> bool:
    """Whether the path is in the set of fields; an empty set below a name is the field itself."""
    for name in path:
        if f"f:{name}" not in owned:
            return False
        owned = owned[f"f:{name}"] or {}
    return True
