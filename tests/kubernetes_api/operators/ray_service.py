"""What KubeRay 1.7 says about a RayService. Pure.

`serviceStatus` is Running or empty; the applications are those of `serveConfigV2`, under the cluster that serves
(`activeServiceStatus`) or, before there is one, that is being made (`pendingServiceStatus`). Ray does not try again what it
failed to deploy, until the object changes.
"""

from collections.abc import Mapping
from typing import Any

import yaml

from tests.kubernetes_api.operators.behaviour import Look, Stage
from tests.kubernetes_api.operators.conditions import condition, observed

Body = Mapping[str, Any]

_WORDS = {
    Stage.PROGRESSING: ("DEPLOYING", "UPDATING"),
    Stage.READY: ("RUNNING", "HEALTHY"),
    Stage.FAILED: ("DEPLOY_FAILED", "UNHEALTHY"),
}
_GIVEN_UP, _UNHEALTHY = "DEPLOY_FAILED", "UNHEALTHY"
"""Of an application that never ran, and of one that was running."""


def ray_service_status(body: Body, look: Look, now: str) -> Body | None:
    """The status after a look; None when the operator has not seen the object yet."""
    generation = observed(body, is_stale=look.is_stale)
    if not generation:
        return None
    before = body.get("status", {})
    if before.get("observedGeneration") == generation and _gave_up(before):
        return before
    was_active = bool(before.get("activeServiceStatus", {}).get("rayClusterName"))
    is_ready = look.stage is Stage.READY
    has_active = is_ready or was_active
    cluster = {
        "rayClusterName": f"{body['metadata']['name']}-cluster",
        "applicationStatuses": _applications(body, look, was_active=was_active),
        **({"rayClusterStatus": _refusal(before, look, now)} if look.refused else {}),
    }
    conditions = [
        _ready(before, look, now, was_active=was_active),
        condition(
            before.get("conditions", ()),
            "UpgradeInProgress",
            status=False,
            now=now,
            reason="NoPendingCluster" if has_active else "NoActiveCluster",
            message="no upgrade goes on",
        ),
    ]
    return {
        "observedGeneration": generation,
        "serviceStatus": "Running" if is_ready else "",
        "numServeEndpoints": _replicas(body) if is_ready else 0,
        "activeServiceStatus": cluster if has_active else {},
        "pendingServiceStatus": {} if has_active else cluster,
        "conditions": [{**one, "observedGeneration": generation} for one in conditions],
    }


def _gave_up(before: Body) -> bool:
    pending = before.get("pendingServiceStatus", {}).get("applicationStatuses", {})
    return any(one["status"] == _GIVEN_UP for one in pending.values())


def _refusal(before: Body, look: Look, now: str) -> Body:
    stood = before.get("pendingServiceStatus", {}).get("rayClusterStatus", {}).get("conditions", ())
    said = {"reason": "FailedCreate", "message": look.refused}
    return {"conditions": [condition(stood, "ReplicaFailure", status=True, now=now, **said)]}


def _ready(before: Body, look: Look, now: str, *, was_active: bool) -> dict[str, Any]:
    if look.stage is Stage.READY:
        reason, message = "NonZeroServeEndpoints", "there are serve endpoints"
    elif was_active:
        reason, message = "ZeroServeEndpoints", "there is no serve endpoint any more"
    else:
        reason, message = "Initializing", "the service is being made"
    return condition(
        before.get("conditions", ()),
        "Ready",
        status=look.stage is Stage.READY,
        now=now,
        reason=reason,
        message=message,
    )


def _applications(body: Body, look: Look, *, was_active: bool) -> dict[str, Any]:
    of_application, of_deployment = _WORDS[look.stage]
    if look.stage is Stage.FAILED and was_active:
        of_application = _UNHEALTHY
    said = {"message": look.message} if look.message else {}
    config = yaml.safe_load(body["spec"].get("serveConfigV2") or "") or {}
    return {
        application["name"]: {
            "status": look.reason or of_application,
            **said,
            "serveDeploymentStatuses": {
                one["name"]: {"status": of_deployment, **said}
                for one in application.get("deployments", ())
            },
        }
        for application in config.get("applications", ())
    }


def _replicas(body: Body) -> int:
    groups = body["spec"]["rayClusterConfig"].get("workerGroupSpecs", ())
    return sum(one.get("replicas", 0) for one in groups) or 1
