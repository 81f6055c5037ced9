"""What a platform must be able to do for Shipway: five things, each safe to repeat.

An adapter is made for one endpoint. Every method raises `registry.errors.TargetUnavailable` when its platform does
not answer; nothing may be concluded from that.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from deploy_targets.manifest import Manifest
from deploy_targets.routing.traffic import Traffic
from registry.release import Release


class Readiness(StrEnum):
    """Whether a revision can answer."""

    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"
    """The platform gave up on it: it will not become ready by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """A release as deployed on a target."""

    version: str
    readiness: Readiness
    reason: str = ""
    """What the platform says where it is not ready."""
    restarts: int = 0
    """How often a replica of it had to be started again; only ever grows while the revision lives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """One look at the platform."""

    revisions: Mapping[str, Revision] = field(default_factory=dict[str, Revision])
    traffic: Traffic = field(default_factory=Traffic)

    def is_ready(self, version: str) -> bool:
        """Whether that version is deployed and can answer."""
        revision = self.revisions.get(version)
        return revision is not None and revision.readiness is Readiness.READY


class Target(Protocol):
    """One endpoint on one platform."""

    def render(self, release: Release) -> tuple[Manifest, ...]:
        """Everything that `apply` would create for this release; pure, needs no server."""
        ...

    def apply(self, release: Release) -> None:
        """Create or repair the revision; it gets no traffic by this. Returns before it is ready."""
        ...

    def observe(self) -> Observed:
        """What is deployed and where the traffic goes, as the platform itself says."""
        ...

    def shift(self, traffic: Traffic) -> None:
        """Send new requests by these weights. Requests in flight finish where they are.

        Raises:
            TargetChanged: a weight for a revision that is not applied; nothing is changed.
        """
        ...

    def retire(self, version: str) -> None:
        """Delete the revision and all that `apply` made for it.

        Raises:
            TargetChanged: it has traffic; nothing is changed.
        """
        ...
