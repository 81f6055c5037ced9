"""A real Ray of one node whose dashboard wants a token, and a project whose entry point does as a test tells it."""

import json
import os
import sys
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx2
import pytest

from deploy_targets.local import parts
from deploy_targets.local.home import Home
from deploy_targets.local.process import await_ready, end_all, find_marked, free_port, spawn

BIN = str(Path(sys.executable).parent)
SECRET_NAMES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")

PROJECT = """\
name: by-the-word
entry_points:
  work:
    parameters:
      word: string
    command: "python work.py {word}"
"""
WORK = '''\
"""Says what it is told and what it is given, waits for a file of the same name, and ends as the file says."""
import os, sys, time
from pathlib import Path

word = Path(sys.argv[1])
print(f"this is {word.name}, run {os.environ['MLFLOW_RUN_ID']}", flush=True)
print("secret" if os.environ.get("AWS_SECRET_ACCESS_KEY") else "no secret", flush=True)
print("bucket", os.environ.get("SHIPWAY_BUCKET"), "é", flush=True)
word.with_suffix(".pid").write_text(str(os.getpid()))
while not word.exists():
    time.sleep(0.05)
print(f"the last of {word.name}", flush=True)
sys.exit(int(word.read_text()))
'''


@dataclass(frozen=True, kw_only=True)
class Ray:
    """A cluster, and what its clients need."""

    address: str
    token: str
    secrets: tuple[str, ...]

    @property
    def environment(self) -> dict[str, str]:
        return {"RAY_AUTH_TOKEN": self.token}

    def get(self, path: str) -> Any:
        headers = {"Authorization": f"Bearer {self.token}"}
        answer = httpx2.get(f"{self.address}{path}", headers=headers, timeout=30)
        return answer.raise_for_status().text

    def jobs(self) -> list[dict[str, Any]]:
        return json.loads(self.get("/api/jobs/"))


@pytest.fixture(scope="package")
def ray(servers, tmp_path_factory) -> Generator[Ray]:
    home = Home(tmp_path_factory.mktemp("ray"))
    secrets, taken = home.secrets(), set()
    names = ("s3", "ray_gcs", "ray_dashboard", "ray_agent", "ray_agent_grpc", "ray_runtime_env", "ray_metrics",
             "ray_client", "ray_node_manager", "ray_object_manager")  # fmt: skip
    ports = {name: free_port(0, taken) for name in names}
    part = parts.ray_head(home, secrets, ports)
    home.make_ray_temp()
    own = {name: servers.environment[name] for name in ("AWS_ENDPOINT_URL_S3", *SECRET_NAMES)}
    record = spawn(
        part.command,
        log=home.log("ray"),
        environment={**os.environ, **part.environment, **own},
        folder=part.folder,
        mark=home.mark(),
    )
    address = f"http://127.0.0.1:{ports['ray_dashboard']}"
    cluster = Ray(
        address=address,
        token=secrets.ray_token,
        secrets=(secrets.ray_token, own["AWS_SECRET_ACCESS_KEY"]),
    )

    def takes_jobs() -> bool:
        try:
            cluster.jobs()
        except (httpx2.HTTPError, ValueError):
            return False
        return True

    try:
        await_ready("ray", takes_jobs, record=record, log=home.log("ray"), limit_s=120)
        yield cluster
    finally:
        end_all(find_marked(home.mark()), patience_s=5)
        home.remove_ray_temp()


@pytest.fixture
def project(tmp_path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "MLproject").write_text(PROJECT)
    (folder / "work.py").write_text(WORK)
    return folder


@pytest.fixture
def client_environment(servers, ray) -> Mapping[str, str]:
    """That of whoever sends jobs: addresses and the dashboard's token, and no credentials of S3."""
    known = {n: v for n, v in servers.environment.items() if n not in SECRET_NAMES}
    return {**known, **ray.environment, "SHIPWAY_BUCKET": "the-bucket"}


@pytest.fixture
def backend(client_environment, ray) -> Generator[Callable[..., dict[str, Any]]]:
    """MLflow in this process knows the backend, and is told of the cluster."""
    import mlflow
    from mlflow.projects.backend import loader

    from pipelines.backend.plugin import RayBackend

    def config(**more: Any) -> dict[str, Any]:
        return {"address": ray.address, "bin": BIN, "cpus": 0.5, **more}

    before = mlflow.get_tracking_uri()
    with (
        patch.dict(loader.MLFLOW_BACKENDS, {"shipway-ray": RayBackend}),
        patch.dict(os.environ, client_environment),
    ):
        mlflow.set_tracking_uri(client_environment["MLFLOW_TRACKING_URI"])
        yield config
        mlflow.set_tracking_uri(before)


def wait_until(holds: Callable[[], Any], limit_s: float = 90) -> Any:
    deadline = time.monotonic() + limit_s
    while not (found := holds()):
        assert time.monotonic() < deadline, "it never came to be so"
        time.sleep(0.1)
    return found
