"""Leadership by a Lease, renewed by a thread. What is decided is in `election`; here are the calls, the clock and the thread.

The clock is one that goes on while the process, or its machine, is suspended: who wakes up late knows it by itself,
before the first answer of the API server. A renewal counts from before it was asked for, and only once it was confirmed.
"""

import math
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog

from deploy_targets.cluster import LEASE, Cluster
from deploy_targets.in_cluster.election import (
    Terms,
    held_spec,
    hint_of,
    may_take,
    released_spec,
    with_hint,
)
from deploy_targets.manifest import OWN_LABELS, Object, part
from registry.errors import ObjectChanged, TargetUnavailable
from registry.events import Event

LEASE_NAME = "shipway-controller"
_HINT_ATTEMPTS = 3
"""Somebody who leaves a hint may come between a reading and a renewal; twice in a row is chance, thrice is a fault."""
_LOOK_S = 0.5
_BETWEEN_HINTS_S = 1.0
"""A follower writes no hint sooner after another: each may make a renewal of the leader's come too late."""
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Linux counts a suspended machine's time in the first alone."""

_log = structlog.get_logger()


def steady_s() -> float:
    """Seconds on this machine's own steady clock."""
    return time.clock_gettime(_CLOCK)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """The record as another one holds it, and since when it stands so, by the own clock."""

    spec: Object
    at_s: float


class LeaseLeadership:
    """One candidate for the Lease."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        namespace: str,
        identity: str,
        terms: Terms,
        clock: Callable[[], datetime],
        steady: Callable[[], float] = steady_s,
    ) -> None:
        """`cluster` must answer well within the renew deadline, and ask only once.

        `identity` is of this process alone; `clock` is for the record's readers, `steady` in seconds for what is decided.
        """
        self._cluster = cluster
        self._namespace = namespace
        self._identity = identity
        self._terms = terms
        self._clock = clock
        self._steady = steady
        self._look: Callable[[str | None], None] = lambda _: None
        self._until_s = float("-inf")
        self._term = 0
        """Counts the times that it came to lead."""
        self._told = threading.local()
        self._seen: _Seen | None = None
        self._hint_seen = ""
        self._hint_to_leave = ""
        self._hint_tried_s = float("-inf")
        self._bell = threading.Event()
        self._is_ended = False
        self._thread: threading.Thread | None = None

    def begin(self, look: Callable[[str | None], None]) -> None:
        """Starts the thread; see `Leadership`."""
        self._look = look
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)
        self._thread.start()

    def leads(self) -> bool:
        """See `Leadership`. Contacts nobody."""
        held = self._holds()
        term = self._term  # after, as it is counted up before: who holds anew must not hear yes under the old number
        told: int | None = getattr(self._told, "term", None)
        if not held or told not in {None, term}:
            self._told.term = None
            return False
        self._told.term = term
        return True

    def knows(self) -> bool:
        """See `Leadership`."""
        seen = self._seen
        if self._holds() or seen is None:
            return self._holds()
        is_anothers = seen.spec.get("holderIdentity") not in {None, "", self._identity}
        return is_anothers and self._steady() - seen.at_s < self._terms.duration_s

    def hint(self, model: str | None = None) -> None:
        """Looks itself where it leads; else the thread leaves the hint on the Lease, without the model, for the leader.

        Of many that come at once, one is left at once and one at a later attempt.
        """
        if self._holds():
            self._look(model)
        else:
            self._hint_to_leave = uuid.uuid4().hex
            if self._may_leave_hint():
                self._bell.set()

    def end(self) -> None:
        """Ends the thread, then frees the Lease where it is still held."""
        self._is_ended = True
        self._bell.set()
        if self._thread is not None:
            self._thread.join()
        held = self._holds()
        self._until_s = float("-inf")
        if not held:
            return
        try:
            self._release()
        except TargetUnavailable as error:
            _log.warning(Event.LEASE_FAILED, identity=self._identity, error=str(error))

    def attempt(self) -> None:
        """Tries once to get the Lease, or to keep it.

        Raises:
            TargetUnavailable: it could not, for now.
        """
        lease = self._cluster.get(LEASE, self._namespace, LEASE_NAME)
        spec = part(lease or {}, "spec")
        unchanged_s = self._watched(spec)
        if lease is not None and not may_take(
            spec, identity=self._identity, unchanged_s=unchanged_s, terms=self._terms
        ):
            self._leave_hint(lease)
            return
        asked_s = self._steady()
        wanted = held_spec(spec, identity=self._identity, terms=self._terms, now=self._clock())
        if lease is None:
            written = self._cluster.create(LEASE, self._new(wanted))
        else:
            written = self._cluster.replace(LEASE, {**_bare(lease), "spec": wanted})
        self._confirmed(written, asked_s)

    def _watched(self, spec: Object) -> float:
        """For how long this record was seen unchanged; a first sight is 0."""
        now_s = self._steady()
        if self._seen is None or self._seen.spec != spec:
            self._seen = _Seen(spec=spec, at_s=now_s)
        return now_s - self._seen.at_s

    def _confirmed(self, lease: Object, asked_s: float) -> None:
        held = self._holds()
        hint = hint_of(lease)
        is_hinted = hint != self._hint_seen
        self._hint_seen, self._hint_to_leave = hint, ""
        self._seen = _Seen(spec=lease["spec"], at_s=asked_s)
        if not held:
            self._term += 1
        self._until_s = asked_s + self._terms.renew_deadline_s
        if not held:
            _log.info(Event.LEADERSHIP_GAINED, identity=self._identity, term=self._term)
        if not held or is_hinted:
            self._look(None)

    def _leave_hint(self, lease: Object) -> None:
        hint = self._hint_to_leave
        if hint and self._may_leave_hint():
            self._hint_tried_s = self._steady()
            self._cluster.replace(LEASE, with_hint(_bare(lease), hint))
            self._hint_to_leave = ""

    def _may_leave_hint(self) -> bool:
        return self._steady() - self._hint_tried_s >= _BETWEEN_HINTS_S

    def _release(self) -> None:
        lease = self._cluster.get(LEASE, self._namespace, LEASE_NAME)
        spec = part(lease or {}, "spec")
        if lease is not None and spec.get("holderIdentity") == self._identity:
            free = released_spec(spec, now=self._clock())
            self._cluster.replace(LEASE, {**_bare(lease), "spec": free})
            _log.info(Event.LEADERSHIP_RELEASED, identity=self._identity)

    def _holds(self) -> bool:
        return self._steady() < self._until_s

    def _new(self, spec: Object) -> Object:
        metadata = {"name": LEASE_NAME, "namespace": self._namespace, "labels": OWN_LABELS}
        return {
            "apiVersion": LEASE.api_version,
            "kind": LEASE.kind,
            "metadata": metadata,
            "spec": spec,
        }

    def _run(self) -> None:
        held = False
        while not self._is_ended:
            try:
                self.attempt()
            except TargetUnavailable as error:
                _log.warning(Event.LEASE_FAILED, identity=self._identity, error=str(error))
            except Exception:  # noqa: BLE001 - the top of the loop: a candidate that stopped trying would never lead again
                _log.exception(Event.LEASE_FAILED, identity=self._identity)
            if held and not self._holds():
                _log.warning(Event.LEADERSHIP_LOST, identity=self._identity, term=self._term)
            held = self._holds()
            self._bell.wait(self._terms.retry_s)
            self._bell.clear()


def _bare(lease: Object) -> dict[str, Any]:
    """As it is sent back: whose field is whose is the API server's to say."""
    metadata = {key: one for key, one in lease["metadata"].items() if key != "managedFields"}
    return {**lease, "metadata": metadata}


