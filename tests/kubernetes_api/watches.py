"""What a watch is told, from the store's events. Pure; how it is sent: `server`."""

from dataclasses import dataclass
from typing import Any

from tests.kubernetes_api.resources import Resource
from tests.kubernetes_api.selectors import Selector
from tests.kubernetes_api.store import Body, Event, Store, objects_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """An answer that goes on: what happens after `since`."""

    resource: Resource
    namespace: str
    selects: Selector
    since: int | None
    """None: begin with all that is there."""
    has_bookmarks: bool
    timeout_s: float | None


def next_events(store: Store, watch: Watch, since: int) -> list[dict[str, Any]]:
    """What a watch is told about all that happened after `since`.

    An object that begins to be selected was added, one that ceases to be was deleted.
    """
    wanted = (watch.resource.group, watch.resource.plural)
    told = []
    for event in _after(store, since):
        if (event.key.group, event.key.plural) != wanted:
            continue
        if watch.namespace not in ("", event.key.namespace):
            continue
        was, is_now = (
            one is not None and watch.selects(one) for one in (event.before, event.after)
        )
        if was or is_now:
            kind = "MODIFIED" if was and is_now else "ADDED" if is_now else "DELETED"
            told.append({"type": kind, "object": event.last if is_now else _last_selected(event)})
    return told


def _last_selected(event: Event) -> Body:
    """The object as it was when it was last selected, with the version of what ended that."""
    before = event.before or event.last
    version = event.last["metadata"]["resourceVersion"]
    return {**before, "metadata": {**before["metadata"], "resourceVersion": version}}


def _after(store: Store, since: int) -> tuple[Event, ...]:
    """Each event has the next revision, so that where to begin can be counted."""
    first = store.events[0].revision if store.events else 0
    return store.events[max(0, since - first + 1) :]


def first_events(store: Store, watch: Watch) -> list[dict[str, Any]]:
    """What a watch without a resourceVersion begins with: all that is there."""
    return [
        {"type": "ADDED", "object": body}
        for _, body in objects_of(store, watch.resource, watch.namespace)
        if watch.selects(body)
    ]


def bookmark(watch: Watch, revision: int) -> dict[str, Any]:
    """That the watcher has seen everything up to a revision."""
    metadata = {"resourceVersion": str(revision)}
    return {
        "type": "BOOKMARK",
        "object": {
            "apiVersion": watch.resource.api_version,
            "kind": watch.resource.kind,
            "metadata": metadata,
        },
    }
