"""The controller as its Deployment starts it: the built environment, endpoints and rights, and nothing besides.

MLflow is away here, so nothing is rolled out; that the Lease is taken, the endpoints are watched and looked at and no call is refused is
what the installation has to answer for.
"""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from tests.guard.test_process import free_ports
from tests.install.kustomize import apply_strictly, build
from tests.install.rights import ACCOUNT, NAMESPACE
from tests.kubernetes_api.kubeconfig import kubeconfig_of
from tests.kubernetes_api.rbac import is_allowed, service_account
from tests.kubernetes_api.store import Key

pytestmark = pytest.mark.real

LEASE = Key("coordination.k8s.io", "leases", NAMESPACE, ACCOUNT)
USER = service_account(NAMESPACE, ACCOUNT)


@pytest.fixture
def objects(cluster, tmp_path) -> list[Any]:
    """All that is built, applied."""
    built = build("example", tmp_path)
    spaces = {one["metadata"].get("namespace") for one in built} - {None, NAMESPACE}
    for name in spaces:
        space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        apply_strictly(cluster, space)
    for one in sorted(built, key=lambda body: body["kind"] != "Namespace"):
        apply_strictly(cluster, one)
    return built


def environment(objects: list[Any]) -> dict[str, str]:
    """As the kubelet would set it for the controller's container."""
    maps = {one["metadata"]["name"]: one["data"] for one in objects if one["kind"] == "ConfigMap"}
    (pod,) = (
        one["spec"]["template"]["spec"]
        for one in objects
        if one["kind"] == "Deployment" and one["metadata"]["name"] == "shipway-controller"
    )
    found = {}
    for one in pod["containers"][0]["env"]:
        source = one.get("valueFrom", {})
        if "configMapKeyRef" in source:
            named = source["configMapKeyRef"]
            found[one["name"]] = maps[named["name"]][named["key"]]
        elif "fieldRef" in source:
            assert source["fieldRef"]["fieldPath"] == "metadata.namespace"
            found[one["name"]] = NAMESPACE
        else:
            found[one["name"]] = one["value"]
    return found


def kubeconfig(cluster: Any, folder: Path) -> Path:
    """One context, `here`, as the controller's account."""
    api = cluster.client_of(NAMESPACE, ACCOUNT)
    token = api.configuration.api_key["authorization"].removeprefix("Bearer ")
    file = folder / "kubeconfig"
    document = kubeconfig_of({"here": cluster.server.url}, token=token)
    file.write_text(yaml.safe_dump(document))
    return file


@pytest.fixture
def started(cluster, objects, tmp_path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    (port,) = free_ports(1)
    (endpoints,) = (
        one["data"]["endpoints.yaml"]
        for one in objects
        if one["kind"] == "ConfigMap" and "endpoints.yaml" in one["data"]
    )
    (tmp_path / "endpoints.yaml").write_text(endpoints)
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "deploy_targets.cli",
            "controller",
            "-f",
            tmp_path / "endpoints.yaml",
        ],
        env={
            **environment(objects),
            "SHIPWAY_CONTROLLER_HOST": "127.0.0.1",
            "SHIPWAY_CONTROLLER_PORT": str(port),
            "SHIPWAY_KUBE_CONTEXT": "here",
            "KUBECONFIG": str(kubeconfig(cluster, tmp_path)),
            "MLFLOW_TRACKING_URI": "http://127.0.0.1:1",
            "MPLCONFIGDIR": str(tmp_path),
            "HOME": str(tmp_path),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    yield process, port
    process.kill()
    process.communicate()


def test_it_leads_looks_at_the_endpoints_and_is_refused_nothing(cluster, started) -> None:
    process, port = started
    server = cluster.server

    def has_looked(store: Any) -> bool:
        asked = {one.resource for one in server.attempts[USER.name] if one.verb != "watch"}
        watched = {one.resource for one in server.attempts[USER.name] if one.verb == "watch"}
        lease = store.objects.get(LEASE)
        leads = bool(lease and lease["spec"]["holderIdentity"])
        return leads and "networkpolicies" in asked and {"rayservices", "httproutes"} <= watched

    server.wait_until(has_looked, timeout_s=120)

    for page in ("healthz", "readyz"):
        assert httpx2.get(f"http://127.0.0.1:{port}/{page}").status_code == 200
    process.send_signal(signal.SIGTERM)
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 0, told
    store = server.store
    grants = [body for key, body in store.objects.items() if "rbac" in key.group]
    refused = [one for one in server.attempts[USER.name] if not is_allowed(USER, one, grants)]
    assert refused == []
    assert not store.objects[LEASE]["spec"].get("holderIdentity")
