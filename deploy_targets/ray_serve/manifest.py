"""A version of an endpoint as KubeRay's RayService, with a NetworkPolicy around it. Pure.

One RayService for each version in flight, `<endpoint>-v<version>`, never changed once it is there: KubeRay would update
a changed Serve config in place, without a canary. Only an `operator-driven` endpoint has one RayService under its plain
name, which KubeRay moves from version to version by time. What runs inside is `serve_config`.
"""

from collections.abc import Mapping
from typing import Any

from deploy_targets.endpoint import Endpoint
from deploy_targets.manifest import (
    CONTAINER_SECURITY,
    Manifest,
    environment,
    kubernetes_object,
    limits,
    object_labels,
    revision_name,
    yaml_text,
)
from deploy_targets.placement import Autoscaling, RayServe
from deploy_targets.ray_serve.serve_config import render_serve_config
from deploy_targets.routing.http_route import Backend, render_route
from deploy_targets.routing.traffic import Traffic
from registry.release import Release

RAY_VERSION = "2.60.0"
"""Of the engine's image; KubeRay asks for it where the dashboard wants a token."""

SERVE_PORT, DASHBOARD_PORT, METRICS_PORT = 8000, 8265, 8080
_HEAD_PORTS = {
    "gcs-server": 6379,
    "dashboard": DASHBOARD_PORT,
    "metrics": METRICS_PORT,
    "serve": SERVE_PORT,
}
_WORKER_PORTS = {"metrics": METRICS_PORT, "serve": SERVE_PORT}
# No replica on the head. KubeRay asks its dashboard from outside the pod: the token and the NetworkPolicy guard it.
_HEAD_START = {"num-cpus": "0", "dashboard-host": "0.0.0.0"}  # noqa: S104

_RAYS_OWN_GIB = 2
"""Beside the replica in a worker's pod: raylet, agents, object store. On a small box all of it took 1.2 GiB."""


def render_all(endpoint: Endpoint, release: Release) -> tuple[Manifest, ...]:
    """Everything for `release` as the only version; without a route where KubeRay moves the requests.

    Raises:
        ManifestInvalid: see `render_revision`.
    """
    revision = render_revision(endpoint, release)
    if _settings(endpoint).rollout == "operator-driven":
        return revision
    versions = {release.version: backend(endpoint, release.version)}
    return (*revision, render_route(endpoint, versions, Traffic.all_to(release.version)))


def render_revision(endpoint: Endpoint, release: Release) -> tuple[Manifest, ...]:
    """The RayService of `release`, and the NetworkPolicy of its pods.

    Raises:
        ManifestInvalid: a name that is too long, or an endpoint that is not for Kubernetes.
    """
    return _ray_service(endpoint, release), _network_policy(endpoint, release)


def backend(endpoint: Endpoint, version: str) -> Backend:
    """The Service that KubeRay makes for the revision; behind it are the pods whose Serve proxy is healthy."""
    return Backend(service=f"{revision_name(endpoint.name, version)}-serve-svc", port=SERVE_PORT)


def _settings(endpoint: Endpoint) -> RayServe:
    return endpoint.ray_serve or RayServe()


def _metadata(endpoint: Endpoint, release: Release) -> dict[str, Any]:
    is_ours = _settings(endpoint).rollout == "shipway"
    return {
        "name": revision_name(endpoint.name, release.version) if is_ours else endpoint.name,
        "namespace": endpoint.cluster.namespace,
        "labels": object_labels(endpoint.name, release.version),
    }


def _ray_service(endpoint: Endpoint, release: Release) -> Manifest:
    ray = _settings(endpoint)
    told = {"shipway/model": release.model, "shipway/digest": release.digest}
    thresholds = {
        "serviceUnhealthySecondThreshold": ray.service_unhealthy_s,
        "deploymentUnhealthySecondThreshold": ray.deployment_unhealthy_s,
    }
    return kubernetes_object(
        "ray.io/v1",
        "RayService",
        metadata={**_metadata(endpoint, release), "annotations": told},
        spec={
            **{name: seconds for name, seconds in thresholds.items() if seconds is not None},
            "excludeHeadPodFromServeSvc": True,
            "upgradeStrategy": _upgrade(ray),
            "serveConfigV2": yaml_text(render_serve_config(endpoint, release)),
            "rayClusterConfig": _cluster(endpoint, release),
        },
    )


def _upgrade(ray: RayServe) -> dict[str, Any]:
    """None, said aloud: KubeRay's own default may move requests by time."""
    if ray.upgrade is None:
        return {"type": "None"}
    return {
        "type": "NewClusterWithIncrementalUpgrade",
        "clusterUpgradeOptions": {
            "gatewayClassName": ray.upgrade.gateway_class,
            "stepSizePercent": ray.upgrade.step_percent,
            "intervalSeconds": ray.upgrade.interval_s,
            "maxSurgePercent": ray.upgrade.max_surge_percent,
        },
    }


