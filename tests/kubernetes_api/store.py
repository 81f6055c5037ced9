"""All objects, and what lately happened to them. Pure: a write gives a new store.

One counter numbers every write, as etcd's revision does: it is an object's resourceVersion, and where a watch goes on. What
is older than `oldest` is forgotten, and a watch that starts before it gets 410.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tests.kubernetes_api.rbac import User
from tests.kubernetes_api.resources import Resource

Body = Mapping[str, Any]

_REMEMBERED = 10_000
"""More events than any test waits through; `compacted` forgets them all at once."""


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """Where an object is."""

    group: str
    plural: str
    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Event:
    """What happened to an object, with what it was before."""

    revision: int
    key: Key
    before: Body | None
    after: Body | None
    """None when it is gone."""
    last: Body
    """The object as the event shows it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """The whole state of a server."""

    revision: int = 1
    objects: Mapping[Key, Body] = field(default_factory=dict)
    events: tuple[Event, ...] = ()
    oldest: int = 0
    """The revision of the last event that is forgotten."""
    tokens: Mapping[str, User] = field(default_factory=dict)


def key_of(resource: Resource, namespace: str, name: str) -> Key:
    return Key(resource.group, resource.plural, namespace, name)


def put(store: Store, key: Key, body: Body) -> tuple[Store, Body]:
    """The store with the object, and the object with its new resourceVersion."""
    revision = store.revision + 1
    metadata = {**body["metadata"], "resourceVersion": str(revision)}
    stored = {**body, "metadata": metadata}
    event = Event(revision, key, store.objects.get(key), stored, stored)
    return _after(store, event, {**store.objects, key: stored}), stored


def remove(store: Store, key: Key) -> Store:
    """The store without the object."""
    revision = store.revision + 1
    before = store.objects[key]
    last = {**before, "metadata": {**before["metadata"], "resourceVersion": str(revision)}}
    left = {one: body for one, body in store.objects.items() if one != key}
    return _after(store, Event(revision, key, before, None, last), left)


def _after(store: Store, event: Event, objects: Mapping[Key, Body]) -> Store:
    events = (*store.events, event)
    oldest = store.oldest
    if len(events) > _REMEMBERED:
        oldest, events = events[-_REMEMBERED - 1].revision, events[-_REMEMBERED:]
    return replace(store, revision=event.revision, objects=objects, events=events, oldest=oldest)


def compacted(store: Store) -> Store:
    """The store with its past forgotten: every earlier resourceVersion is too old to watch from.

    The counter moves on, for the present one would not be too old.
    """
    revision = store.revision + 1
    return replace(store, revision=revision, events=(), oldest=revision)


def objects_of(store: Store, resource: Resource, namespace: str) -> Iterator[tuple[Key, Body]]:
    """The objects of a kind, of one namespace or (with "") of all, by name."""
    wanted = (resource.group, resource.plural)
    found = (
        (key, body)
        for key, body in store.objects.items()
        if (key.group, key.plural) == wanted and namespace in ("", key.namespace)
    )
    return iter(sorted(found, key=lambda pair: pair[0]))
