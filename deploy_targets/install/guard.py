"""The guard of one endpoint in a cluster: Deployment, ConfigMap, Services, PodDisruptionBudget, NetworkPolicy. Pure.

Everything it is told is in the endpoint file already, but the Gateway's address, which all guards and the controller take
from one ConfigMap, and the image, whose place and tag the overlay names. All guards live in the controller's namespace:
it counts their requests there. What the guard does with its environment is in `guard.settings`.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from typing import Any

from deploy_targets.endpoint import Endpoint
from deploy_targets.manifest import (
    CONTAINER_SECURITY,
    INSTANCE_LABEL,
    Manifest,
    environment,
    kubernetes_object,
    limits,
)
from deploy_targets.monitoring.manifests import (
    CONTROLLER_POD_LABELS,
    GUARD_POD_LABELS,
    METRICS_PORT,
)
from deploy_targets.placement import Gateway
from registry.errors import ManifestInvalid

NAMESPACE = "shipway"
"""Of the controller and of every guard."""
IMAGE = "shipway-guard"
"""Kustomize's `images` gives it a registry and a tag."""
PORT, ADMIN_PORT = 8080, 9090
SETTINGS, GATEWAY_URL = "shipway-settings", "SHIPWAY_GATEWAY_URL"
"""The ConfigMap with the Gateway's address, and its key there."""
REDIS = "shipway-guard-redis"
"""The Secret whose `url` says where the guards' pods count limits together; without it each pod counts for itself."""

_KEYS_FOLDER, _KEYS_FILE = "/etc/shipway/keys", "keys.json"
_POLICY_FOLDER, _POLICY_FILE = "/etc/shipway/policy", "policy.json"
_POLICY_DIGEST = "shipway/policy-digest"
"""Of the pods: another policy makes other pods, which is what brings it into force."""
_REPLICAS = 2
_REDIS_PORT = 6379
_UNPRIVILEGED = 10001
"""The USER of the image."""
_LEAVING_S = 5
"""Until every proxy of the cluster knows that the pod takes no more requests."""
_DNS: Mapping[str, Any] = {
    "to": [
        {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
            "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
        }
    ],
    "ports": [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")],
}


def render_guards(endpoints: Iterable[Endpoint]) -> tuple[Manifest, ...]:
    """The guards of all endpoints that are in a cluster.

    Raises:
        ManifestInvalid: as for `render_guard`.
    """
    placed = (endpoint for endpoint in endpoints if not endpoint.target.is_local)
    return tuple(manifest for endpoint in placed for manifest in render_guard(endpoint))


def render_guard(endpoint: Endpoint) -> tuple[Manifest, ...]:
    """Its objects.

    Raises:
        ManifestInvalid: no Gateway of ours splits the requests, so that there is nothing to stand before.
    """
    gateway = endpoint.cluster.gateway
    if gateway is None:
        message = (
            f"{endpoint.name} has no Gateway that Shipway's route could join, so no guard can stand before it. Declare "
            "kubernetes.gateway, or take the endpoint out of this file: its operator moves the requests, and Shipway does not."
        )
        raise ManifestInvalid(message)
    return (
        # First, for a pod reads it once: one that the Deployment starts must not find the policy of before.
        _policy(endpoint),
        _deployment(endpoint, gateway),
        _front(endpoint),
        _counts(endpoint),
        _budget(endpoint),
        _network_policy(endpoint, gateway),
    )


def keys_secret(endpoint: str) -> str:
    """The Secret whose `keys.json` says who is let in."""
    return f"{endpoint}-guard-keys"


def judge_secret(endpoint: str) -> str:
    """The Secret whose `key` is shown to the judge of `guard.judge`."""
    return f"{endpoint}-guard-judge"


def _labels(endpoint: Endpoint) -> dict[str, str]:
    return {**GUARD_POD_LABELS, INSTANCE_LABEL: endpoint.name}


def _object(
    endpoint: Endpoint, api_version: str, kind: str, name: str, spec: Mapping[str, Any]
) -> Manifest:
    metadata = {"name": name, "namespace": NAMESPACE, "labels": _labels(endpoint)}
    return kubernetes_object(api_version, kind, metadata=metadata, spec=spec)


def _name(endpoint: Endpoint) -> str:
    return f"{endpoint.name}-guard"


def _deployment(endpoint: Endpoint, gateway: Gateway) -> Manifest:
    labels = _labels(endpoint)
    digest = sha256(endpoint.guard.document().encode()).hexdigest()
    spec = {
        "replicas": _REPLICAS,
        "selector": {"matchLabels": labels},
        "strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "template": {
            "metadata": {"labels": labels, "annotations": {_POLICY_DIGEST: digest}},
            "spec": _pod(endpoint, gateway),
        },
    }
    return _object(endpoint, "apps/v1", "Deployment", _name(endpoint), spec)


