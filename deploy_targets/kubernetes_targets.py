"""Where the cluster is, and the adapter for an endpoint there. Read by the commands and the controller alike.

A controller outside the cluster needs two more addresses than the API server's: the Gateway's, for smoke tests, and the
guard's, for the counts. The controller's own objects in a cluster are `in_cluster`.
"""

import random
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Annotated

import httpx2
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from deploy_targets.api_answer import Kind
from deploy_targets.cluster import HTTP_ROUTE, INFERENCE_SERVICE, RAY_SERVICE, Cluster, connect
from deploy_targets.endpoint import Endpoint, TargetKind
from deploy_targets.gateway_split import GatewayTarget
from deploy_targets.git_repository import GitRepository
from deploy_targets.ray_serve.adapter import ray_target
from deploy_targets.rollout.observe import GuardMetrics
from deploy_targets.rollout.smoke import SmokeTest
from deploy_targets.triton.adapter import triton_target
from deploy_targets.triton.knative import KnativeTarget
from deploy_targets.watches import Watches, places_of
from registry.errors import BadInput
from registry.release import Release

_TIMEOUT_S = 10.0
_WATCH_ANSWER_S = 5.0
_HTTP_PORT = 80


class ClusterSettings(BaseSettings):
    """Environment variables with the prefix SHIPWAY_."""

    model_config = SettingsConfigDict(env_prefix="SHIPWAY_", frozen=True, extra="ignore")

    kube_context: str | None = None
    """The context of KUBECONFIG in which endpoints on a cluster are deployed. Outside a cluster it has to be named."""
    namespace: str = "shipway"
    """Where a controller that lives in the cluster has its Lease and its states: the controller's own namespace."""
    pod_api_host: Annotated[str | None, Field(validation_alias="KUBERNETES_SERVICE_HOST")] = None
    """Set by Kubernetes in every pod: the cluster around it is meant where no context is named."""
    gateway_url: str | None = None
    """Where the Gateway answers, seen from the controller: smoke tests go there under the endpoint's hostname."""
    guard_metrics_url: str | None = None
    """The guard's metrics page, seen from the controller; `{endpoint}` stands for the endpoint's name. Where the host has
    several addresses, as a headless Service has, each is a guard of its own, and their counts are added up."""
    guard_url: str | None = None
    """Where clients call an endpoint, without /v1, seen from whoever runs `mlflow deployments predict`; `{endpoint}` stands
    for the endpoint's name."""


def open_cluster(context: str | None, *, once_within_s: float | None = None) -> Cluster:
    """The API server of that context, or of the default one.

    With `once_within_s` it asks once and waits no longer than that, for whoever has pauses of their own.

    Raises:
        BadInput: there is none.
    """
    api = connect(context)
    if once_within_s is None:
        return Cluster(api, sleep=time.sleep, jitter=random.random)
    return Cluster(api, sleep=time.sleep, jitter=random.random, attempts=1, answer_s=once_within_s)


def cluster_target(
    endpoint: Endpoint, cluster: Cluster, *, repository: Callable[[Release], str]
) -> GatewayTarget | KnativeTarget:
    """The adapter for the endpoint; `repository` says where the Triton model repository of a release lies.

    Raises:
        BadInput: the endpoint is not for a cluster, or KubeRay moves its requests itself.
    """
    git = _repository_of(endpoint)
    if endpoint.target is TargetKind.RAY_SERVE:
        return ray_target(endpoint, cluster, git=git)
    if endpoint.target is TargetKind.TRITON:
        return triton_target(endpoint, cluster, repository=repository, git=git)
    message = f"{endpoint.name} is for target {endpoint.target}: nothing of it is in a cluster."
    raise BadInput(message)


def watched_kinds(endpoint: Endpoint) -> tuple[Kind, ...]:
    """The kinds whose changes say that the endpoint is worth a look: what runs a version, and the route.

    Pods are not among them: they change all the time, and what they mean shows in what runs them, or is read at the next look.
    """
    runs = RAY_SERVICE if endpoint.target is TargetKind.RAY_SERVE else INFERENCE_SERVICE
    return (runs,) if endpoint.cluster.gateway is None else (runs, HTTP_ROUTE)


