"""What KServe 0.20 says about an InferenceService, in Standard and in Knative mode. Pure.

The traps are kept: in Standard mode `Ready` stays True while a later spec rolls out or fails, and `observedGeneration` is
the Deployment's; `canaryTrafficPercent` acts in Knative mode alone, and there on the newest revision that is *ready*, which
need not be the newest.
"""

from collections.abc import Mapping
from typing import Any

from tests.kubernetes_api.operators.behaviour import Look, Stage
from tests.kubernetes_api.operators.conditions import condition, observed

Body = Mapping[str, Any]

_ALL = 100
_MODELS = {
    # transitionStatus, activeModelState, targetModelState
    Stage.PROGRESSING: ("InProgress", "Loaded", "Loading"),
    Stage.READY: ("UpToDate", "Loaded", "Loaded"),
    Stage.FAILED: ("BlockedByFailedLoad", "Loaded", "FailedToLoad"),
}


def standard_status(body: Body, look: Look, now: str, *, deployment_generation: int) -> Body | None:
    """The status in Standard mode after a look; None when KServe has not seen the object yet."""
    if not observed(body, is_stale=look.is_stale):
        return None
    before = body.get("status", {})
    was_ready = any(
        one["type"] == "Ready" and one["status"] == "True" for one in before.get("conditions", ())
    )
    name, namespace = body["metadata"]["name"], body["metadata"]["namespace"]
    is_ready = look.stage is Stage.READY or was_ready
    canaries = [
        {
            "name": one["predictor"].get("model", {}).get("name", ""),
            "ready": look.stage is Stage.READY,
            "trafficPercent": one["trafficPercent"],
        }
        for one in body["spec"].get("canary", ())
    ]
    return {
        "observedGeneration": deployment_generation,
        "deploymentMode": "Standard",
        "url": f"http://{name}-{namespace}.example.com",
        "conditions": _conditions(before, now, is_ready=is_ready, look=look),
        "modelStatus": _model_status(look, was_ready=was_ready),
        "components": {"predictor": {"url": f"http://{name}-predictor-{namespace}.example.com"}},
        **({"canaryStatuses": canaries} if canaries else {}),
    }


def knative_status(body: Body, look: Look, now: str, *, revision: int) -> Body | None:
    """The status in Knative mode after a look; `revision` counts the specs that were different pods."""
    generation = observed(body, is_stale=look.is_stale)
    if not generation:
        return None
    before = body.get("status", {})
    stood: Body = before.get("components", {}).get("predictor", {})
    prefix = f"{body['metadata']['name']}-predictor"
    created = stood.get("latestCreatedRevision", "") if look.is_stale else f"{prefix}-{revision:05}"
    is_ready = look.stage is Stage.READY
    has_come = is_ready and not look.is_stale
    ready = created if has_come else stood.get("latestReadyRevision", "")
    component = {
        **stood,
        "url": f"http://{prefix}.example.com",
        "latestCreatedRevision": created,
        "latestReadyRevision": ready,
    }
    if ready and not look.is_stale:
        share = body["spec"]["predictor"].get("canaryTrafficPercent", _ALL)
        component |= _traffic(stood, ready, share)
    return {
        "observedGeneration": generation,
        "deploymentMode": "Knative",
        "conditions": _conditions(before, now, is_ready=is_ready, look=look),
        "modelStatus": _model_status(look, was_ready=bool(stood.get("latestReadyRevision"))),
        "components": {"predictor": {key: one for key, one in component.items() if one != ""}},
    }


def _traffic(stood: Body, latest: str, share: int) -> dict[str, Any]:
    """Who gets which share: the latest that is ready its own, the one rolled out last the rest."""
    rolled_out = stood.get("latestRolledoutRevision", "")
    newest = {"revisionName": latest, "latestRevision": True, "percent": share, "tag": "latest"}
    if share >= _ALL or not rolled_out or rolled_out == latest:
        previous = (
            rolled_out if rolled_out != latest else stood.get("previousRolledoutRevision", "")
        )
        return {
            "latestRolledoutRevision": latest,
            "previousRolledoutRevision": previous,
            "traffic": [{**newest, "percent": _ALL}],
        }
    rest = {
        "revisionName": rolled_out,
        "latestRevision": False,
        "percent": _ALL - share,
        "tag": "prev",
    }
    return {"traffic": [newest, rest]}


def _conditions(before: Body, now: str, *, is_ready: bool, look: Look) -> list[dict[str, Any]]:
    status = True if is_ready else False if look.stage is Stage.FAILED else None
    said = {} if is_ready or not look.message else {"message": look.message}
    return [
        condition(before.get("conditions", ()), kind, status=status, now=now, **said)
        for kind in ("PredictorReady", "IngressReady", "Ready")
    ]


def _model_status(look: Look, *, was_ready: bool) -> dict[str, Any]:
    transition, active, target = _MODELS[look.stage]
    has_failed = look.stage is Stage.FAILED
    failure = {"reason": look.reason or "ModelLoadFailed", "message": look.message}
    has_active = was_ready or look.stage is Stage.READY
    return {
        "transitionStatus": transition,
        "states": {"activeModelState": active if has_active else "", "targetModelState": target},
        "copies": {"failedCopies": int(has_failed), "totalCopies": 1},
        **({"lastFailureInfo": failure} if has_failed else {}),
    }