def _policy(endpoint: Endpoint) -> Manifest:
    name = _policy_name(endpoint)
    body = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": _labels(endpoint)},
        "data": {_POLICY_FILE: endpoint.guard.document()},
    }
    return Manifest(name=f"{name}.configmap", body=body)


def _policy_name(endpoint: Endpoint) -> str:
    return f"{endpoint.name}-policy"


def _pod(endpoint: Endpoint, gateway: Gateway) -> dict[str, Any]:
    timeout_s = endpoint.serving.timeout_s
    # The Gateway's own 504 names the version that did not answer, so the Gateway must be the first to give up.
    guard_timeout_s, drain_s = timeout_s + 5, math.ceil(timeout_s) + 5
    variables = {
        "SHIPWAY_GUARD_ENDPOINT": endpoint.name,
        "SHIPWAY_GUARD_MODEL": endpoint.model,
        "SHIPWAY_GUARD_UPSTREAM_HOST": gateway.hostname,
        "SHIPWAY_GUARD_PROTOCOL": endpoint.target.protocol,
        "SHIPWAY_GUARD_HOST": "0.0.0.0",  # noqa: S104 - the NetworkPolicy says who comes in
        "SHIPWAY_GUARD_PORT": str(PORT),
        "SHIPWAY_GUARD_ADMIN_PORT": str(ADMIN_PORT),
        "SHIPWAY_GUARD_AUTH": endpoint.serving.auth,
        "SHIPWAY_GUARD_TIMEOUT_S": f"{guard_timeout_s:g}",
        "SHIPWAY_GUARD_DRAIN_S": str(drain_s),
        "SHIPWAY_GUARD_POLICY_FILE": f"{_POLICY_FOLDER}/{_POLICY_FILE}",
    }
    mounts = [
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a volume of its own
        {"name": "policy", "mountPath": _POLICY_FOLDER},
    ]
    volumes: list[dict[str, Any]] = [
        {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}},
        {"name": "policy", "configMap": {"name": _policy_name(endpoint)}},
    ]
    if endpoint.serving.auth == "api-key":
        variables["SHIPWAY_GUARD_KEYS_FILE"] = f"{_KEYS_FOLDER}/{_KEYS_FILE}"
        mounts.append({"name": "keys", "mountPath": _KEYS_FOLDER})
        # Mounted whole: a file mounted by itself would not follow the Secret, and a revoked key would still be let in.
        secret = {"secretName": keys_secret(endpoint.name), "defaultMode": 0o440}
        volumes.append({"name": "keys", "secret": secret})
    # Optional, for without limits nothing is counted there. What it names can change only with the pods.
    # Without it each guard would count a sticky user once: the same one several times.
    is_optional = endpoint.guard.sticky is None
    redis_url = {"secretKeyRef": {"name": REDIS, "key": "url", "optional": is_optional}}
    gateway_url = {"configMapKeyRef": {"name": SETTINGS, "key": GATEWAY_URL}}
    container = {
        "name": "guard",
        "image": IMAGE,
        "env": [
            *environment(variables),
            {"name": "SHIPWAY_GUARD_UPSTREAM_URL", "valueFrom": gateway_url},
            {"name": "SHIPWAY_GUARD_REDIS_URL", "valueFrom": redis_url},
            *_judge_key(endpoint),
        ],
        "ports": [
            {"name": "http", "containerPort": PORT},
            {"name": METRICS_PORT, "containerPort": ADMIN_PORT},
        ],
        "startupProbe": {**_probe("/healthz"), "periodSeconds": 1, "failureThreshold": 60},
        "livenessProbe": {**_probe("/healthz"), "periodSeconds": 10, "timeoutSeconds": 3},
        "readinessProbe": {**_probe("/readyz"), "periodSeconds": 5, "timeoutSeconds": 3},
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(_LEAVING_S)]}}},
        "resources": _resources(endpoint),
        "securityContext": {**CONTAINER_SECURITY, "readOnlyRootFilesystem": True},
        "volumeMounts": mounts,
    }
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": _labels(endpoint)},
    }
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": _LEAVING_S + drain_s + 5,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _UNPRIVILEGED,
            "runAsGroup": _UNPRIVILEGED,
            "fsGroup": _UNPRIVILEGED,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "topologySpreadConstraints": [spread],
        "containers": [container],
        "volumes": volumes,
    }


