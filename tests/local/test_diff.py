"""`shipway diff` as a user runs it: the endpoint file, a kubeconfig and an API server, nothing else."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

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
  - name: shares
    model: other
    target: triton
    kubernetes: {{namespace: {namespace}}}
    triton: {{mode: Knative}}
  - name: here
    model: third
"""


@pytest.fixture
def namespace(cluster: Any) -> str:
    return cluster.a_namespace()


@pytest.fixture
def folder(cluster: Any, namespace: str, tmp_path: Path) -> Path:
    """With an endpoint file and a kubeconfig, of which the current context leads nowhere."""
    contexts = {"nowhere": "http://127.0.0.1:1", "standing-in": cluster.server.url}
    kubeconfig = kubeconfig_of(contexts, token=ADMIN_TOKEN, current="nowhere")
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
    (tmp_path / "endpoints.yaml").write_text(ENDPOINTS.format(namespace=namespace))
    return tmp_path


def diff(
    folder: Path, endpoint: str, *more: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deploy_targets.cli", "diff", endpoint]
    given = ["-f", str(folder / "endpoints.yaml"), *more]
    return subprocess.run(
        [*command, *given],
        cwd=ROOT,
        env={**os.environ, "KUBECONFIG": str(folder / "kubeconfig"), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )


VERSION = ("--version", "7", "--source", "s3://models/7")


def test_what_would_be_made_is_shown_and_nothing_is_made(
    cluster: Any, folder: Path, namespace: str
) -> None:
    before = cluster.server.store.revision

    done = diff(folder, "chat", *VERSION, "--context", "standing-in")

    assert done.returncode == 0, done.stderr
    for name in (f"NetworkPolicy {namespace}/chat-v7", f"HTTPRoute {namespace}/chat"):
        assert f"--- nothing\n+++ {name} (applied)\n" in done.stdout
    assert f"+++ RayService {namespace}/chat-v7 (applied)\n" in done.stdout
    assert "+  app.kubernetes.io/managed-by: shipway\n" in done.stdout.replace("+    ", "+  ")
    assert cluster.server.store.revision == before


def test_the_context_may_be_set_once_for_all(folder: Path, namespace: str) -> None:
    done = diff(folder, "shares", *VERSION, SHIPWAY_KUBE_CONTEXT="standing-in")

    assert done.returncode == 0, done.stderr
    assert f"+++ InferenceService {namespace}/shares (applied)\n" in done.stdout
    assert "canaryTrafficPercent: 0\n" in done.stdout


@pytest.mark.parametrize(
    ("endpoint", "more", "code", "words"),
    [
        ("chat", ("--context", "nosuch"), 2, "There is no context nosuch"),
        ("here", ("--context", "standing-in"), 2, "nothing of it is in a cluster"),
        ("chat", (), 1, "The cluster did not answer"),
    ],
)
def test_what_cannot_be_compared_is_told_in_one_message(
    folder: Path, endpoint: str, more: tuple[str, ...], code: int, words: str
) -> None:
    done = diff(folder, endpoint, *VERSION, *more)

    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr
