"""A Kubernetes target as `test_targets` wants it: versions 6 and 7 ready, version 9 refused by its engine.

In Knative mode there is room for two versions, so there version 9 takes the place of 7 when a test asks for it.
"""

from collections.abc import Iterable
from typing import Any

from kubernetes import client

from deploy_targets.cluster import Cluster
from deploy_targets.endpoint import Endpoint
from deploy_targets.routing.traffic import Traffic
from deploy_targets.target import Observed, Target
from registry.release import Release
from tests.builders import GATEWAY, a_digest, a_release
from tests.contracts.cluster_stage import RIGHTS, WAYS
from tests.install.rights import committed, controller_client
from tests.kubernetes_api.operators.behaviour import failing, slow
from tests.kubernetes_api.operators.writers import Operators


class Attended:
    """A target whose operators have looked once more before each observation, as they would have in time."""

    def __init__(self, target: Target, operators: Operators) -> None:
        self._target = target
        self._operators = operators
        self.render, self.apply = target.render, target.apply
        self.shift, self.retire = target.shift, target.retire

    def observe(self) -> Observed:
        self._operators.step()
        return self._target.observe()


class ClusterWorld:
    """Endpoint chat in a namespace of its own."""

    def __init__(self, server: Any, way: str, *, versions: Iterable[str], wrong: str) -> None:
        self._way, self._server, self._wrong = way, server, wrong
        kubernetes: dict[str, Any] = {"namespace": server.a_namespace(), "gateway": GATEWAY}
        if way == "knative":
            del kubernetes["gateway"]
        if way == "ray-serve":
            kubernetes["image"] = "engine:1"
        make_endpoint, self._make, _ = WAYS[way]
        self._endpoint: Endpoint = make_endpoint(kubernetes=kubernetes)
        self._operators = Operators(server.admin, kubernetes["namespace"], workloads=slow(1))
        why = f"{a_digest(wrong)} was evaluated"
        self._operators.behave_to(wrong, failing(message=why))
        self._api = controller_client(
            server, kubernetes["namespace"], committed(RIGHTS.get(way, way))
        )
        self.target: Target = self.fresh_target()
        first, *others = versions
        self._start(first)
        self.target.shift(Traffic.all_to(first))
        self.target.observe()
        for version in others:
            self._start(version)
        if way != "knative":
            self._start(wrong)

    def try_wrong(self) -> None:
        if self._way == "knative":
            self._start(self._wrong)

    def _start(self, version: str) -> None:
        self.target.apply(self.release(version))
        for _ in range(2):
            self.target.observe()

    def release(self, version: str) -> Release:
        return a_release(version)

    def fresh_target(self) -> Target:
        return self._attended(self._api)

    def kill_a_replica(self, version: str) -> None:
        self._operators.kill_pods(version)

    def mend(self) -> None:
        self._operators.behave_to(self._wrong, slow(1))

    def cut_off(self) -> Target:
        nobody = client.ApiClient(client.Configuration(host="http://127.0.0.1:1"))
        return self._on(nobody)

    def _attended(self, api: client.ApiClient) -> Target:
        return Attended(self._on(api), self._operators)

    def _on(self, api: client.ApiClient) -> Target:
        cluster = Cluster(api, sleep=lambda _: None, jitter=lambda: 0.0)
        return self._make(self._endpoint, cluster)
