"""Writes the controller's rights from the calls that it makes: `python -m tests.install.rights`; `--check` compares.

One walk for each way to deploy makes every call that the adapter has, and fails at once where one is refused: so the same
walk records the calls, passes with the rights that are written from them, and fails without any one of them. Needs the
operators' CRD files, as the stand-in for an API server does.
"""

import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client

from deploy_targets.cluster import Cluster
from deploy_targets.endpoint import Endpoint
from deploy_targets.in_cluster.election import Terms
from deploy_targets.in_cluster.lease import LEASE_NAME, LeaseLeadership
from deploy_targets.in_cluster.state_store import ConfigMapStore
from deploy_targets.install.guard import NAMESPACE
from deploy_targets.kubernetes_targets import cluster_target, watched_kinds
from deploy_targets.manifest import OWN_LABELS
from deploy_targets.placement import Git
from deploy_targets.routing.traffic import Traffic
from deploy_targets.target import Readiness, Target
from registry.errors import TargetRefused, TargetUnavailable
from tests.builders import (
    GATEWAY,
    FakeClock,
    a_knative_endpoint,
    a_ray_endpoint,
    a_release,
    a_state,
    a_triton_endpoint,
)
from tests.contracts.syncer import Syncer, a_repository
from tests.install.kustomize import INSTALL
from tests.kubernetes_api import cluster as clusters
from tests.kubernetes_api.operators.behaviour import failing
from tests.kubernetes_api.operators.writers import Operators
from tests.kubernetes_api.rbac import Attempt
from tests.kubernetes_api.resources import crd_folder, read_catalogue
from tests.repo.reference import ROOT

ACCOUNT = "shipway-controller"
HOME = "controller"
"""The controller's rights in its own namespace, which an endpoint's are not."""
BY_GIT = "-git"
"""Ends the name of a way where somebody else applies what Shipway writes: reading is enough there."""
WAYS: tuple[str, ...] = (
    HOME,
    "ray-serve",
    "ray-serve-git",
    "triton",
    "triton-git",
    "triton-knative",
)
_GROUP = "rbac.authorization.k8s.io"
_EVERYTHING = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}
_HEAD = "# Written by `make docs` from the calls that the controller makes; a test proves that none is too much.\n"

Body = Mapping[str, Any]


def _endpoint(way: str, namespace: str, repository: Path | None) -> Endpoint:
    if repository is not None:
        alike = _endpoint(way.removesuffix(BY_GIT), namespace, None)
        place = {"git": Git(repository=str(repository))}
        return alike.model_copy(update={"kubernetes": alike.cluster.model_copy(update=place)})
    match way:
        case "ray-serve":
            own = {"namespace": namespace, "gateway": GATEWAY, "image": "engine:1"}
            return a_ray_endpoint(kubernetes=own)
        case "triton":
            return a_triton_endpoint(kubernetes={"namespace": namespace, "gateway": GATEWAY})
        case _:
            return a_knative_endpoint(kubernetes={"namespace": namespace})


def _target(endpoint: Endpoint, api: client.ApiClient) -> Target:
    cluster = Cluster(api, sleep=lambda _: None, jitter=lambda: 0.0)
    return cluster_target(endpoint, cluster, repository=lambda release: release.source)


def walk(way: str, namespace: str, api: client.ApiClient, running: clusters.Cluster) -> None:
    """Every call that the controller makes in its own namespace, or in one with endpoints of that kind.

    Raises:
        TargetRefused: a right is missing, and which.
    """
    if way == HOME:
        walk_at_home(namespace, api)
    elif way.endswith(BY_GIT):
        with tempfile.TemporaryDirectory() as folder:
            bare = a_repository(Path(folder))
            endpoint = _endpoint(way, namespace, bare)
            walk_through(endpoint, api, running, sync=Syncer(running, bare).sync)
    else:
        walk_through(_endpoint(way, namespace, None), api, running, sync=lambda: None)


def walk_at_home(namespace: str, api: client.ApiClient) -> None:
    """The Lease is taken and kept, a state is saved for the first time and again, and all of them are read, as at a start."""
    cluster = Cluster(api, sleep=lambda _: None, jitter=lambda: 0.0)
    terms = Terms(duration_s=15, renew_deadline_s=10, retry_s=2)
    lease = LeaseLeadership(
        cluster, namespace=namespace, identity="one", terms=terms, clock=FakeClock()
    )
    lease.attempt()
    lease.attempt()
    assert lease.leads()
    store = ConfigMapStore(cluster, namespace=namespace)
    first = store.load("chat")
    revision = store.save(first.state, expected=first.revision)
    assert store.load("chat").revision == revision
    store.save(a_state(), expected=revision)
    assert store.load("chat").state == a_state()
    assert store.states() == (a_state(),)