def _cluster(endpoint: Endpoint, release: Release) -> dict[str, Any]:
    """A head without replicas, and a worker's pod for each replica."""
    ray, replicas, resources = _settings(endpoint), endpoint.replicas, endpoint.resources
    fewest = replicas.min if isinstance(replicas, Autoscaling) else replicas
    # KubeRay demands its autoscaler for an upgrade of its own, too.
    scales = isinstance(replicas, Autoscaling) or ray.upgrade is not None
    autoscaler = {
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {"securityContext": CONTAINER_SECURITY},
    }
    secret = {} if ray.auth_secret is None else {"secretName": ray.auth_secret}
    head = _container(
        endpoint,
        name="ray-head",
        ports=_HEAD_PORTS,
        resources=limits(cpus=ray.head.cpus, memory_gib=ray.head.memory_gib),
    )
    worker = _container(
        endpoint,
        name="ray-worker",
        ports=_WORKER_PORTS,
        resources=limits(
            cpus=resources.cpus,
            memory_gib=resources.memory_gib + _RAYS_OWN_GIB,
            gpus=resources.gpus,
        ),
    )
    return {
        "rayVersion": RAY_VERSION,
        "authOptions": {"mode": "token", **secret},
        **(autoscaler if scales else {}),
        "headGroupSpec": {
            "rayStartParams": _HEAD_START,
            "template": _pod(endpoint, release, head, may_call_kubernetes=scales),
        },
        "workerGroupSpecs": [
            {
                "groupName": "engine",
                "replicas": fewest,
                "minReplicas": fewest,
                "maxReplicas": endpoint.max_replicas,
                "rayStartParams": {},
                "template": _pod(endpoint, release, worker, may_call_kubernetes=False),
            }
        ],
    }


def _pod(
    endpoint: Endpoint,
    release: Release,
    container: Mapping[str, Any],
    *,
    may_call_kubernetes: bool,
) -> dict[str, Any]:
    account = endpoint.cluster.service_account
    return {
        # The version is here, too, so that a RayService that KubeRay upgrades is another one with each version.
        "metadata": {"labels": object_labels(endpoint.name, release.version)},
        "spec": {
            **({} if account is None else {"serviceAccountName": account}),
            "automountServiceAccountToken": may_call_kubernetes,
            "securityContext": {
                "runAsNonRoot": True,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
        },
    }


def _container(
    endpoint: Endpoint, *, name: str, ports: Mapping[str, int], resources: Mapping[str, str]
) -> dict[str, Any]:
    kubernetes = endpoint.cluster
    secret = kubernetes.storage_secret
    return {
        "name": name,
        "image": kubernetes.image,
        **({"env": environment(kubernetes.env)} if kubernetes.env else {}),
        **({} if secret is None else {"envFrom": [{"secretRef": {"name": secret}}]}),
        "ports": [{"name": port, "containerPort": number} for port, number in ports.items()],
        "resources": {"requests": resources, "limits": resources},
        "securityContext": CONTAINER_SECURITY,
    }


def _network_policy(endpoint: Endpoint, release: Release) -> Manifest:
    """Who may reach the pods, whatever tokens there are: Ray itself, the Gateway, KubeRay and Prometheus.

    What the pods may reach stays open: where the artifact's storage is, is not known here.
    """
    gateway = endpoint.cluster.gateway
    proxies: dict[str, Any] = {}  # KubeRay's own Gateway may be anywhere
    if gateway is not None:
        namespace = gateway.proxies_namespace or gateway.namespace
        proxies = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    is_ours = _settings(endpoint).rollout == "shipway"
    labels = object_labels(endpoint.name, release.version if is_ours else None)
    own = {"podSelector": {"matchLabels": labels}}
    return kubernetes_object(
        "networking.k8s.io/v1",
        "NetworkPolicy",
        metadata=_metadata(endpoint, release),
        spec={
            **own,
            "policyTypes": ["Ingress"],
            "ingress": [
                {"from": [own]},
                {"from": [{"namespaceSelector": proxies}], "ports": _tcp(SERVE_PORT)},
                {
                    "from": [_anywhere("kuberay-operator")],
                    "ports": _tcp(DASHBOARD_PORT, SERVE_PORT),
                },
                {"from": [_anywhere("prometheus")], "ports": _tcp(METRICS_PORT)},
            ],
        },
    )


def _anywhere(name: str) -> dict[str, Any]:
    """The pods of an application, by the label that its own chart gives them, in whichever namespace they are."""
    return {
        "namespaceSelector": {},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": name}},
    }


def _tcp(*ports: int) -> list[dict[str, Any]]:
    return [{"protocol": "TCP", "port": port} for port in ports]
