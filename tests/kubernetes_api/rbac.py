"""Who may do what, by Roles and bindings as the objects say it. Pure.

Only service accounts are bound: the administrator of the test may do everything (as `system:masters` may), and groups
are those that each service account is in.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Body = Mapping[str, Any]

ADMIN = "shipway-test-admin"
_MASTERS = "system:masters"


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Whom a bearer token stands for."""

    name: str
    groups: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What somebody wants to do, in RBAC's words."""

    verb: str
    group: str
    resource: str
    """With its subresource: `httproutes/status`."""
    namespace: str = ""
    name: str = ""


def admin() -> User:
    return User(name=ADMIN, groups=(_MASTERS, "system:authenticated"))


def service_account(namespace: str, name: str) -> User:
    everyone = (
        "system:serviceaccounts",
        f"system:serviceaccounts:{namespace}",
        "system:authenticated",
    )
    return User(name=f"system:serviceaccount:{namespace}:{name}", groups=everyone)


def is_allowed(user: User, attempt: Attempt, grants: Iterable[Body]) -> bool:
    """Whether any rule that is bound to the user covers the attempt; `grants` are all roles and bindings."""
    if _MASTERS in user.groups:
        return True
    objects = tuple(grants)
    roles = {_identity(one): one for one in objects if not one["kind"].endswith("Binding")}
    return any(
        _covers(rule, attempt)
        for binding in objects
        if _binds(binding, user, attempt.namespace)
        for rule in _rules(binding, roles)
    )


def _identity(role: Body) -> tuple[str, str, str]:
    return role["kind"], role["metadata"].get("namespace", ""), role["metadata"]["name"]


def _binds(binding: Body, user: User, namespace: str) -> bool:
    """A RoleBinding holds in its namespace, a ClusterRoleBinding everywhere."""
    match binding["kind"]:
        case "RoleBinding" if binding["metadata"]["namespace"] != namespace:
            return False
        case "RoleBinding" | "ClusterRoleBinding":
            return any(_is_subject(one, user) for one in binding.get("subjects", ()))
        case _:
            return False


def _is_subject(subject: Body, user: User) -> bool:
    match subject["kind"]:
        case "ServiceAccount":
            return user.name == f"system:serviceaccount:{subject['namespace']}:{subject['name']}"
        case "User":
            return user.name == subject["name"]
        case "Group":
            return subject["name"] in user.groups
        case _:
            return False


def _rules(binding: Body, roles: Mapping[tuple[str, str, str], Body]) -> Iterator[Body]:
    kind, name = binding["roleRef"]["kind"], binding["roleRef"]["name"]
    namespace = binding["metadata"]["namespace"] if kind == "Role" else ""
    role = roles.get((kind, namespace, name))
    yield from () if role is None else role.get("rules") or ()


def _covers(rule: Body, attempt: Attempt) -> bool:
    names = rule.get("resourceNames")
    return (
        _matches(rule.get("verbs", ()), attempt.verb)
        and _matches(rule.get("apiGroups", ()), attempt.group)
        and _matches_resource(rule.get("resources", ()), attempt.resource)
        # A rule for names never covers what has none: a POST, or a list of everything.
        and (not names or attempt.name in names)
    )


def _matches(words: Iterable[str], word: str) -> bool:
    return any(one in ("*", word) for one in words)


def _matches_resource(words: Iterable[str], resource: str) -> bool:
    """`*` covers subresources too; `*/status` covers that of every kind."""
    subresource = resource.partition("/")[2]
    every = f"*/{subresource}" if subresource else "*"
    return any(one in ("*", resource, every) for one in words)
