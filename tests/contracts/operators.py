"""KubeRay, KServe in both of its modes and a Gateway's controller, as far as Shipway reads them: they write statuses.

Each `reconcile` is one pass over a namespace, by the API alone. What is new is starting after the first pass and ready
after the second; a version in `broken` never is. How KServe and Knative share requests out follows their sources: the
newest spec is a revision, "latest" is the newest *ready* one, and what had 100 % before keeps the rest.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from kubernetes import client
from kubernetes.client.exceptions import ApiException

Body = Mapping[str, Any]
MERGE = "application/merge-patch+json"
VERSION = "app.kubernetes.io/version"
REVISION = "serving.knative.dev/revision"
_TEMPLATE = "test/template"

RAY_SERVICES = ("ray.io", "v1", "rayservices")
INFERENCE_SERVICES = ("serving.kserve.io", "v1beta1", "inferenceservices")
ROUTES = ("gateway.networking.k8s.io", "v1", "httproutes")
DEPLOYMENTS = ("apps", "v1", "deployments")


class Operators:
    """All of them, on one namespace."""

    def __init__(self, api: client.ApiClient, namespace: str) -> None:
        self._custom = client.CustomObjectsApi(api)
        self._core = client.CoreV1Api(api)
        self._namespace = namespace
        self.broken: dict[str, str] = {}
        """Versions that never get ready, and what is said about them."""
        self.slow: set[str] = set()
        """Versions that go on starting."""
        self.refused_pods: dict[str, str] = {}
        """Versions for which no pod may be made, and what the API server says about it."""
        self.mode: str | None = None
        """How KServe runs everything, whatever it is asked; as asked by default."""
        self.has_gateway = True

    def reconcile(self) -> None:
        """One pass of each."""
        for service in self.items(RAY_SERVICES):
            self._ray(service)
        for service in self.items(INFERENCE_SERVICES):
            asked = service["metadata"]["annotations"]["serving.kserve.io/deploymentMode"]
            if (self.mode or asked) == "Knative":
                self._knative(service)
            else:
                self._standard(service)
        if self.has_gateway:
            for route in self.items(ROUTES):
                self._gateway(route)
        self._collect()

    def items(self, kind: tuple[str, str, str]) -> list[Any]:
        group, version, plural = kind
        try:
            found = self._custom.list_namespaced_custom_object(
                group, version, self._namespace, plural
            )
        except ApiException as error:
            if error.status == 404:
                return []
            raise
        return found["items"]

    def kill_pods(self, version: str) -> None:
        """A container of each pod of the version ends and is started again."""
        for pod in self._core.list_namespaced_pod(
            self._namespace, label_selector=f"{VERSION}={version}"
        ).items:
            status = {"name": "engine", "ready": True, "image": "engine:1", "imageID": ""}
            counted = {**status, "restartCount": 1, "state": {"running": {}}}
            self._core.patch_namespaced_pod_status(
                pod.metadata.name,
                self._namespace,
                {"status": {"containerStatuses": [counted]}},
                _content_type=MERGE,
            )

    def _ray(self, service: Body) -> None:
        name, labels = service["metadata"]["name"], service["metadata"]["labels"]
        version = labels[VERSION]
        self._ensure_pod(f"{name}-head", labels)
        seen = {"observedGeneration": service["metadata"]["generation"]}
        app = {"serveDeploymentStatuses": {"llm": {"status": "HEALTHY"}}, "status": "RUNNING"}
        failed_before = service.get("status", {}).get("pendingServiceStatus", {})
        if said := self.broken.get(version):
            failed = {"status": "DEPLOY_FAILED", "message": said}
            app = {"serveDeploymentStatuses": {"llm": failed}, "status": "DEPLOY_FAILED"}
            pending = {"applicationStatuses": {"chat": app}, "rayClusterName": f"{name}-x"}
            self._say(RAY_SERVICES, name, {**seen, "pendingServiceStatus": pending})
        elif failed_before:
            return  # Ray does not try again what it failed to deploy
        elif "status" not in service or version in self.slow:
            self._say(
                RAY_SERVICES,
                name,
                {**seen, "conditions": [_condition("Ready", "False", "Initializing")]},
            )
        else:
            active = {"applicationStatuses": {"chat": app}, "rayClusterName": f"{name}-x"}
            ready = {
                "activeServiceStatus": active,
                "numServeEndpoints": 1,
                "conditions": [_condition("Ready", "True", "NonZeroServeEndpoints")],
            }
            self._say(RAY_SERVICES, name, {**seen, **ready})

    def _standard(self, service: Body) -> None:
        name = service["metadata"]["name"]
        labels = {**service["metadata"]["labels"], "serving.kserve.io/inferenceservice": name}
        said = self.broken.get(labels[VERSION])
        is_new = self._ensure_deployment(f"{name}-predictor", labels)
        self._ensure_pod(f"{name}-predictor-0", labels)
        is_ready = not is_new and said is None and labels[VERSION] not in self.slow
        self._say_deployment(f"{name}-predictor", 1 if is_ready else 0)
        # Ready is True from the start, as in mid-rollout: nobody may go by it.
        conditions = [_condition("Ready", "True", "")]
        model = _model(said, is_ready=is_ready)
        mode = {"deploymentMode": self.mode or "Standard"}
        self._say(
            INFERENCE_SERVICES, name, {"conditions": conditions, "modelStatus": model, **mode}
        )

    def _knative(self, service: Body) -> None:
        metadata, predictor = service["metadata"], service["spec"]["predictor"]
        name = metadata["name"]
        labels = {**metadata["labels"], "serving.kserve.io/inferenceservice": name}
        percent = predictor.get("canaryTrafficPercent")
        template = _digest(labels, metadata["annotations"], predictor)
        own = self._revisions(name)
        is_new = not own or own[-1]["metadata"]["annotations"][_TEMPLATE] != template
        if is_new:
            revision = f"{name}-predictor-{len(own) + 1:05}"
            self._ensure_deployment(f"{revision}-deployment", {**labels, REVISION: revision})
            self._annotate(f"{revision}-deployment", {_TEMPLATE: template})
            self._ensure_pod(f"{revision}-pod", {**labels, REVISION: revision})
            own = self._revisions(name)
        status = service.get("status", {}).get("components", {}).get("predictor", {"traffic": []})
        newest = own[-1]["metadata"]["labels"]
        said = self.broken.get(newest[VERSION])
        is_ready = not is_new and said is None and newest[VERSION] not in self.slow
        created = newest[REVISION]
        ready = created if is_ready else status.get("latestReadyRevision")
        before = status.get("latestRolledoutRevision")
        traffic: list[Body] = []
        if ready is not None:
            share = 100 if percent is None or before is None else percent
            traffic = [
                {"latestRevision": True, "revisionName": ready, "percent": share, "tag": "latest"}
            ]
            if share < 100:
                rest = {"revisionName": before, "percent": 100 - share, "tag": "prev"}
                traffic.append({"latestRevision": False, **rest})
            if share == 100:
                before = ready
        told = {
            "latestCreatedRevision": created,
            "latestReadyRevision": ready,
            "latestRolledoutRevision": before,
            "traffic": traffic,
        }
        routed = {created, *(one["revisionName"] for one in traffic)}
        for one in own:
            revision = one["metadata"]["labels"][REVISION]
            wanted = 1 if revision in routed else 0
            if one["spec"]["replicas"] != wanted:
                self._scale(one["metadata"]["name"], wanted)
            runs = wanted and (revision != created or is_ready)
            self._say_deployment(one["metadata"]["name"], 1 if runs else 0)
        self._say(
            INFERENCE_SERVICES,
            name,
            {
                "conditions": [_condition("Ready", "True", "")],
                "modelStatus": _model(said, is_ready=is_ready),
                "components": {
                    "predictor": {key: value for key, value in told.items() if value is not None}
                },
                "deploymentMode": "Knative",
            },
        )

    def _gateway(self, route: Body) -> None:
        seen = {
            "observedGeneration": route["metadata"]["generation"],
            "lastTransitionTime": "2026-11-24T12:00:00Z",
            "message": "",
        }
        conditions = [
            {"type": kind, "status": "True", "reason": kind, **seen}
            for kind in ("Accepted", "ResolvedRefs")
        ]
        parent = {
            "parentRef": route["spec"]["parentRefs"][0],
            "controllerName": "test.example.com/gateway",
            "conditions": conditions,
        }
        self._say(ROUTES, route["metadata"]["name"], {"parents": [parent]})

    def _collect(self) -> None:
        """What garbage collection would do: deployments and pods of objects that are gone."""
        kinds = (RAY_SERVICES, INFERENCE_SERVICES)
        owners = {one["metadata"]["name"] for kind in kinds for one in self.items(kind)}
        for one in self.items(DEPLOYMENTS):
            if one["metadata"]["labels"]["serving.kserve.io/inferenceservice"] not in owners:
                self._custom.delete_namespaced_custom_object(
                    *_place(DEPLOYMENTS, self._namespace), one["metadata"]["name"]
                )
        for pod in self._core.list_namespaced_pod(self._namespace).items:
            if pod.metadata.annotations["test/owner"] not in owners:
                self._core.delete_namespaced_pod(
                    pod.metadata.name, self._namespace, _preload_content=False
                ).read()

    def _revisions(self, service: str) -> list[Any]:
        named = [
            one
            for one in self.items(DEPLOYMENTS)
            if one["metadata"]["labels"].get("serving.kserve.io/inferenceservice") == service
        ]
        return sorted(named, key=lambda one: one["metadata"]["name"])

    def _ensure_deployment(self, name: str, labels: Body) -> bool:
        """Whether it was made now."""
        template = {
            "metadata": {"labels": {"pod": name}},
            "spec": {"containers": [{"name": "engine", "image": "engine:1"}]},
        }
        body = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name, "labels": labels},
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": {"pod": name}},
                "template": template,
            },
        }
        return _made(
            lambda: self._custom.create_namespaced_custom_object(
                *_place(DEPLOYMENTS, self._namespace), body
            )
        )

    def _ensure_pod(self, name: str, labels: Body) -> None:
        owner = labels.get("serving.kserve.io/inferenceservice", name.removesuffix("-head"))
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": labels, "annotations": {"test/owner": owner}},
            "spec": {"containers": [{"name": "engine", "image": "engine:1"}]},
        }
        _made(lambda: self._core.create_namespaced_pod(self._namespace, body))

    def _annotate(self, deployment: str, annotations: Body) -> None:
        self._merge(DEPLOYMENTS, deployment, {"metadata": {"annotations": annotations}})

    def _scale(self, deployment: str, replicas: int) -> None:
        self._merge(DEPLOYMENTS, deployment, {"spec": {"replicas": replicas}})

    def _say_deployment(self, name: str, available: int) -> None:
        found = next(one for one in self.items(DEPLOYMENTS) if one["metadata"]["name"] == name)
        counts = {"replicas": 1, "updatedReplicas": 1, "availableReplicas": available}
        seen = {"observedGeneration": found["metadata"]["generation"]}
        refused = self.refused_pods.get(found["metadata"]["labels"][VERSION])
        failure = {**_condition("ReplicaFailure", "True", "FailedCreate"), "message": refused}
        conditions = {} if refused is None else {"conditions": [failure]}
        self._say(DEPLOYMENTS, name, {**counts, **seen, **conditions})

    def _say(self, kind: tuple[str, str, str], name: str, status: Body) -> None:
        self._custom.patch_namespaced_custom_object_status(
            *_place(kind, self._namespace), name, {"status": status}, _content_type=MERGE
        )

    def _merge(self, kind: tuple[str, str, str], name: str, patch: Body) -> None:
        self._custom.patch_namespaced_custom_object(
            *_place(kind, self._namespace), name, patch, _content_type=MERGE
        )


def _place(kind: tuple[str, str, str], namespace: str) -> Iterator[str]:
    group, version, plural = kind
    return iter((group, version, namespace, plural))


def _made(create: Any) -> bool:
    try:
        create()
    except ApiException as error:
        if error.status != 409:
            raise
        return False
    return True


def _condition(kind: str, status: str, reason: str) -> Body:
    told = {"message": "", "lastTransitionTime": "2026-11-24T12:00:00Z"}
    return {"type": kind, "status": status, "reason": reason or "Said", **told}


def _model(said: str | None, *, is_ready: bool) -> Body:
    if said is not None:
        failure = {"reason": "ModelLoadFailed", "message": said}
        return {"transitionStatus": "BlockedByFailedLoad", "lastFailureInfo": failure}
    return {"transitionStatus": "UpToDate" if is_ready else "InProgress"}


def _digest(*parts: Body) -> str:
    """Of what goes into a Knative revision's template: everything but the share of the requests."""
    kept = [
        {key: one for key, one in part.items() if key != "canaryTrafficPercent"} for part in parts
    ]
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
