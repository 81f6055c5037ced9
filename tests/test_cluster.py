"""What the cluster adapter makes of an API server's answers, asked of the stand-in through the real client."""

from typing import Any

import pytest
from kubernetes import client

from deploy_targets.cluster import (
    HTTP_ROUTE,
    NETWORK_POLICY,
    POD,
    RAY_SERVICE,
    Cluster,
    connect,
    kind_of,
)
from registry.errors import (
    BadInput,
    FieldConflict,
    KindMissing,
    TargetRefused,
    TargetUnavailable,
)
from tests.kubernetes_api.objects import PARENT, Objects, a_ray_service, a_route, backend

RULES = frozenset({".spec.rules"})


class Waits:
    """Sleeps that take no time."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


@pytest.fixture
def waits() -> Waits:
    return Waits()


def speaking_as(api: client.ApiClient, waits: Waits, jitter: float = 0.0) -> Cluster:
    api.rest_client.pool_manager.connection_pool_kw["retries"] = False  # as `connect` has it
    return Cluster(api, sleep=waits, jitter=lambda: jitter)


@pytest.fixture
def ours(cluster: Any, waits: Waits) -> Cluster:
    return speaking_as(cluster.admin, waits)


@pytest.fixture
def namespace(cluster: Any) -> str:
    return cluster.a_namespace()


def placed(body: Any, namespace: str, **labels: str) -> Any:
    return {**body, "metadata": {**body["metadata"], "namespace": namespace, "labels": labels}}


def route(namespace: str, weight: int = 95) -> Any:
    return placed(a_route(backend("v6", weight), backend("v7", 100 - weight)), namespace, app="x")


def test_what_was_applied_is_there_under_our_name(ours: Cluster, namespace: str) -> None:
    applied = ours.apply(route(namespace))

    assert ours.get(HTTP_ROUTE, namespace, "chat") == applied
    assert {one["manager"] for one in applied["metadata"]["managedFields"]} == {"shipway"}


def test_an_object_that_is_not_there_is_none_and_not_a_fault(ours: Cluster, namespace: str) -> None:
    assert ours.get(HTTP_ROUTE, namespace, "chat") is None
    assert ours.list(POD, namespace, {"a": "b"}) == ()


def test_only_what_carries_all_labels_is_listed(ours: Cluster, namespace: str) -> None:
    ours.apply(route(namespace))

    assert len(ours.list(HTTP_ROUTE, namespace, {"app": "x"})) == 1
    assert ours.list(HTTP_ROUTE, namespace, {"app": "x", "version": "7"}) == ()


def test_a_dry_run_says_what_would_be_and_changes_nothing(ours: Cluster, namespace: str) -> None:
    before = ours.apply(route(namespace))

    after = ours.apply(route(namespace, weight=50), dry_run=True)

    assert after["spec"]["rules"][0]["backendRefs"][0]["weight"] == 50
    assert ours.get(HTTP_ROUTE, namespace, "chat") == before


def test_a_field_that_the_cluster_does_not_know_is_refused_and_not_asked_for_again(
    ours: Cluster, namespace: str, waits: Waits
) -> None:
    body = placed(a_ray_service(serveConfigV3="x"), namespace)

    with pytest.raises(TargetRefused, match=r"serveConfigV3.*another release of the operator"):
        ours.apply(body)

    assert waits.seconds == []
    assert ours.get(RAY_SERVICE, namespace, "chat-v7") is None


def test_a_value_that_the_cluster_refuses_is_named(ours: Cluster, namespace: str) -> None:
    with pytest.raises(TargetRefused, match="weight"):
        ours.apply(route(namespace, weight=-1))


def test_a_field_that_somebody_else_set_is_a_conflict_that_names_him(
    cluster: Any, ours: Cluster, namespace: str
) -> None:
    ours.apply(route(namespace))
    him = Objects(by=cluster.admin, namespace=namespace)
    him.apply(a_route(backend("v6", 1), backend("v7", 99)), manager="somebody", force=True)

    with pytest.raises(FieldConflict, match="somebody") as caught:
        ours.apply(route(namespace))

    assert caught.value.fields == {".spec.rules"}
    with pytest.raises(FieldConflict):
        ours.apply(route(namespace), take_back=frozenset({".spec.hostnames"}))
    back = ours.apply(route(namespace), take_back=RULES)
    assert [one["weight"] for one in back["spec"]["rules"][0]["backendRefs"]] == [95, 5]


@pytest.mark.stand_in("a cluster without a CRD")
def test_a_missing_kind_is_told_apart_from_a_missing_object(cluster: Any, waits: Waits) -> None:
    from tests.kubernetes_api.cluster import a_cluster

    with a_cluster(cluster.server.catalogue.without("rayservices")) as bare:
        ours = speaking_as(bare.admin, waits)
        namespace = bare.a_namespace()
        for ask in (
            lambda: ours.get(RAY_SERVICE, namespace, "chat-v7"),
            lambda: ours.list(RAY_SERVICE, namespace, {}),
            lambda: ours.apply(placed(a_ray_service(), namespace)),
        ):
            with pytest.raises(KindMissing, match="Install KubeRay"):
                ask()


def test_what_is_forbidden_is_told_with_the_rule_that_would_allow_it(
    cluster: Any, namespace: str, waits: Waits
) -> None:
    may_read = {
        "apiGroups": ["gateway.networking.k8s.io"],
        "resources": ["httproutes"],
        "verbs": ["get"],
    }
    ours = speaking_as(cluster.an_account(namespace, "reader", [may_read]), waits)

    assert ours.get(HTTP_ROUTE, namespace, "chat") is None
    with pytest.raises(TargetRefused, match=r"gateway.networking.*\[httproutes\].*\[patch\]"):
        ours.apply(route(namespace))
    with pytest.raises(TargetRefused, match=r"\[''\].*\[pods\].*\[list\]"):
        ours.list(POD, namespace, {})


def test_a_credential_that_ran_out_is_named(cluster: Any, namespace: str, waits: Waits) -> None:
    ours = speaking_as(cluster.client_with("nobody"), waits)

    with pytest.raises(TargetRefused, match="Renew the credentials"):
        ours.get(HTTP_ROUTE, namespace, "chat")


@pytest.mark.stand_in("faults on demand")
@pytest.mark.parametrize(
    ("code", "seconds"), [(429, [1.0, 1.0]), (500, [0.2, 0.4]), (503, [0.2, 0.4])]
)
def test_what_passes_is_waited_for(  # a real server sends Retry-After: 1 with its 429
    cluster: Any, ours: Cluster, namespace: str, waits: Waits, code: int, seconds: list[float]
) -> None:
    cluster.server.faults.answer_next(code, times=2)

    assert ours.get(HTTP_ROUTE, namespace, "chat") is None
    assert waits.seconds == seconds


@pytest.mark.stand_in("faults on demand")
def test_a_pause_that_the_server_asks_for_is_kept(
    cluster: Any, ours: Cluster, namespace: str, waits: Waits
) -> None:
    cluster.server.faults.answer_next(429, retry_after_s=7)

    ours.list(HTTP_ROUTE, namespace, {})

    assert waits.seconds == [7.0]


@pytest.mark.stand_in("faults on demand")
def test_a_pause_of_minutes_is_no_pause_but_an_outage(
    cluster: Any, ours: Cluster, namespace: str, waits: Waits
) -> None:
    cluster.server.faults.answer_next(429, retry_after_s=300)

    with pytest.raises(TargetUnavailable, match="429"):
        ours.list(HTTP_ROUTE, namespace, {})
    assert waits.seconds == []


@pytest.mark.stand_in("faults on demand")
def test_patience_has_an_end_and_waits_grow_with_jitter(
    cluster: Any, namespace: str, waits: Waits
) -> None:
    ours = speaking_as(cluster.admin, waits, jitter=1.0)
    cluster.server.faults.answer_next(503, times=5)

    with pytest.raises(TargetUnavailable, match="503"):
        ours.get(HTTP_ROUTE, namespace, "chat")
    assert waits.seconds == pytest.approx([0.3, 0.6, 1.2, 2.4])
    assert ours.get(HTTP_ROUTE, namespace, "chat") is None


@pytest.mark.stand_in("faults on demand")
def test_a_write_that_came_in_between_is_written_again(
    cluster: Any, ours: Cluster, namespace: str
) -> None:
    cluster.server.faults.conflict_next_writes(2)

    assert ours.apply(route(namespace))["metadata"]["name"] == "chat"


@pytest.mark.stand_in("a server that goes away")
def test_a_server_that_is_away_is_unavailable(
    cluster: Any, ours: Cluster, namespace: str, waits: Waits
) -> None:
    cluster.server.go_away()

    with pytest.raises(TargetUnavailable, match="did not answer"):
        ours.get(HTTP_ROUTE, namespace, "chat")
    assert len(waits.seconds) == 4


def test_what_was_made_anew_meanwhile_is_not_deleted(ours: Cluster, namespace: str) -> None:
    first = ours.apply(route(namespace))
    ours.delete(first, HTTP_ROUTE)
    assert ours.get(HTTP_ROUTE, namespace, "chat") is None
    ours.delete(first, HTTP_ROUTE)
    second = ours.apply(route(namespace))

    ours.delete(first, HTTP_ROUTE)

    assert ours.get(HTTP_ROUTE, namespace, "chat") == second


def test_the_kinds_that_are_applied_are_known_by_their_bodies() -> None:
    body = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"}

    assert kind_of(body) == NETWORK_POLICY
    with pytest.raises(KeyError):
        kind_of({"apiVersion": "v1", "kind": "Secret"})


def test_a_context_that_does_not_exist_is_wrong_usage() -> None:
    with pytest.raises(BadInput, match="There is no context nowhere"):
        connect("nowhere")


def test_the_parent_of_the_tests_route_is_as_the_api_fills_it_in(
    ours: Cluster, namespace: str
) -> None:
    assert ours.apply(route(namespace))["spec"]["parentRefs"] == [PARENT]
