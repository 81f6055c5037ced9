"""A person outside the cluster, with nothing but a kubeconfig, and the controllers that they start as processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from kubernetes import client
from typer.testing import CliRunner

from deploy_targets.cli import app
from deploy_targets.in_cluster.state_store import ConfigMapStore
from deploy_targets.local.process import free_port
from tests.in_cluster.worlds import speaking_as
from tests.kubernetes_api.kubeconfig import kubeconfig_of
from tests.kubernetes_api.server import ADMIN_TOKEN
from tests.repo.reference import ROOT

ENDPOINTS = """
apiVersion: shipway/v1
endpoints:
  - name: chat
    model: smollm2
    target: ray-serve
    kubernetes:
      namespace: {namespace}
      image: engine:1
      gateway: {{name: llm, namespace: gateways, hostname: chat.example.com}}
"""


class Outside:
    """A person with a kubeconfig, and the namespace of the controller."""

    def __init__(self, server: Any, folder: Path) -> None:
        self.server = server
        self.namespace = server.a_namespace()
        self.file = folder / "endpoints.yaml"
        self.file.write_text(ENDPOINTS.format(namespace=self.namespace))
        kubeconfig = kubeconfig_of({"stand-in": server.server.url}, token=ADMIN_TOKEN)
        (folder / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
        self.environment = {
            "KUBECONFIG": str(folder / "kubeconfig"),
            "SHIPWAY_CONTROL_PLANE": "kubernetes",
            "SHIPWAY_KUBE_CONTEXT": "stand-in",
            "SHIPWAY_NAMESPACE": self.namespace,
            "SHIPWAY_GUARD_METRICS_URL": "http://127.0.0.1:1/{endpoint}/metrics",
            "SHIPWAY_GATEWAY_URL": "http://127.0.0.1:1",
            "MLFLOW_TRACKING_URI": "http://127.0.0.1:1",
        }
        self.store = ConfigMapStore(speaking_as(server.admin), namespace=self.namespace)

    @property
    def holder(self) -> str:
        api = client.CoordinationV1Api(self.server.admin)
        try:
            found = api.read_namespaced_lease("shipway-controller", self.namespace)
        except client.ApiException:
            return ""
        return found.spec.holder_identity or ""

    def run(self, *command: str) -> Any:
        return CliRunner().invoke(app, [*command, "-f", str(self.file)])


class Processes:
    """Real controllers, each on a port of its own."""

    def __init__(self, outside: Outside, folder: Path) -> None:
        self._outside = outside
        self._folder = folder
        self.running: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, **environment: str) -> int:
        """Starts one and returns its port."""
        port = free_port(0, set(self.running))
        command = [sys.executable, "-m", "deploy_targets.cli", "controller"]
        with (self._folder / f"{port}.log").open("wb") as log:
            self.running[port] = subprocess.Popen(
                [*command, "-f", str(self._outside.file)],
                cwd=ROOT,
                env={**os.environ, "SHIPWAY_CONTROLLER_PORT": str(port), **environment},
                stdout=log,
                stderr=log,
            )
        return port

    def until(self, holds: Callable[[], bool], *, timeout_s: float = 240) -> None:
        """Looks until it holds; shows the logs where it never does."""
        ends = time.monotonic() + timeout_s
        while not holds():
            if time.monotonic() > ends or any(one.poll() for one in self.running.values()):
                pytest.fail("\n".join(log.read_text() for log in self._folder.glob("*.log")))
            time.sleep(0.05)

    def log(self, port: int) -> str:
        return (self._folder / f"{port}.log").read_text()

    def says(self, port: int, path: str) -> int:
        try:
            return httpx2.get(f"http://127.0.0.1:{port}{path}", timeout=5).status_code
        except httpx2.HTTPError:
            return 0

    def end(self, port: int) -> int:
        one = self.running.pop(port)
        one.send_signal(signal.SIGTERM)
        return one.wait(60)

    def kill_all(self) -> None:
        for one in self.running.values():
            one.kill()
            one.wait(30)
