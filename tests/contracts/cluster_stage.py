"""Rollouts on Kubernetes: the real adapters, an API server, and simulated operators that take a round to start anything."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kubernetes import client

from deploy_targets.cluster import Cluster
from deploy_targets.endpoint import Endpoint
from deploy_targets.ray_serve.adapter import ray_target
from deploy_targets.target import Target
from deploy_targets.triton.adapter import triton_target
from registry.release import Release
from tests.builders import (
    GATEWAY,
    a_knative_endpoint,
    a_ray_endpoint,
    a_triton_endpoint,
    a_version,
)
from tests.contracts.stage import POLICY, VERSIONS, Stage
from tests.fakes import FakeSmoke, FakeUsers
from tests.install.rights import committed, controller_client
from tests.kubernetes_api.operators.behaviour import failing, slow
from tests.kubernetes_api.operators.writers import KINDS, Operators

Maker = Callable[[Endpoint, Cluster], Target]


def repository(release: Release) -> str:
    return f"s3://models/{release.digest}"


def triton(endpoint: Endpoint, cluster: Cluster) -> Target:
    return triton_target(endpoint, cluster, repository=repository)


WAYS: dict[str, tuple[Callable[..., Endpoint], Maker, str]] = {
    "ray-serve": (a_ray_endpoint, ray_target, "RayService"),
    "standard": (a_triton_endpoint, triton, "InferenceService"),
    "knative": (a_knative_endpoint, triton, "InferenceService"),
}
RIGHTS = {"standard": "triton", "knative": "triton-knative"}
"""How the installation names the rights of a way."""
Place = tuple[str, str, str]


class ClusterStage(Stage):
    """One endpoint in a namespace of its own."""

    def __init__(self, way: str, server: Any, folder: Path) -> None:
        self.way = way
        self.server = server
        self.namespace = server.a_namespace()
        self.api = controller_client(server, self.namespace, self.rights())
        make_endpoint, self._make, kind = WAYS[way]
        self.kind: Place = KINDS[kind]
        kubernetes: dict[str, Any] = {"namespace": self.namespace}
        if way != "knative":
            kubernetes["gateway"] = GATEWAY
        if way == "ray-serve":
            kubernetes["image"] = "engine:1"
        endpoint = make_endpoint(kubernetes=kubernetes, rollout=POLICY)
        super().__init__(endpoint, folder, *map(a_version, VERSIONS))
        self.operators = Operators(server.admin, self.namespace, workloads=slow(1))
        self.custom = client.CustomObjectsApi(server.admin)
        self.smoke = FakeSmoke()
        self.users = FakeUsers(self, self.clock)  # pyright: ignore[reportArgumentType] - it asks for `traffic` alone
        self.restart()

    def rights(self) -> list[Any]:
        """What the controller may do: no more than the installation gives it."""
        return committed(RIGHTS.get(self.way, self.way))

    def fresh_target(self) -> Target:
        cluster = Cluster(self.api, sleep=lambda _: None, jitter=lambda: 0.0)
        return self._make(self.endpoint, cluster)

    def settle(self) -> None:
        self.operators.step()

    def clear(self) -> None:
        """A new namespace is empty."""

    def serve(self, version: str) -> None:
        self.release(version)

    def fail_users_of(self, version: str) -> None:
        self.users.failure_rates[version] = 0.5

    def fail_smoke_of(self, version: str) -> None:
        self.smoke.failing.add(version)

    def fail_loading_of(self, version: str) -> str:
        self.operators.behave_to(version, failing(message="no such tensor"))
        return "no such tensor"

    def kill(self, version: str) -> None:
        self.operators.kill_pods(version)

    def client_failures(self, *but: str) -> int:
        return sum(one.errors for version, one in self.users.totals.items() if version not in but)

    def items(self, place: Place) -> list[Any]:
        group, version, plural = place
        return self.custom.list_namespaced_custom_object(group, version, self.namespace, plural)[
            "items"
        ]