def hint_leader(
    cluster: Cluster, *, namespace: str, terms: Terms, sleep: Callable[[float], None]
) -> bool:
    """Has whoever leads look now, from outside; says whether anybody does.

    Raises:
        TargetUnavailable: the API server does not answer, or refuses.
    """
    for _ in range(_HINT_ATTEMPTS):
        lease = cluster.get(LEASE, namespace, LEASE_NAME)
        if lease is None:
            return False
        try:
            left = cluster.replace(LEASE, with_hint(_bare(lease), uuid.uuid4().hex))
        except ObjectChanged:
            continue
        return is_renewed(cluster, left, namespace=namespace, terms=terms, sleep=sleep)
    message = "The Lease changed each time a hint was to be left on it. Try again."
    raise ObjectChanged(message)


def is_renewed(
    cluster: Cluster,
    lease: Object,
    *,
    namespace: str,
    terms: Terms,
    sleep: Callable[[float], None],
) -> bool:
    """Whether the Lease is held and its holder renews it. Waits for that, at the most as long as a holder may take.

    Raises:
        TargetUnavailable: the API server does not answer, or refuses.
    """
    if not part(lease, "spec").get("holderIdentity"):
        return False
    for _ in range(math.ceil(terms.renew_deadline_s / _LOOK_S)):
        sleep(_LOOK_S)
        now = cluster.get(LEASE, namespace, LEASE_NAME)
        if part(now or {}, "spec") != lease["spec"]:
            return bool(part(now or {}, "spec").get("holderIdentity"))
    return False