def _resources(endpoint: Endpoint) -> dict[str, Any]:
    """What a guard needs, and what it keeps besides: a cache may be larger than all else."""
    cache = endpoint.guard.cache
    kept_gib = 0.0 if cache is None or cache.store != "memory" else cache.max_bytes / 2**30
    return {
        "requests": limits(cpus=0.25, memory_gib=0.125 + kept_gib),
        "limits": limits(cpus=1, memory_gib=0.5 + kept_gib),
    }


def _judge_key(endpoint: Endpoint) -> Iterator[dict[str, Any]]:
    """Optional, for a judge in the cluster may ask for none. It can change only with the pods."""
    if endpoint.guard.judge is not None:
        reference = {"name": judge_secret(endpoint.name), "key": "key", "optional": True}
        yield {"name": "SHIPWAY_GUARD_JUDGE_KEY", "valueFrom": {"secretKeyRef": reference}}


def _judge(endpoint: Endpoint) -> Iterator[dict[str, Any]]:
    """The way to the judge: by its port alone, for a NetworkPolicy knows no names."""
    if endpoint.guard.judge is not None:
        yield {"ports": [{"protocol": "TCP", "port": endpoint.guard.judge.port}]}


def _probe(path: str) -> dict[str, Any]:
    return {"httpGet": {"path": path, "port": METRICS_PORT}}


def _front(endpoint: Endpoint) -> Manifest:
    spec = {
        "selector": _labels(endpoint),
        "ports": [{"name": "http", "port": 80, "targetPort": "http"}],
    }
    return _object(endpoint, "v1", "Service", _name(endpoint), spec)


def _counts(endpoint: Endpoint) -> Manifest:
    """Headless, so that its name stands for every pod's address: the controller adds up what each of them counted."""
    spec = {
        "clusterIP": "None",
        "selector": _labels(endpoint),
        "ports": [{"name": METRICS_PORT, "port": ADMIN_PORT, "targetPort": METRICS_PORT}],
    }
    return _object(endpoint, "v1", "Service", f"{endpoint.name}-counts", spec)


def _budget(endpoint: Endpoint) -> Manifest:
    spec = {"maxUnavailable": 1, "selector": {"matchLabels": _labels(endpoint)}}
    return _object(endpoint, "policy/v1", "PodDisruptionBudget", _name(endpoint), spec)


def _network_policy(endpoint: Endpoint, gateway: Gateway) -> Manifest:
    """Clients reach the one port, the controller and Prometheus the other; the guard reaches Gateway, Redis and judge alone."""
    proxies = gateway.proxies_namespace or gateway.namespace
    in_proxies = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": proxies}}}
    prometheus = {
        "namespaceSelector": {},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}},
    }
    redis = {
        "to": [
            {
                "namespaceSelector": {},
                "podSelector": {"matchLabels": {"app.kubernetes.io/name": "redis"}},
            }
        ],
        "ports": [{"protocol": "TCP", "port": _REDIS_PORT}],
    }
    spec = {
        "podSelector": {"matchLabels": _labels(endpoint)},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [
            {"ports": [{"protocol": "TCP", "port": PORT}]},
            {
                "from": [{"podSelector": {"matchLabels": CONTROLLER_POD_LABELS}}, prometheus],
                "ports": [{"protocol": "TCP", "port": ADMIN_PORT}],
            },
        ],
        "egress": [_DNS, {"to": [in_proxies]}, redis, *_judge(endpoint)],
    }
    return _object(endpoint, "networking.k8s.io/v1", "NetworkPolicy", _name(endpoint), spec)