def cluster_watches(
    endpoints: Iterable[Endpoint],
    settings: ClusterSettings,
    *,
    wake: Callable[[str], None],
    leads: Callable[[], bool],
) -> Watches | None:
    """The watches for those endpoints that are on the cluster, on connections of their own; None where none is.

    Raises:
        BadInput: there is no cluster.
    """
    places = places_of(
        (one.name, one.cluster.namespace, watched_kinds(one))
        for one in endpoints
        if not one.target.is_local
    )
    if not places:
        return None
    # The watches have pauses of their own, and have to end in a few seconds.
    cluster = open_cluster(settings.kube_context, once_within_s=_WATCH_ANSWER_S)
    return Watches(cluster, places, wake=wake, leads=leads, jitter=random.random)


def _repository_of(endpoint: Endpoint) -> GitRepository | None:
    place = None if endpoint.kubernetes is None else endpoint.kubernetes.git
    return None if place is None else GitRepository(place.repository, branch=place.branch)


def check_triton(endpoint: Endpoint) -> None:
    """Passes where the controller can roll an endpoint of target triton out.

    Raises:
        BadInput: it could not be judged, or not be asked. `shipway render` and `shipway diff` know it all the same.
    """
    if endpoint.engine.kind == "vllm":
        message = (
            f"{endpoint.name} runs vLLM in Triton, which takes a prompt and not a chat, and nothing before it makes the one "
            "of the other. Use engine kind transformers, or vllm with target ray-serve."
        )
        raise BadInput(message)
    if endpoint.cluster.gateway is None:
        message = (
            f"{endpoint.name} runs in KServe's Knative mode, where no request can be pinned to a version and a failure does "
            "not say whose it is: the challenger could neither be smoke-tested nor judged. Use triton.mode Standard."
        )
        raise BadInput(message)


def trusted() -> ssl.SSLContext:
    """The authorities that HTTP clients trust. Reading them takes 20 ms and 0.9 MiB, so that clients share one."""
    return httpx2.create_ssl_context()


def cluster_counters(
    endpoint: Endpoint,
    settings: ClusterSettings,
    *,
    clock: Callable[[], datetime],
    trust: ssl.SSLContext,
) -> GuardMetrics:
    """The counts of the guards in front of the endpoint; `trust` is what `trusted` gives, for all endpoints together.

    Raises:
        BadInput: its address is not set.
    """
    if settings.guard_metrics_url is None:
        message = (
            f"Set SHIPWAY_GUARD_METRICS_URL to where the guard of {endpoint.name} counts its requests, for example "
            "https://guards.example.com/{endpoint}/metrics."
        )
        raise BadInput(message)
    url = settings.guard_metrics_url.replace("{endpoint}", endpoint.name)
    return GuardMetrics(
        httpx2.Client(timeout=_TIMEOUT_S, verify=trust),
        url,
        endpoint=endpoint.name,
        clock=clock,
        addresses=every_address,
    )


def cluster_guard(endpoint: Endpoint, settings: ClusterSettings) -> str:
    """Where clients call the endpoint, without /v1.

    Raises:
        BadInput: its address is not set.
    """
    if settings.guard_url is None:
        message = (
            f"Set SHIPWAY_GUARD_URL to where clients call {endpoint.name}, for example https://{{endpoint}}.example.com; "
            "`kubectl port-forward` to its guard's Service will do."
        )
        raise BadInput(message)
    return settings.guard_url.replace("{endpoint}", endpoint.name).rstrip("/")


def every_address(url: httpx2.URL) -> tuple[httpx2.URL, ...]:
    """The page at each address that its host's name stands for: a headless Service names every pod behind it.

    With https it stays the name, whose certificate is asked for.

    Raises:
        OSError: the name is not known.
    """
    if url.scheme != "http":
        return (url,)
    found = socket.getaddrinfo(url.host, url.port or _HTTP_PORT, type=socket.SOCK_STREAM)
    return tuple(url.copy_with(host=host) for host in sorted({str(one[4][0]) for one in found}))


def cluster_smoke(
    endpoint: Endpoint, settings: ClusterSettings, *, trust: ssl.SSLContext
) -> SmokeTest:
    """Asks the endpoint through its Gateway, behind the guard; `trust` as for `cluster_counters`.

    Raises:
        BadInput: the Gateway's address is not set, or the endpoint has no Gateway.
    """
    gateway = endpoint.cluster.gateway
    if settings.gateway_url is None or gateway is None:
        message = f"Set SHIPWAY_GATEWAY_URL to where the Gateway of {endpoint.name} answers, for its smoke tests."
        raise BadInput(message)
    client = httpx2.Client(timeout=_TIMEOUT_S, headers={"Host": gateway.hostname}, verify=trust)
    return SmokeTest(client, settings.gateway_url.rstrip("/"), endpoint)
