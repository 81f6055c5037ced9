"""A version of an endpoint as KServe's InferenceService. Pure.

In Standard mode there is one InferenceService for each version in flight, `<endpoint>-v<version>`, and the weights are
on our HTTPRoute. In Knative mode there is one under the endpoint's plain name: each version in flight is a Knative
revision of it, the newest gets `canaryTrafficPercent` of the requests and the last one rolled out the rest. Standard mode
ignores that field silently, so it is never written there. Why so: docs/decisions/0007.
"""

import json
import math
from typing import Any

from deploy_targets.endpoint import Endpoint
from deploy_targets.manifest import (
    CONTAINER_SECURITY,
    VERSION_LABEL,
    Manifest,
    Object,
    environment,
    kubernetes_object,
    limits,
    object_labels,
    part,
    revision_name,
)
from deploy_targets.placement import Autoscaling, Triton
from deploy_targets.routing.http_route import Backend, render_route
from deploy_targets.routing.traffic import Traffic
from registry.errors import ManifestInvalid
from registry.release import Digest, Release

RUNTIME = "kserve-tritonserver"
_SERVICE_PORT = 80
_MODEL, _DIGEST, _SOURCE = "shipway/model", "shipway/digest", "shipway/source"
_BESIDE, _RETIRING = "shipway/beside", "shipway/retiring"
_ALL = 100
_STORAGES = (
    "s3",
    "gs",
    "pvc",
    "oci",
    "hf",
    "http",
    "https",
    "hdfs",
    "webhdfs",
    "file",
)
"""Schemes of a storageUri that KServe 0.20 knows. Others its webhook refuses, or takes for a path in the pod."""


def render_all(endpoint: Endpoint, release: Release, *, repository: str) -> tuple[Manifest, ...]:
    """Everything for `release` as the only version; the route is there in Standard mode alone.

    Raises:
        ManifestInvalid: see `render_inference_service`.
    """
    service = render_inference_service(endpoint, release, repository=repository)
    if _settings(endpoint).mode == "Knative":
        return (service,)
    versions = {release.version: backend(endpoint, release.version)}
    return service, render_route(endpoint, versions, Traffic.all_to(release.version))


def render_inference_service(
    endpoint: Endpoint,
    release: Release,
    *,
    repository: str,
    canary_percent: int | None = None,
    beside: Release | None = None,
    retiring: str | None = None,
) -> Manifest:
    """The InferenceService that loads the model repository at `repository`.

    `canary_percent`, for Knative mode alone, is the share of `release` while the version that was rolled out last keeps
    the rest: 0 is a revision without requests, and None or 100 rolls it out. `beside` is that other version, and
    `retiring` the one whose place `release` takes without requests of its own. Both stay as they are while the share
    changes, for every change of an annotation is a new Knative revision.

    Raises:
        ManifestInvalid: a share outside 0..100, which KServe's webhook would refuse, or one in Standard mode, which KServe
            would ignore; a repository at an address that KServe does not know; a name that is too long; an endpoint that
            is not for Kubernetes.
    """
    triton, kubernetes = _settings(endpoint), endpoint.cluster
    is_knative = triton.mode == "Knative"
    if canary_percent is not None:
        _check_canary(endpoint, canary_percent)
    _check_storage(endpoint, repository)
    routing = _knative_annotations(release, beside, retiring) if is_knative else {}
    service_account = kubernetes.service_account
    at_once = triton.container_concurrency
    predictor = {
        **_scale(endpoint),
        **({} if canary_percent is None else {"canaryTrafficPercent": canary_percent}),
        **({} if at_once is None else {"containerConcurrency": at_once}),
        # In Standard mode it is the route that ends an answer that takes too long.
        **({"timeout": math.ceil(endpoint.serving.timeout_s)} if is_knative else {}),
        **({} if service_account is None else {"serviceAccountName": service_account}),
        "automountServiceAccountToken": False,
        "model": _model(endpoint, repository),
    }
    return kubernetes_object(
        "serving.kserve.io/v1beta1",
        "InferenceService",
        metadata={
            "name": endpoint.name if is_knative else revision_name(endpoint.name, release.version),
            "namespace": kubernetes.namespace,
            "labels": {
                **object_labels(endpoint.name, release.version),
                # The way in is the guard's; a version has no address of its own outside.
                "networking.kserve.io/visibility": "cluster-local",
            },
            "annotations": {
                "serving.kserve.io/deploymentMode": triton.mode,
                **routing,
                _MODEL: release.model,
                _DIGEST: release.digest,
            },
        },
        spec={"predictor": predictor},
    )


