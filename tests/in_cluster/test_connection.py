"""A controller in a pod: the cluster around it, found by the service account's folder, and the token in it renewed."""

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kubernetes.config import incluster_config, kube_config

from deploy_targets.cluster import Cluster, connect
from deploy_targets.in_cluster.state_store import ConfigMapStore
from registry.errors import BadInput, TargetRefused, TargetUnavailable
from tests.builders import a_state
from tests.in_cluster.pods import an_authority, behind_tls

RULES = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "create", "update"]}]


class Pod:
    """The folder of a service account that may write ConfigMaps."""

    def __init__(self, server: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.server = server
        self.folder = folder
        self.namespace = server.a_namespace()
        server.an_account(self.namespace, "shipway-controller", RULES)
        self.token = ""
        self.renew()
        monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(folder / "token"))
        monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(folder / "ca.crt"))
        monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(folder / "none"))
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")

    def renew(self) -> None:
        """As the kubelet does, long before the old one expires."""
        api = self.server.client_of(self.namespace, "shipway-controller")
        self.token = api.configuration.api_key["authorization"].removeprefix("Bearer ")
        (self.folder / "token").write_text(self.token)

    def store(self) -> ConfigMapStore:
        cluster = Cluster(connect(), sleep=lambda _: None, jitter=lambda: 0.0)
        return ConfigMapStore(cluster, namespace=self.namespace)


@pytest.fixture
def pod(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pod]:
    authority = an_authority(tmp_path, "ca")
    with behind_tls(cluster.server.url, authority) as port:
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(port))
        yield Pod(cluster, tmp_path, monkeypatch)


def test_the_cluster_around_the_pod_is_found_without_any_setting(pod: Pod) -> None:
    store = pod.store()
    revision = store.save(a_state(), expected="")
    assert store.load("chat") == (a_state(), revision)


def test_a_renewed_token_is_read_within_a_minute(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client of version 37 reads the file again a minute after it did so last. Until then it shows the old one."""
    late = dt.timedelta()
    clock = SimpleNamespace(now=lambda: dt.datetime.now() + late)
    monkeypatch.setattr(
        incluster_config, "datetime", SimpleNamespace(datetime=clock, timedelta=dt.timedelta)
    )
    store = pod.store()
    revision = store.save(a_state(), expected="")
    old = pod.token
    pod.renew()
    late = dt.timedelta(seconds=20)
    assert store.load("chat").revision == revision  # by the old one, which is valid for long yet
    pod.server.server.revoke(old)
    with pytest.raises(TargetRefused, match="does not know us"):
        store.load("chat")
    late = dt.timedelta(seconds=61)
    assert store.load("chat").revision == revision


def test_a_server_of_another_authority_is_not_talked_to(pod: Pod, tmp_path: Path) -> None:
    an_authority(tmp_path, "ca")  # over the old one: the server still shows the old certificate
    with pytest.raises(TargetUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
        pod.store().load("chat")


@pytest.mark.parametrize("missing", ["token", "ca.crt"])
def test_an_account_whose_folder_is_not_mounted_is_told(
    pod: Pod, tmp_path: Path, missing: str
) -> None:
    (tmp_path / missing).unlink()
    with pytest.raises(BadInput, match="file does not exist"):
        pod.store()
