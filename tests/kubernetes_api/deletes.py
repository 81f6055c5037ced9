"""Deleting, with finalizers and the garbage collection of what is owned. Pure.

Owned objects go in the same step as their last owner (`Background`), or lose the reference (`Orphan`); `Foreground` is not
built. Pods go at once, for no kubelet lets them end, and so does all that is in a namespace.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.kubernetes_api import status
from tests.kubernetes_api.resources import Resource
from tests.kubernetes_api.store import Key, Store, put, remove

Body = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deletion:
    """What is to be deleted, and how."""

    resource: Resource
    key: Key
    options: Mapping[str, Any]
    """DeleteOptions, from the body or from the query."""
    is_dry_run: bool
    now: str


def delete(store: Store, deletion: Deletion) -> tuple[Store, Body]:
    """The store afterwards, and the answer: a Status, or the object where it waits for finalizers."""
    resource, key, options = deletion.resource, deletion.key, deletion.options
    live = store.objects.get(key)
    if live is None:
        raise status.not_found(resource, key.name)
    _check_preconditions(resource, live, options.get("preconditions") or {})
    policy = options.get("propagationPolicy", "Background")
    if policy not in ("Background", "Orphan"):
        raise status.not_built(f"a deletion with propagationPolicy {policy}")
    uid = live["metadata"]["uid"]
    if deletion.is_dry_run:
        return store, status.deleted(resource, key.name, uid)
    if policy == "Orphan":
        store = _orphaned(store, uid)
    done = _deleted(store, key, deletion.now)
    if (left := done.objects.get(key)) is not None:
        return done, left
    return done, status.deleted(resource, key.name, uid)


def _check_preconditions(resource: Resource, live: Body, wanted: Mapping[str, str]) -> None:
    if not isinstance(wanted, Mapping):
        raise status.bad_request("preconditions are an object")
    for key in ("uid", "resourceVersion"):
        if wanted.get(key, live["metadata"][key]) != live["metadata"][key]:
            why = f"Precondition failed: {key} is {live['metadata'][key]}, not {wanted[key]}"
            raise status.modified(resource, live["metadata"]["name"], why)


def _deleted(store: Store, key: Key, now: str) -> Store:
    live = store.objects[key]
    metadata = live["metadata"]
    if not metadata.get("finalizers"):
        return removed(store, key, now)
    if metadata.get("deletionTimestamp"):
        return store
    ending = {"deletionTimestamp": now, "deletionGracePeriodSeconds": 0}
    if "generation" in metadata:
        ending["generation"] = metadata["generation"] + 1
    return put(store, key, {**live, "metadata": {**metadata, **ending}})[0]


def removed(store: Store, key: Key, now: str) -> Store:
    """The store without the object, what was in it, and what it alone owned."""
    uid = store.objects[key]["metadata"]["uid"]
    store = remove(store, key)
    if (key.group, key.plural) == ("", "namespaces"):
        for inside in [one for one in store.objects if one.namespace == key.name]:
            if inside in store.objects:
                store = _deleted(store, inside, now)
    for owned in _owned_by(store, uid):
        if owned not in store.objects:
            continue
        owners = store.objects[owned]["metadata"]["ownerReferences"]
        alive = {body["metadata"]["uid"] for body in store.objects.values()}
        if not any(one["uid"] in alive for one in owners):
            store = _deleted(store, owned, now)
        else:
            store = _without_owner(store, owned, uid)
    return store


def _orphaned(store: Store, uid: str) -> Store:
    for owned in _owned_by(store, uid):
        store = _without_owner(store, owned, uid)
    return store


def _owned_by(store: Store, uid: str) -> list[Key]:
    return [
        key
        for key, body in store.objects.items()
        if any(one["uid"] == uid for one in body["metadata"].get("ownerReferences") or ())
    ]


def _without_owner(store: Store, key: Key, uid: str) -> Store:
    body = store.objects[key]
    metadata = body["metadata"]
    left = [one for one in metadata["ownerReferences"] if one["uid"] != uid]
    kept = {name: one for name, one in metadata.items() if name != "ownerReferences"}
    owners = {"ownerReferences": left} if left else {}
    return put(store, key, {**body, "metadata": {**kept, **owners}})[0]
