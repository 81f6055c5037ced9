"""Conditions of a status, whose time moves only when their status does. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

Body = Mapping[str, Any]


def condition(
    before: Iterable[Body], kind: str, *, status: bool | None, now: str, **said: Any
) -> dict[str, Any]:
    """A condition; None is Unknown. `before` are the conditions that stand there."""
    word = "Unknown" if status is None else str(status)
    stood = next((one for one in before if one["type"] == kind), None)
    since = stood["lastTransitionTime"] if stood and stood["status"] == word else now
    return {"type": kind, "status": word, "lastTransitionTime": since, **said}


def observed(body: Body, *, is_stale: bool) -> int:
    """The generation that an operator has seen; 0 when it has seen none."""
    generation: int = body["metadata"]["generation"]
    return generation - is_stale
