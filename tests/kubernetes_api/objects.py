"""Small objects of the kinds that we write, and short ways to write them with the client's own API."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kubernetes import client

Body = dict[str, Any]
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"

PARENT = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "llm"}


def backend(version: str, weight: int, **changes: Any) -> Body:
    return {"name": f"chat-{version}", "port": 8000, "weight": weight, **changes}


def a_route(*backends: Mapping[str, Any], parent: Mapping[str, Any] = PARENT) -> Body:
    """An HTTPRoute as it would be read back: matches and groups are written out."""
    matches = [{"path": {"type": "PathPrefix", "value": "/"}}]
    full = [{"group": "", "kind": "Service", **one} for one in backends]
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "chat"},
        "spec": {
            "parentRefs": [dict(parent)],
            "rules": [{"matches": matches, "backendRefs": full}],
        },
    }


def _pod(name: str) -> Body:
    return {"spec": {"containers": [{"name": name, "image": "engine:1"}]}}


def a_ray_service(**spec: Any) -> Body:
    worker = {"groupName": "engine", "replicas": 1, "minReplicas": 1, "maxReplicas": 1}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {"name": "chat-v7"},
        "spec": {
            "serveConfigV2": "applications:\n  - name: chat\n",
            "rayClusterConfig": {
                "headGroupSpec": {"rayStartParams": {}, "template": _pod("ray-head")},
                "workerGroupSpecs": [
                    {**worker, "rayStartParams": {}, "template": _pod("ray-worker")}
                ],
            },
            **spec,
        },
    }


def an_inference_service(predictor: Body | None = None, **spec: Any) -> Body:
    model = {"modelFormat": {"name": "triton"}, "storageUri": "s3://models/llm"}
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "chat-v7"},
        "spec": {"predictor": {"model": model, **(predictor or {})}, **spec},
    }


def a_canary(percent: int, *, name: str | None = "canary") -> Body:
    """One of InferenceService's `canary`."""
    named = {} if name is None else {"name": name}
    model = {"modelFormat": {"name": "triton"}, "storageUri": "s3://models/llm", **named}
    return {"predictor": {"model": model}, "trafficPercent": percent}


def a_rule(**changes: Any) -> Body:
    alert = {"alert": "HighLatency", "expr": "up == 0", "for": "5m", **changes}
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "llm-monitoring"},
        "spec": {"groups": [{"name": "LLMMetrics", "rules": [alert]}]},
    }


_PLURALS = {
    "HTTPRoute": "httproutes",
    "Gateway": "gateways",
    "RayService": "rayservices",
    "InferenceService": "inferenceservices",
    "PrometheusRule": "prometheusrules",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Objects:
    """Custom objects in one namespace, written by one client."""

    by: client.ApiClient
    namespace: str

    @property
    def _api(self) -> client.CustomObjectsApi:
        return client.CustomObjectsApi(self.by)

    def _place(self, body: Mapping[str, Any]) -> tuple[str, str, str, str]:
        group, version = body["apiVersion"].split("/")
        return group, version, self.namespace, _PLURALS[body["kind"]]

    def post(self, body: Body, **options: Any) -> Body:
        return self._api.create_namespaced_custom_object(*self._place(body), body, **options)

    def get(self, body: Mapping[str, Any]) -> Body:
        name = body["metadata"]["name"]
        return self._api.get_namespaced_custom_object(*self._place(body), name)

    def list(self, body: Mapping[str, Any], **options: Any) -> Body:
        """All of the body's kind."""
        return self._api.list_namespaced_custom_object(*self._place(body), **options)

    def put(self, body: Body, **options: Any) -> Body:
        name = body["metadata"]["name"]
        return self._api.replace_namespaced_custom_object(*self._place(body), name, body, **options)

    def apply(self, body: Body, *, manager: str = "shipway", **options: Any) -> Body:
        """What is there then. The client drops the body of a 201, so that an object that is new is read again."""
        name = body["metadata"]["name"]
        applied = self._api.patch_namespaced_custom_object(
            *self._place(body),
            name,
            body,
            field_manager=manager,
            _content_type=APPLY,
            **options,
        )
        return self.get(body) if applied is None else applied

    def merge(self, body: Mapping[str, Any], patch: Body, **options: Any) -> Body:
        name = body["metadata"]["name"]
        return self._api.patch_namespaced_custom_object(
            *self._place(body), name, patch, _content_type=MERGE, **options
        )

    def merge_status(self, body: Mapping[str, Any], status: Body) -> Body:
        name = body["metadata"]["name"]
        return self._api.patch_namespaced_custom_object_status(
            *self._place(body), name, {"status": status}, _content_type=MERGE
        )

    def delete(self, one: Mapping[str, Any], **options: Any) -> Body:
        name = one["metadata"]["name"]
        return self._api.delete_namespaced_custom_object(*self._place(one), name, **options)
