"""The Deployments and pods that operators make for an object, and what their own controllers say of them. Pure.

KServe and Knative hand the labels of an InferenceService down; KubeRay puts those of its pod templates on the pods. Nothing
is ever run: no scheduler and no kubelet takes these pods.
"""

from collections.abc import Mapping
from typing import Any

from tests.kubernetes_api.operators.behaviour import Look, Stage
from tests.kubernetes_api.operators.conditions import condition

Body = Mapping[str, Any]

REVISION_LABEL = "serving.knative.dev/revision"
_SERVICE_LABEL = "serving.kserve.io/inferenceservice"
_NOBODY = "nobody"
"""Schedules the pods, should the cluster have a scheduler."""


def standard_deployment(body: Body) -> dict[str, Any]:
    """The Deployment that KServe makes of a predictor in Standard mode."""
    replicas = body["spec"]["predictor"].get("minReplicas", 1)
    name = f"{body['metadata']['name']}-predictor"
    return _deployment(body, name, replicas=replicas, labels=_labels(body))


def revision_deployment(body: Body, revision: str) -> dict[str, Any]:
    """The Deployment that Knative makes of the newest revision."""
    labels = {**_labels(body), REVISION_LABEL: revision}
    return _deployment(body, f"{revision}-deployment", replicas=1, labels=labels)


def pod_of(deployment: Body) -> dict[str, Any]:
    """One pod of it, as if it were the object's own."""
    metadata = deployment["metadata"]
    spec = deployment["spec"]["template"]["spec"]
    return _pod(metadata, f"{metadata['name']}-0", metadata["labels"], spec["containers"])


def head_pod(body: Body) -> dict[str, Any]:
    """The head of a RayService's cluster."""
    template = body["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]
    labels = template.get("metadata", {}).get("labels", {})
    containers = [
        {"name": one["name"], "image": one["image"]} for one in template["spec"]["containers"]
    ]
    owned = {"namespace": body["metadata"]["namespace"], "ownerReferences": [_owner(body)]}
    return _pod(owned, f"{body['metadata']['name']}-head", labels, containers)


def deployment_status(deployment: Body, look: Look, now: str) -> dict[str, Any]:
    """The Deployment's status after a look; its own controller is never behind."""
    wanted = deployment["spec"]["replicas"]
    before = deployment.get("status", {})
    is_ready = look.stage is Stage.READY
    # The old pods serve until the new ones do.
    ready = wanted if is_ready else min(wanted, before.get("readyReplicas", 0))
    has_failed = look.stage is Stage.FAILED
    why = "NewReplicaSetAvailable" if is_ready else "ReplicaSetUpdated"
    said = {"message": look.message} if look.message else {}
    stood = before.get("conditions", ())
    enough = "MinimumReplicasAvailable" if ready >= wanted else "MinimumReplicasUnavailable"
    stuck = (look.reason or "ProgressDeadlineExceeded") if has_failed else why
    conditions = [
        condition(stood, "Available", status=ready >= wanted, now=now, reason=enough),
        condition(stood, "Progressing", status=not has_failed, now=now, reason=stuck, **said),
    ]
    if look.refused:
        refusal = {"reason": "FailedCreate", "message": look.refused}
        conditions.append(condition(stood, "ReplicaFailure", status=True, now=now, **refusal))
    return {
        "observedGeneration": deployment["metadata"]["generation"],
        "replicas": wanted if is_ready else wanted + 1,
        "updatedReplicas": wanted if is_ready else 1,
        "readyReplicas": ready,
        "availableReplicas": ready,
        "unavailableReplicas": 0 if is_ready else wanted + 1 - ready,
        "conditions": conditions,
    }


def _labels(body: Body) -> dict[str, str]:
    metadata = body["metadata"]
    return {**metadata.get("labels", {}), _SERVICE_LABEL: metadata["name"]}


def _deployment(
    body: Body, name: str, *, replicas: int, labels: Mapping[str, str]
) -> dict[str, Any]:
    model = body["spec"]["predictor"].get("model", {})
    container = {
        "name": "kserve-container",
        "image": model.get("image", "runtime"),
        "args": [*model.get("args", ()), f"--model={model.get('storageUri', '')}"],
    }
    own = {"app": f"isvc.{name}"}
    template = {"metadata": {"labels": {**labels, **own}}, "spec": {"containers": [container]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": name,
            "namespace": body["metadata"]["namespace"],
            "labels": {**labels, **own},
            "ownerReferences": [_owner(body)],
        },
        "spec": {"replicas": replicas, "selector": {"matchLabels": own}, "template": template},
    }


def _pod(
    owned: Body, name: str, labels: Mapping[str, str], containers: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": owned["namespace"],
            "labels": dict(labels),
            "ownerReferences": owned["ownerReferences"],
        },
        "spec": {"containers": containers, "schedulerName": _NOBODY},
    }


def _owner(body: Body) -> dict[str, Any]:
    return {
        "apiVersion": body["apiVersion"],
        "kind": body["kind"],
        "name": body["metadata"]["name"],
        "uid": body["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
