"""Watches on our objects in a cluster, as hints: they say which endpoint to look at now, and what is seen there is read anew.

One thread for each namespace and kind. A watch goes on from the last version that it heard of; where that is too old (410), or
anything else was answered, it lists again and has all of its endpoints looked at, for it may have missed something. It tries
for ever, as the loop does, and never without a pause: a second, then ever longer up to a minute, and five minutes where a right
or the kind is missing. Hints are passed on by one more thread, one for an endpoint and second, so that a storm of status
updates is no storm of looks. Without any of this the loop looks all the same, later.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import structlog

from deploy_targets.api_answer import Kind
from deploy_targets.cluster import Cluster, EventStream
from deploy_targets.manifest import INSTANCE_LABEL, OWN_LABELS, Object, part
from registry.errors import TargetChanged, TargetRefused, TargetUnavailable
from registry.events import Event

_JOIN_S = 5.0
"""A connection that is just being opened cannot be ended; its thread is left behind then, and ends with the process."""
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Place:
    """What one watch is on."""

    namespace: str
    kind: Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Pauses:
    """Seconds. Those between watches are made longer by up to half, at random, so that replicas do not come all at once."""

    first_s: float = 1.0
    """After a watch that heard anything."""
    longest_s: float = 60.0
    """After many in a row that did not."""
    refused_s: float = 300.0
    """After a refusal: somebody has to give a right or install a kind first."""
    standby_s: float = 1.0
    """Between two questions whether this controller leads."""
    spacing_s: float = 1.0
    """At least, between two hints for the same endpoint."""


class Watches:
    """The watches of one controller. Only the one that leads holds them open."""

    def __init__(
        self,
        cluster: Cluster,
        places: Mapping[Place, frozenset[str]],
        *,
        wake: Callable[[str], None],
        leads: Callable[[], bool],
        jitter: Callable[[], float],
        pauses: Pauses = Pauses(),
    ) -> None:
        """`places` names the endpoints at each place. `cluster` must ask only once; `jitter` draws from 0..1."""
        self._cluster = cluster
        self._leads = leads
        self._jitter = jitter
        self._pauses = pauses
        self._stopped = threading.Event()
        self._streams: dict[Place, EventStream] = {}
        self._hints = _Hints(wake, spacing_s=pauses.spacing_s)
        self._threads = [
            threading.Thread(target=self._hints.run, name="hints", daemon=True),
            *(
                threading.Thread(target=self._keep, args=(place, names), name="watch", daemon=True)
                for place, names in places.items()
            ),
        ]

    def begin(self) -> None:
        """Starts the threads."""
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Ends the watches, the threads and the connections."""
        self._stopped.set()
        self._hints.stop()
        for stream in tuple(self._streams.values()):
            stream.end()
        deadline = time.monotonic() + _JOIN_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._cluster.close()

    def _keep(self, place: Place, names: frozenset[str]) -> None:
        """Watches the place until the end, whatever happens."""
        watch = Watch(place, names, self._hints.add)
        while not self._stopped.is_set():
            if not self._leads():
                watch.since = None  # whoever leads next begins anew
                self._stopped.wait(self._pauses.standby_s)
                continue
            try:
                self._follow(watch)
                pause_s = watch.next_pause_s(self._pauses)
            except TargetChanged:
                watch.since = None
                pause_s = watch.next_pause_s(self._pauses)
            except TargetRefused as error:
                watch.failed(error)
                pause_s = self._pauses.refused_s
            except TargetUnavailable as error:
                watch.failed(error)
                pause_s = watch.next_pause_s(self._pauses)
            except Exception:  # noqa: BLE001 - the top of the thread: without it nobody would be told that the hints ceased
                _log.exception(Event.WATCH_FAILED, kind=place.kind.kind, namespace=place.namespace)
                watch.since, pause_s = None, self._pauses.refused_s
            self._stopped.wait(pause_s * (1 + self._jitter() / 2))

    def _follow(self, watch: "Watch") -> None:
        """Holds one watch open until it ends.

        Raises:
            TargetChanged: it was too late for what is still known; TargetUnavailable: no answer, or a refusal.
        """
        place = watch.place
        if watch.since is None:
            since = self._cluster.newest_version(place.kind, place.namespace, OWN_LABELS)
            watch.began(since)
        else:
            since = watch.since
        stream = self._cluster.watch(place.kind, place.namespace, OWN_LABELS, since=since)
        watch.opened()
        self._streams[place] = stream
        try:
            for event in () if self._stopped.is_set() else stream:
                watch.heard(event)
                if not self._leads():
                    return
        finally:
            del self._streams[place]
            stream.close()