def walk_through(
    endpoint: Endpoint,
    api: client.ApiClient,
    running: clusters.Cluster,
    *,
    sync: Callable[[], None],
) -> None:
    """The watches; a release that is given up, one that serves, a challenger that does not start and is taken back, one that is promoted."""
    target = _target(endpoint, api)
    operators = Operators(running.admin, endpoint.cluster.namespace)

    def look() -> Mapping[str, Any]:
        sync()
        for _ in range(3):
            operators.step()
        return target.observe().revisions

    hints = Cluster(api, sleep=lambda _: None, jitter=lambda: 0.0)
    for kind in watched_kinds(endpoint):
        since = hints.newest_version(kind, endpoint.cluster.namespace, OWN_LABELS)
        hints.watch(kind, endpoint.cluster.namespace, OWN_LABELS, since=since).close()
    target.apply(a_release("5"))
    look()
    target.retire("5")
    look()
    target.apply(a_release("6"))
    assert look()["6"].readiness is Readiness.READY
    target.shift(Traffic.all_to("6"))
    look()
    operators.behave_to("9", failing(message="the engine gave up"))
    target.apply(a_release("9"))
    assert look()["9"].readiness is not Readiness.READY
    try:
        target.apply(a_release("9"))
    except TargetRefused:
        raise
    except TargetUnavailable:
        assert endpoint.cluster.git is not None  # there it has to be pruned first
    look()
    target.retire("9")
    look()
    if endpoint.cluster.gateway is None:
        target.retire("9")  # the spec is given back first, then rolled out again
        look()
    target.apply(a_release("7"))
    assert look()["7"].readiness is Readiness.READY
    target.shift(Traffic(weights={"6": 75, "7": 25}))
    look()
    target.shift(Traffic.all_to("7"))
    look()
    target.retire("6")
    look()
    assert target.observe().traffic == Traffic.all_to("7")


def folder_of(way: str) -> Path:
    """Where the rights of that way are."""
    return INSTALL / HOME if way == HOME else INSTALL / "rights" / way


def record(way: str) -> list[Body]:
    """The rules that cover the walk's calls and nothing else."""
    with clusters.a_cluster(read_catalogue(crd_folder())) as running:
        namespace = running.a_namespace()
        api = running.an_account(namespace, ACCOUNT, [_EVERYTHING])
        walk(way, namespace, api, running)
        user = f"system:serviceaccount:{namespace}:{ACCOUNT}"
        return rules_for(running.server.attempts[user])


def rules_for(attempts: Iterable[Attempt]) -> list[Body]:
    """One rule for each kind, its verbs in order; what is done to the one Lease alone is a rule for its name."""
    verbs: defaultdict[tuple[str, str, str], set[str]] = defaultdict(set)
    for one in attempts:
        name = one.name if one.name == LEASE_NAME else ""
        verbs[one.group, one.resource, name].add(one.verb)
    return [
        {
            "apiGroups": [group],
            "resources": [resource],
            **({"resourceNames": [name]} if name else {}),
            "verbs": sorted(found),
        }
        for (group, resource, name), found in sorted(verbs.items())
    ]


def role_documents(name: str, rules: Iterable[Body]) -> list[Body]:
    """The Role, and its binding to the controller's account."""
    placed = {"namespace": NAMESPACE} if name == ACCOUNT else {}
    metadata = {"name": name, **placed, "labels": {"app.kubernetes.io/part-of": "shipway"}}
    api_version = f"{_GROUP}/v1"
    return [
        {"apiVersion": api_version, "kind": "Role", "metadata": metadata, "rules": [*rules]},
        {
            "apiVersion": api_version,
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": _GROUP, "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE}],
        },
    ]


def text_of(way: str) -> str:
    """The file as it has to be."""
    documents = role_documents(f"shipway-{way}", record(way))
    return _HEAD + yaml.safe_dump_all(documents, sort_keys=False)


def committed(way: str) -> list[Body]:
    """The file as it is."""
    return list(yaml.safe_load_all((folder_of(way) / "rbac.yaml").read_text()))


def controller_client(
    running: clusters.Cluster, namespace: str, documents: Iterable[Body]
) -> client.ApiClient:
    """A client that is a controller with these rights in `namespace`; it lives in a namespace of its own."""
    home = running.a_namespace()
    account = {"name": ACCOUNT, "namespace": home}
    running.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})
    for document in documents:
        placed = {**document, "metadata": {**document["metadata"], "namespace": namespace}}
        if "subjects" in placed:
            placed["subjects"] = [{"kind": "ServiceAccount", **account}]
        running.create(placed)
    return running.client_of(home, ACCOUNT)


def rights_in(documents: Iterable[Body]) -> Iterator[tuple[str, str, str]]:
    """Each (group, resource, verb) that the Roles give."""
    for document in documents:
        for rule in document.get("rules", ()):
            for verb in rule["verbs"]:
                yield rule["apiGroups"][0], rule["resources"][0], verb


def without(documents: Iterable[Body], right: tuple[str, str, str]) -> list[Body]:
    """The same, less one right."""

    def less(rule: Body) -> Body:
        is_it = (rule["apiGroups"][0], rule["resources"][0]) == right[:2]
        return {**rule, "verbs": [one for one in rule["verbs"] if not (is_it and one == right[2])]}

    return [
        {**one, "rules": [less(rule) for rule in one["rules"]]} if "rules" in one else one
        for one in documents
    ]


if __name__ == "__main__":
    texts: Mapping[Path, Callable[[], str]] = {
        folder_of(way) / "rbac.yaml": (lambda way=way: text_of(way)) for way in WAYS
    }
    stale = {file: text() for file, text in texts.items()}
    stale = {f: t for f, t in stale.items() if not f.exists() or f.read_text() != t}
    for file, text in stale.items():
        if "--check" not in sys.argv:
            file.write_text(text)
        print(file.relative_to(ROOT))
    sys.exit(bool(stale) if "--check" in sys.argv else 0)
