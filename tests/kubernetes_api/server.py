"""The stand-in for an API server: the state, the clock and the faults around the pure `api`; HTTP itself is `wire`'s.

One lock around one store; a watch waits for it to change. Times come from the clock, uids from chance. What fails
unforeseen is kept in `errors`, for the test to fail by.
"""

import datetime as dt
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from deploy_targets.local.process import free_port
from tests.kubernetes_api import status
from tests.kubernetes_api.addresses import Request, attempts, find_address, find_verb
from tests.kubernetes_api.api import Answer, Moment, answer
from tests.kubernetes_api.faults import Faults
from tests.kubernetes_api.rbac import Attempt, User, admin
from tests.kubernetes_api.resources import Catalogue
from tests.kubernetes_api.store import Key, Store, compacted, put
from tests.kubernetes_api.watches import Watch, bookmark, first_events, next_events
from tests.kubernetes_api.wire import Http

ADMIN_TOKEN = "administrator-of-the-test"
_NAMESPACES = ("default", "kube-system")
_LIVED = 1000
"""A server has lived before a test meets it: a watch from resourceVersion 1 comes too late."""


class StandIn:
    """A running API server."""

    def __init__(self, catalogue: Catalogue) -> None:
        """Start it with nothing in it but the namespaces that every cluster has."""
        self.catalogue = catalogue
        self.faults = Faults()
        self.errors: list[str] = []
        """What failed inside, with its trace: none in a good test."""
        self.attempts: dict[str, set[Attempt]] = defaultdict(set)
        """What each user asked for, whether it was allowed or not: from this the least rights are written."""
        self.bookmark_s = 1.0
        """Between two bookmarks of a watch; a real server takes about a minute."""
        self._store = replace(_begun(), tokens={ADMIN_TOKEN: admin()})
        self.changed = threading.Condition()
        self._http: Http | None = None
        self._watches = 0
        self._port = free_port(0, set())  # one that nobody else is given while it is away
        self.come_back()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def store(self) -> Store:
        """All that is in it: a value, which later writes leave as it is."""
        with self.changed:
            return self._store

    @property
    def is_away(self) -> bool:
        return self._http is None

    def go_away(self) -> None:
        """Refuse every connection and end those that are open; the state stays."""
        http, self._http = self._http, None
        if http is not None:
            http.end(self.changed)

    def come_back(self) -> None:
        """Answer again, at the same address, with the state there was."""
        self._http = Http(self, self._port)
        self._port = self._http.server_address[1]
        self._http.start()

    def drop_watches(self) -> None:
        """Cut every open watch, without a last word."""
        if self._http is not None:
            self._http.drop_watches(self.changed)

    def compact(self) -> None:
        """Forget the past: every resourceVersion that was handed out is too old to watch from."""
        self._change(lambda store: (compacted(store), None))

    def revoke(self, token: str) -> None:
        """Know that token no longer, as when it has expired."""
        self._change(
            lambda store: (
                replace(
                    store, tokens={one: who for one, who in store.tokens.items() if one != token}
                ),
                None,
            )
        )

    def wait_until(self, holds: Callable[[Store], bool], *, timeout_s: float = 60) -> None:
        """Wait until the state is as wanted.

        Raises:
            TimeoutError: it never was.
        """
        with self.changed:
            if not self.changed.wait_for(lambda: holds(self._store), timeout_s):
                raise TimeoutError("the state of the stand-in never became what was waited for")

    def wait_for_watches(self, count: int, *, timeout_s: float = 60) -> None:
        """Wait until exactly so many watches are open.

        Raises:
            TimeoutError: there never were.
        """
        with self.changed:
            if not self.changed.wait_for(lambda: self._watches == count, timeout_s):
                raise TimeoutError(f"{self._watches} watches are open, not {count}")

    def user_of(self, authorization: str) -> User:
        """Whom a request's header stands for.

        Raises:
            Refusal: 401.
        """
        scheme, _, token = authorization.partition(" ")
        # The client spells it in small letters in a pod, and with a capital by a kubeconfig: HTTP does not mind.
        user = self.store.tokens.get(token) if scheme.lower() == "bearer" else None
        if user is None:
            raise status.unauthorized()
        return user

    def answer(self, request: Request, user: User) -> Answer | Watch:
        """The answer to a request, its changes done."""
        moment = Moment(now=_now(), uid=str(uuid.uuid4()))
        self._note(request, user)
        return self._change(lambda store: answer(store, self.catalogue, request, user, moment))

    def _note(self, request: Request, user: User) -> None:
        address = find_address(self.catalogue, request.path)
        if address is not None:
            verb = find_verb(request, address)
            with self.changed:
                asked = attempts(self._store, address, verb, request)
                self.attempts[user.name].update(asked)

    def _change(self, change: Callable[[Store], tuple[Store, Any]]) -> Any:
        with self.changed:
            after, result = change(self._store)
            if after is not self._store:
                self._store = after
                self.changed.notify_all()
            return result

    def events(self, watch: Watch, is_cut: Callable[[], bool]) -> Iterator[Mapping[str, Any]]:
        """What a watch is told, as it happens, until its time is over or it is cut."""
        with self.changed:
            self._watches += 1
            begins = self._store
            self.changed.notify_all()
        try:
            yield from self._events(watch, begins, is_cut)
        finally:
            with self.changed:
                self._watches -= 1
                self.changed.notify_all()

    def _events(
        self, watch: Watch, store: Store, is_cut: Callable[[], bool]
    ) -> Iterator[Mapping[str, Any]]:
        began = marked = time.monotonic()
        since = watch.since
        if since is None:
            yield from first_events(store, watch)
            since = store.revision
        elif since < store.oldest:
            yield {"type": "ERROR", "object": status.expired(since, store.oldest)}
            return
        yield from next_events(store, watch, since)
        since = store.revision
        ends = None if watch.timeout_s is None else began + watch.timeout_s
        while not is_cut():
            now = time.monotonic()
            if ends is not None and now >= ends:
                break
            if watch.has_bookmarks and now >= marked + self.bookmark_s:
                marked = now
                yield bookmark(watch, since)
            marks = marked + self.bookmark_s if watch.has_bookmarks else None
            due = [one - now for one in (ends, marks) if one is not None]
            with self.changed:
                if self._store.revision <= since and not is_cut():
                    self.changed.wait(min(due, default=None))
                store = self._store
            if since < store.oldest - 1:
                yield {"type": "ERROR", "object": status.expired(since, store.oldest)}
                return
            yield from next_events(store, watch, since)
            since = store.revision
        if watch.has_bookmarks and not is_cut():
            yield bookmark(watch, since)


def _begun() -> Store:
    store = Store(revision=_LIVED, oldest=_LIVED)
    for name in _NAMESPACES:
        metadata = {
            "name": name,
            "uid": str(uuid.uuid4()),
            "creationTimestamp": _now(),
            "labels": {"kubernetes.io/metadata.name": name},
        }
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
        store, _ = put(store, Key("", "namespaces", "", name), body)
    return store


def _now() -> str:
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@contextmanager
def standing_in(catalogue: Catalogue) -> Iterator[StandIn]:
    """A stand-in until the end of the block, which then must not have failed inside."""
    server = StandIn(catalogue)
    try:
        yield server
    finally:
        server.go_away()
    assert server.errors == []
