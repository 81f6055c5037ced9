"""A Kubernetes target as `test_targets` wants it: versions 6 and 7 ready, version 9 refused by its engine."""

from collections.abc import Iterable
from typing import Any

from kubernetes import client

from deploy_targets.cluster import Cluster
from deploy_targets.endpoint import Endpoint
from deploy_targets.ray_serve.adapter import ray_target
from deploy_targets.routing.traffic import Traffic
from deploy_targets.target import Observed, Target
from deploy_targets.triton.adapter import triton_target
from registry.release import Release
from tests.builders import GATEWAY, a_digest, a_ray_endpoint, a_release, a_triton_endpoint
from tests.contracts.operators import Operators
from tests.install.rights import committed, controller_client


class Attended:
    """A target whose operators have looked once more before each observation, as they would have in time."""

    def __init__(self, target: Target, operators: Operators) -> None:
        self._target = target
        self._operators = operators
        self.render, self.apply = target.render, target.apply
        self.shift, self.retire = target.shift, target.retire

    def observe(self) -> Observed:
        self._operators.reconcile()
        return self._target.observe()


class ClusterWorld:
    """Endpoint chat in a namespace of its own."""

    def __init__(self, server: Any, way: str, *, versions: Iterable[str], wrong: str) -> None:
        self._way, self._wrong = way, wrong
        kubernetes = {"namespace": server.a_namespace(), "gateway": GATEWAY}
        self._endpoint: Endpoint = (
            a_ray_endpoint(kubernetes={**kubernetes, "image": "engine:1"})
            if way == "ray-serve"
            else a_triton_endpoint(kubernetes=kubernetes)
        )
        self._operators = Operators(server.admin, kubernetes["namespace"])
        self._operators.broken[wrong] = f"{a_digest(wrong)} was evaluated"
        self._api = controller_client(
            server, kubernetes["namespace"], committed("triton" if way == "standard" else way)
        )
        self.target: Target = self.fresh_target()
        for version in (*versions, wrong):
            self.target.apply(self.release(version))
        for _ in range(2):
            self.target.observe()
        self.target.shift(Traffic.all_to("6"))

    def release(self, version: str) -> Release:
        return a_release(version)

    def fresh_target(self) -> Target:
        return self._attended(self._api)

    def kill_a_replica(self, version: str) -> None:
        self._operators.kill_pods(version)

    def mend(self) -> None:
        del self._operators.broken[self._wrong]

    def cut_off(self) -> Target:
        nobody = client.ApiClient(client.Configuration(host="http://127.0.0.1:1"))
        return self._on(nobody)

    def _attended(self, api: client.ApiClient) -> Target:
        return Attended(self._on(api), self._operators)

    def _on(self, api: client.ApiClient) -> Target:
        cluster = Cluster(api, sleep=lambda _: None, jitter=lambda: 0.0)
        if self._way == "ray-serve":
            return ray_target(self._endpoint, cluster)
        return triton_target(self._endpoint, cluster, repository=lambda release: release.source)
