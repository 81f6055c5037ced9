"""The API server of a kubeconfig in the place of the stand-in, for `make test-kubernetes`.

A server alone will do, and is best: no controller is wanted, for the tests write what operators would, and a cluster's own
controller of Deployments would write it otherwise. The kinds are installed from the CRD files where they are missing and are
left there; each test's namespace goes with it.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from tests.kubernetes_api.cluster import Cluster
from tests.kubernetes_api.resources import Catalogue

_LIMIT_S = 30.0
_NOT_FOUND = 404


@contextmanager
def a_real_cluster(kubeconfig: str) -> Iterator[Cluster]:
    """The cluster of the file's current context, until the end of the block."""
    cluster = Cluster(_settings(kubeconfig))
    try:
        yield cluster
    finally:
        cluster.close()


def install_kinds(kubeconfig: str, catalogue: Catalogue) -> None:
    """Create the CRDs that the server does not serve, and wait until it does."""
    api = client.ApiClient(_settings(kubeconfig))
    for (group, plural), file in catalogue.files.items():
        if not _is_served(api, file, group, plural):
            _create(api, file)
            deadline = time.monotonic() + _LIMIT_S
            while not _is_served(api, file, group, plural):
                assert time.monotonic() < deadline, f"{plural}.{group} was created, but not served"
                time.sleep(0.1)
    api.rest_client.pool_manager.clear()


def _settings(kubeconfig: str) -> client.Configuration:
    settings = client.Configuration()
    config.load_kube_config(config_file=kubeconfig, client_configuration=settings)
    return settings


def _create(api: client.ApiClient, file: Path) -> None:
    """As the file says, whatever this client knows of its fields."""
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    body = yaml.load(file.read_text(), yaml.CSafeLoader)
    _call(api, "POST", path, body)


def _is_served(api: client.ApiClient, file: Path, group: str, plural: str) -> bool:
    versions = yaml.load(file.read_text(), yaml.CSafeLoader)["spec"]["versions"]
    (stored,) = [one["name"] for one in versions if one["storage"]]
    try:
        served = _call(api, "GET", f"/apis/{group}/{stored}")
    except ApiException as error:
        if error.status != _NOT_FOUND:
            raise
        return False
    return any(one["name"] == plural for one in served["resources"])


def _call(api: Any, method: str, path: str, body: Any = None) -> Any:
    request = api.param_serialize(
        method,
        path,
        header_params={"Accept": "application/json", "Content-Type": "application/json"},
        body=body,
        auth_settings=["BearerToken"],
    )
    answer = api.call_api(*request)
    answer.read()
    return api.response_deserialize(answer, {"2XX": "object"}).data
