"""What a Gateway's controller says about an HTTPRoute: one entry for each parent. Pure."""

from collections.abc import Mapping
from typing import Any

from tests.kubernetes_api.operators.behaviour import Look, Stage
from tests.kubernetes_api.operators.conditions import condition, observed

Body = Mapping[str, Any]

CONTROLLER = "gateway.example/controller"
_OF_ACCEPTANCE = {
    "NotAllowedByListeners",
    "NoMatchingListenerHostname",
    "NoMatchingParent",
    "UnsupportedValue",
}
"""Reasons for which a route is not accepted; any other is about what it refers to."""


def http_route_status(body: Body, look: Look, now: str) -> Body | None:
    """The status after a look; None while the controller has said nothing yet."""
    generation = observed(body, is_stale=look.is_stale)
    if not generation:
        return None
    before = {
        _identity(one["parentRef"]): one["conditions"]
        for one in body.get("status", {}).get("parents", ())
    }
    reason = look.reason or "BackendNotFound"
    has_failed = look.stage is Stage.FAILED
    accepted: tuple[bool | None, str] = (True, "Accepted")
    resolved: tuple[bool | None, str] = (True, "ResolvedRefs")
    if look.stage is Stage.PROGRESSING:
        accepted = resolved = (None, "Pending")
    elif has_failed and reason in _OF_ACCEPTANCE:
        accepted = (False, reason)
    elif has_failed:
        resolved = (False, reason)
    parents = []
    for parent in body["spec"].get("parentRefs", ()):
        stood = before.get(_identity(parent), ())
        conditions = [
            {
                **condition(stood, kind, status=status, now=now, reason=why, message=look.message),
                "observedGeneration": generation,
            }
            for kind, (status, why) in (("Accepted", accepted), ("ResolvedRefs", resolved))
        ]
        entry = {"parentRef": parent, "controllerName": CONTROLLER, "conditions": conditions}
        parents.append(entry)
    return {"parents": parents}


def _identity(parent: Body) -> tuple[Any, ...]:
    return parent["name"], parent.get("namespace"), parent.get("sectionName"), parent.get("port")