def release_of(found: Object) -> Release:
    """The release that an InferenceService in Knative mode was rendered for."""
    told = part(found, "metadata", "annotations")
    return Release(
        model=told[_MODEL],
        version=found["metadata"]["labels"][VERSION_LABEL],
        source=told[_SOURCE],
        digest=Digest(told[_DIGEST]),
    )


def beside_of(found: Object) -> Release | None:
    """The release that keeps the rest of the requests, by the same InferenceService; None for a first one."""
    told = part(found, "metadata", "annotations").get(_BESIDE)
    if told is None:
        return None
    fields = json.loads(told)
    return Release(**{**fields, "digest": Digest(fields["digest"])})


def retiring_of(found: Object) -> str | None:
    """The version whose place this one takes."""
    return part(found, "metadata", "annotations").get(_RETIRING)


def _knative_annotations(
    release: Release, beside: Release | None, retiring: str | None
) -> dict[str, str]:
    """The object is one for all versions, so what is known of the others is written on it."""
    told = {"serving.kserve.io/enable-tag-routing": "true", _SOURCE: release.source}
    if beside is not None:
        fields = ("model", "version", "source", "digest")
        told[_BESIDE] = json.dumps({name: getattr(beside, name) for name in fields})
    if retiring is not None:
        told[_RETIRING] = retiring
    return told


def backend(endpoint: Endpoint, version: str) -> Backend:
    """The Service that KServe makes for a version in Standard mode."""
    name = revision_name(endpoint.name, version)
    return Backend(service=f"{name}-predictor", port=_SERVICE_PORT)


def _settings(endpoint: Endpoint) -> Triton:
    return endpoint.triton or Triton()


def _check_canary(endpoint: Endpoint, percent: int) -> None:
    if _settings(endpoint).mode == "Standard":
        message = (
            f"{endpoint.name} runs in KServe's Standard mode, which ignores canaryTrafficPercent silently. "
            "Put the weight on its HTTPRoute."
        )
        raise ManifestInvalid(message)
    if not 0 <= percent <= _ALL:
        message = f"canaryTrafficPercent of {endpoint.name} is {percent}; KServe takes 0 to 100."
        raise ManifestInvalid(message)


def _check_storage(endpoint: Endpoint, repository: str) -> None:
    scheme, found, _ = repository.partition("://")
    if not found or scheme not in _STORAGES:
        message = (
            f"The model repository of {endpoint.name} is to be loaded from {repository!r}, which KServe does not know. Give an "
            f"address that begins with {', '.join(f'{one}://' for one in _STORAGES[:3])} or another of its storages."
        )
        raise ManifestInvalid(message)


def _scale(endpoint: Endpoint) -> dict[str, Any]:
    replicas = endpoint.replicas
    if isinstance(replicas, Autoscaling):
        return {
            "minReplicas": replicas.min,
            "maxReplicas": replicas.max,
            "scaleMetric": "concurrency",
            "scaleTarget": replicas.target_ongoing_requests,
        }
    return {"minReplicas": replicas, "maxReplicas": replicas}


def _model(endpoint: Endpoint, repository: str) -> dict[str, Any]:
    triton, kubernetes, resources = _settings(endpoint), endpoint.cluster, endpoint.resources
    cache = triton.response_cache_bytes
    gets = limits(cpus=resources.cpus, memory_gib=resources.memory_gib, gpus=resources.gpus)
    variables = {"OMP_NUM_THREADS": str(endpoint.engine.threads), **kubernetes.env}
    return {
        "modelFormat": {"name": "triton"},
        "runtime": RUNTIME,
        "protocolVersion": "v2",
        "storageUri": repository,
        **({} if kubernetes.image is None else {"image": kubernetes.image}),
        # Added to the runtime's own arguments. Triton's local cache drops what was used least recently.
        **({} if cache is None else {"args": [f"--cache-config=local,size={cache}"]}),
        "env": environment(variables),
        "resources": {"requests": gets, "limits": gets},
        "securityContext": CONTAINER_SECURITY,
    }
