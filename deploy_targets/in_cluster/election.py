"""Who leads, by what a Lease says: what one attempt asks for, and how the record is spelt. Pure.

As client-go's leader election has it: the times in the record are for people. Whoever waits judges by how long it has
seen the record unchanged, on its own clock; the holder judges by its own last confirmed renewal, and gives up earlier than
anybody may follow. So two clocks are never compared.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from deploy_targets.manifest import Object, part

HINT = "shipway.io/look-now"
"""The annotation by which anybody has the leader look now; a new value is a new hint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How leadership passes on, in seconds. The holder must give up before anybody may follow."""

    duration_s: float
    """A record that was not renewed for so long is free."""
    renew_deadline_s: float
    """The holder acts no longer after a confirmed renewal than this."""
    retry_s: float
    """Between two attempts."""


def may_take(spec: Object, *, identity: str, unchanged_s: float, terms: Terms) -> bool:
    """Whether `identity` may write itself into the record, which it has seen unchanged for `unchanged_s`.

    The record's own duration counts where it is longer: its holder may have been started under other terms.
    """
    holder = spec.get("holderIdentity") or ""
    duration_s = max(terms.duration_s, spec.get("leaseDurationSeconds") or 0)
    return holder in {"", identity} or unchanged_s >= duration_s


def held_spec(spec: Object, *, identity: str, terms: Terms, now: datetime) -> dict[str, Any]:
    """The record once `identity` holds it from `now`, or goes on to."""
    is_renewal = spec.get("holderIdentity") == identity
    transitions = spec.get("leaseTransitions") or 0
    return {
        "holderIdentity": identity,
        "leaseDurationSeconds": max(1, round(terms.duration_s)),
        "acquireTime": spec["acquireTime"] if is_renewal else micro_time(now),
        "renewTime": micro_time(now),
        "leaseTransitions": transitions if is_renewal or not spec else transitions + 1,
    }


def released_spec(spec: Object, *, now: datetime) -> dict[str, Any]:
    """The record once its holder has let go: free at once, for everybody."""
    return {**spec, "holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": micro_time(now)}


def micro_time(at: datetime) -> str:
    """The only spelling of a time that a Lease takes."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def hint_of(lease: Object) -> str:
    """The last hint that was left on the Lease."""
    return str(part(lease, "metadata", "annotations").get(HINT, ""))


def with_hint(lease: Object, hint: str) -> Object:
    """The Lease with a hint for its holder."""
    metadata: Mapping[str, Any] = lease["metadata"]
    annotations = {**part(lease, "metadata", "annotations"), HINT: hint}
    return {**lease, "metadata": {**metadata, "annotations": annotations}}