class Watch:
    """What one thread knows of its place."""

    def __init__(self, place: Place, names: frozenset[str], hint: Callable[[str], None]) -> None:
        self.place = place
        self.since: str | None = None
        """The version from which the next watch goes on; None where it has to list first."""
        self._names = names
        self._hint = hint
        self._silent = 0
        """Watches in a row that heard nothing."""
        self._told: str | None = None
        """What was logged last: the same failure is said once."""

    def began(self, since: str) -> None:
        """What happened before `since` may have been missed."""
        self.since = since
        for name in self._names:
            self._hint(name)

    def opened(self) -> None:
        """It is open, and a failure of before is over."""
        if self._told != "":
            _log.info(Event.WATCH_OPENED, **self._bound())
        self._told = ""

    def failed(self, error: TargetUnavailable) -> None:
        """It was answered otherwise, or not at all: what was known is not gone on from."""
        self.since = None
        if self._told != str(error):
            _log.warning(Event.WATCH_FAILED, reason=str(error), **self._bound())
        self._told = str(error)

    def heard(self, event: Object) -> None:
        """The endpoint whose object changed gets its hint; a bookmark only says how far the watch has come."""
        metadata = event["object"]["metadata"]
        self._silent = 0
        self.since = str(metadata["resourceVersion"])
        name = part(metadata, "labels").get(INSTANCE_LABEL)
        if event["type"] != "BOOKMARK" and name in self._names:
            self._hint(name)

    def next_pause_s(self, pauses: Pauses) -> float:
        """Longer after each watch that heard nothing."""
        pause_s = min(pauses.first_s * 2 ** min(self._silent, 16), pauses.longest_s)
        self._silent += 1
        return pause_s

    def _bound(self) -> dict[str, str]:
        return {"kind": self.place.kind.kind, "namespace": self.place.namespace}


class _Hints:
    """Passes hints on: the first at once, those that follow within the spacing as one."""

    def __init__(self, wake: Callable[[str], None], *, spacing_s: float) -> None:
        self._wake = wake
        self._spacing_s = spacing_s
        self._changed = threading.Condition()
        self._due: dict[str, float] = {}
        self._passed: dict[str, float] = {}
        self._is_stopped = False

    def add(self, name: str) -> None:
        """One hint; returns at once."""
        with self._changed:
            now = time.monotonic()
            last = self._passed.get(name)
            soonest = now if last is None else max(now, last + self._spacing_s)
            self._due.setdefault(name, soonest)
            self._changed.notify_all()

    def stop(self) -> None:
        """Ends `run`."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()

    def run(self) -> None:
        """Passes on what is due until it is stopped."""
        with self._changed:
            while not self._is_stopped:
                now = time.monotonic()
                for name in [one for one, due in self._due.items() if due <= now]:
                    del self._due[name]
                    self._passed[name] = now
                    self._wake(name)
                soonest = min(self._due.values(), default=None)
                self._changed.wait(None if soonest is None else max(0.0, soonest - now))


def places_of(watched: Iterable[tuple[str, str, Iterable[Kind]]]) -> dict[Place, frozenset[str]]:
    """The endpoints at each place, from each endpoint's name, namespace and kinds: what two share is watched once."""
    places: dict[Place, frozenset[str]] = {}
    for name, namespace, kinds in watched:
        for kind in kinds:
            place = Place(namespace, kind)
            places[place] = places.get(place, frozenset()) | {name}
    return places
