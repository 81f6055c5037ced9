"""Tells the guards to which version they are to mirror requests, for a while; said again by each look at a rollout.

Nothing of a rollout depends on it: a guard that did not hear mirrors nothing.
"""

from collections.abc import Mapping
from typing import Protocol

import structlog

from registry.errors import MetricsUnavailable
from registry.events import Event

_PATH = "/shadow"
"""`guard.shadow_target.SHADOW_PATH`: the guard and the rollout do not know one another."""
_FOR_S = 120.0
"""Longer than a look takes, a smoke test and a slow registry included, and the pause before the next."""
_log = structlog.get_logger()


class Guards(Protocol):
    """The admin side of an endpoint's guards."""

    def put(self, path: str, document: Mapping[str, object]) -> None:
        """Tells each of them; or MetricsUnavailable."""
        ...


class GuardMirror:
    """The guards of one endpoint."""

    def __init__(self, guards: Guards, *, endpoint: str) -> None:
        """Nobody is told anything yet."""
        self._guards = guards
        self._endpoint = endpoint
        self._told: str | None = None

    def follow(self, version: str | None) -> None:
        """Has requests mirrored to `version`; None ends it. Never raises: what was not heard is logged."""
        if version is None and self._told is None:
            return
        try:
            self._guards.put(_PATH, {"version": version, "for_s": _FOR_S})
        except MetricsUnavailable as error:
            _log.warning(
                Event.TICK_FAILED, endpoint=self._endpoint, part="mirror", error=str(error)
            )
            return
        self._told = version
