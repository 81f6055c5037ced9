"""Builds what an administrator would apply, with the Kustomize inside `kubectl`, and asks the stand-in to take it.

Debian's kubectl is of 1.20, whose Kustomize wants folders under `bases`, a word that later ones gave up: for it alone
the copy that is built is spelt in the old way.
"""

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client

from tests.kubernetes_api.cluster import Cluster
from tests.repo.reference import ROOT

Body = Mapping[str, Any]
INSTALL = ROOT / "deploy_targets" / "install"
_FIRST_WITH_FOLDERS_AS_RESOURCES = 21
_CLUSTER_WIDE = {"Namespace"}
_PLURALS = {"NetworkPolicy": "networkpolicies"}


def build(folder: str, copy: Path) -> list[Any]:
    """The objects of a folder of the installation; `copy` is where it may be copied to."""
    need_kubectl()
    installed = copy / "install"
    if not installed.exists():
        shutil.copytree(INSTALL, installed)
        version = json.loads(_kubectl("version", "--client", "--output", "json"))["clientVersion"]
        if int(version["minor"].rstrip("+")) < _FIRST_WITH_FOLDERS_AS_RESOURCES:
            for file in installed.rglob("kustomization.yaml"):
                _spell_in_the_old_way(file)
    return objects_in(installed / folder)


def need_kubectl() -> None:
    """Skip where it is not installed."""
    if shutil.which("kubectl") is None:
        pytest.skip("there is no kubectl; Debian's package is kubernetes-client")


def objects_in(folder: Path) -> list[Any]:
    """What Kustomize makes of the folder as it stands."""
    return list(yaml.safe_load_all(_kubectl("kustomize", str(folder))))


def _kubectl(*words: str) -> str:
    done = subprocess.run(
        ["kubectl", *words], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _spell_in_the_old_way(file: Path) -> None:
    document = yaml.safe_load(file.read_text())
    resources = document["resources"]
    document["bases"] = [one for one in resources if (file.parent / one).is_dir()]
    document["resources"] = [one for one in resources if one not in document["bases"]]
    file.write_text(yaml.safe_dump(document))


def apply_strictly(cluster: Cluster, body: Body) -> Any:
    """The object as the API server keeps it after a server-side apply with strict validation."""
    group, _, version = body["apiVersion"].rpartition("/")
    kind, metadata = body["kind"], body["metadata"]
    root = f"/apis/{group}/{version}" if group else f"/api/{version}"
    inside = "" if kind in _CLUSTER_WIDE else f"/namespaces/{metadata['namespace']}"
    plural = _PLURALS.get(kind, f"{kind.lower()}s")
    api: client.ApiClient = cluster.admin
    request = api.param_serialize(
        "PATCH",
        f"{root}{inside}/{plural}/{metadata['name']}",
        query_params=[("fieldManager", "administrator"), ("fieldValidation", "Strict")],
        header_params={
            "Accept": "application/json",
            "Content-Type": "application/apply-patch+yaml",
        },
        body=dict(body),
        auth_settings=["BearerToken"],
    )
    response = api.call_api(*request)
    answer = json.loads(response.read())
    assert response.status in (200, 201), answer
    return answer
