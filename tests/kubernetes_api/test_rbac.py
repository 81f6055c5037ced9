"""Who may do what: the rules on plain values, and over HTTP with tokens of service accounts."""

from typing import Any

import pytest
from kubernetes import client

from tests.kubernetes_api.objects import Objects, a_route, backend
from tests.kubernetes_api.rbac import Attempt, admin, is_allowed, service_account
from tests.kubernetes_api.test_measured_answers import refused

GATEWAY = "gateway.networking.k8s.io"


def role(rules: list[Any], *, namespace: str | None = "llm", name: str = "r") -> dict[str, Any]:
    kind = "ClusterRole" if namespace is None else "Role"
    inside = {} if namespace is None else {"namespace": namespace}
    return {"kind": kind, "metadata": {"name": name, **inside}, "rules": rules}


def binding(
    *subjects: Any, kind: str = "RoleBinding", to: str = "Role", namespace: str = "llm"
) -> dict[str, Any]:
    inside = {"namespace": namespace} if kind == "RoleBinding" else {}
    return {
        "kind": kind,
        "metadata": {"name": "b", **inside},
        "roleRef": {"kind": to, "name": "r"},
        "subjects": list(subjects),
    }


ACCOUNT = {"kind": "ServiceAccount", "namespace": "llm", "name": "controller"}
CONTROLLER = service_account("llm", "controller")
ROUTES = {"apiGroups": [GATEWAY], "resources": ["httproutes"], "verbs": ["get", "patch"]}


def attempt(verb: str = "get", **changes: str) -> Attempt:
    asked = {"group": GATEWAY, "resource": "httproutes", "namespace": "llm", "name": "chat"}
    return Attempt(**{"verb": verb, **asked, **changes})


def test_what_is_granted_is_allowed():
    assert is_allowed(CONTROLLER, attempt(), [role([ROUTES]), binding(ACCOUNT)])


@pytest.mark.parametrize(
    "other",
    [
        {"verb": "delete"},
        {"group": "ray.io"},
        {"resource": "gateways"},
        {"resource": "httproutes/status"},
        {"namespace": "other"},
        {"namespace": ""},
    ],
)
def test_what_differs_in_one_thing_is_not(other):
    assert not is_allowed(CONTROLLER, attempt(**other), [role([ROUTES]), binding(ACCOUNT)])


def test_nothing_is_allowed_without_a_binding_or_to_somebody_else():
    other = service_account("llm", "guard")

    assert not is_allowed(CONTROLLER, attempt(), [role([ROUTES])])
    assert not is_allowed(other, attempt(), [role([ROUTES]), binding(ACCOUNT)])
    assert not is_allowed(CONTROLLER, attempt(), [binding(ACCOUNT)])


def test_a_rule_for_names_covers_those_alone():
    grants = [role([{**ROUTES, "verbs": ["*"], "resourceNames": ["chat"]}]), binding(ACCOUNT)]

    assert is_allowed(CONTROLLER, attempt("patch"), grants)
    assert not is_allowed(CONTROLLER, attempt("patch", name="other"), grants)
    assert not is_allowed(CONTROLLER, attempt("list", name=""), grants)


@pytest.mark.parametrize(
    ("resources", "asked", "allowed"),
    [
        (["httproutes/status"], "httproutes/status", True),
        (["*"], "httproutes/status", True),
        (["*/status"], "httproutes/status", True),
        (["*/status"], "httproutes", False),
    ],
)
def test_subresources_are_granted_apart(resources, asked, allowed):
    grants = [role([{**ROUTES, "resources": resources}]), binding(ACCOUNT)]

    assert is_allowed(CONTROLLER, attempt(resource=asked), grants) is allowed


def test_a_cluster_role_holds_where_it_is_bound():
    inside = [role([ROUTES], namespace=None), binding(ACCOUNT, to="ClusterRole")]
    everywhere = binding(ACCOUNT, kind="ClusterRoleBinding", to="ClusterRole")

    assert is_allowed(CONTROLLER, attempt(), inside)
    assert not is_allowed(CONTROLLER, attempt(namespace="other"), inside)
    assert is_allowed(CONTROLLER, attempt(namespace="other"), [inside[0], everywhere])


def test_groups_and_users_are_bound_too():
    group = {"kind": "Group", "name": "system:serviceaccounts:llm"}
    user = {"kind": "User", "name": CONTROLLER.name}

    assert is_allowed(CONTROLLER, attempt(), [role([ROUTES]), binding(group)])
    assert is_allowed(CONTROLLER, attempt(), [role([ROUTES]), binding(user)])


def test_the_administrator_may_do_everything():
    assert is_allowed(admin(), attempt("delete", namespace=""), [])


@pytest.fixture
def namespace(cluster) -> str:
    return cluster.a_namespace()


def account(cluster, namespace, *verbs: str, **rule: Any) -> Objects:
    """Somebody with one rule about routes."""
    given = {**ROUTES, "verbs": list(verbs), **rule}
    return Objects(by=cluster.an_account(namespace, "somebody", [given]), namespace=namespace)


def test_each_verb_has_its_own_grant(cluster, namespace):
    Objects(by=cluster.admin, namespace=namespace).post(a_route(backend("v6", 100)))
    reader = account(cluster, namespace, "get")

    read = reader.get(a_route())

    refused(403, reader.list, a_route())
    refused(403, reader.list, a_route(), watch=True)
    refused(403, reader.put, read)
    refused(403, reader.merge, read, {})
    refused(403, reader.delete, read)
    refused(403, reader.merge_status, read, {})


def test_an_apply_of_what_is_not_there_needs_create_too(cluster, namespace):
    patcher = account(cluster, namespace, "get", "patch")

    status = refused(403, patcher.apply, a_route(backend("v6", 100)))

    assert 'cannot create resource "httproutes"' in status["message"]
    Objects(by=cluster.admin, namespace=namespace).apply(a_route(backend("v6", 100)))
    assert patcher.apply(a_route(backend("v6", 100)))["metadata"]["name"] == "chat"


def test_a_grant_for_a_name_covers_a_list_of_that_name(cluster, namespace):
    somebody = account(cluster, namespace, "list", resourceNames=["chat"])

    assert somebody.list(a_route(), field_selector="metadata.name=chat")["items"] == []
    refused(403, somebody.list, a_route(), field_selector="metadata.name=other")
    refused(403, somebody.list, a_route())


def test_a_status_is_granted_apart(cluster, namespace):
    route = Objects(by=cluster.admin, namespace=namespace).post(a_route(backend("v6", 100)))
    operator = account(cluster, namespace, "patch", resources=["httproutes/status"])

    assert operator.merge_status(route, {"parents": []})["status"] == {"parents": []}
    refused(403, operator.merge, route, {"spec": {}})


@pytest.mark.stand_in("grants without delay")
def test_a_grant_that_is_taken_away_is_gone_at_once(cluster, namespace):
    somebody = account(cluster, namespace, "list")
    somebody.list(a_route())

    client.RbacAuthorizationV1Api(cluster.admin).delete_namespaced_role("somebody", namespace)

    refused(403, somebody.list, a_route())


def test_a_token_that_nobody_gave_gets_401(cluster, namespace):
    stranger = Objects(by=cluster.client_with("made-up"), namespace=namespace)

    status = refused(401, stranger.list, a_route())

    assert status["reason"] == "Unauthorized"
