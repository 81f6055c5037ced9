"""The Status bodies in which an API server says no. Pure.

`Refusal` carries one, from where it is known to the edge, where it becomes an answer.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from tests.kubernetes_api.apply import Conflict
from tests.kubernetes_api.ownership import shown_path
from tests.kubernetes_api.rbac import Attempt, User
from tests.kubernetes_api.resources import Resource
from tests.kubernetes_api.schema import Fault

Body = Mapping[str, Any]


class Refusal(Exception):
    """An answer that is no success."""

    def __init__(self, status: Body, *, retry_after_s: int | None = None) -> None:
        super().__init__(status["message"])
        self.status = status
        self.retry_after_s = retry_after_s


def failure(
    code: int, reason: str, message: str, details: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A Status; the reason is empty where Kubernetes gives none."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        **({"reason": reason} if reason else {}),
        **({"details": dict(details)} if details else {}),
        "code": code,
    }


def _details(resource: Resource, name: str) -> dict[str, Any]:
    named = {"name": name, "group": resource.group, "kind": resource.plural}
    return {key: one for key, one in named.items() if one}


def not_found(resource: Resource, name: str) -> Refusal:
    message = f'{resource.full_name} "{name}" not found'
    return Refusal(failure(404, "NotFound", message, _details(resource, name)))


def already_exists(resource: Resource, name: str) -> Refusal:
    message = f'{resource.full_name} "{name}" already exists'
    return Refusal(failure(409, "AlreadyExists", message, _details(resource, name)))


def modified(resource: Resource, name: str, why: str | None = None) -> Refusal:
    """A write that started from an older version."""
    reason = why or (
        "the object has been modified; please apply your changes to the latest version and try again"
    )
    message = f'Operation cannot be fulfilled on {resource.full_name} "{name}": {reason}'
    return Refusal(failure(409, "Conflict", message, _details(resource, name)))


def invalid(resource: Resource, name: str, faults: Iterable[Fault]) -> Refusal:
    causes = [{"reason": one.reason, "message": one.message, "field": one.field} for one in faults]
    said = [f"{one['field']}: {one['message']}" for one in causes]
    kind = f"{resource.kind}.{resource.group}" if resource.group else resource.kind
    whole = said[0] if len(said) == 1 else f"[{', '.join(said)}]"
    details = {**_details(resource, name), "kind": resource.kind, "causes": causes}
    return Refusal(failure(422, "Invalid", f'{kind} "{name}" is invalid: {whole}', details))


def forbidden(user: User, attempt: Attempt) -> Refusal:
    plural = attempt.resource.partition("/")[0]
    full = f"{plural}.{attempt.group}" if attempt.group else plural
    scope = (
        f'in the namespace "{attempt.namespace}"' if attempt.namespace else "at the cluster scope"
    )
    what = f'{full} "{attempt.name}"' if attempt.name else full
    message = (
        f'{what} is forbidden: User "{user.name}" cannot {attempt.verb} resource '
        f'"{attempt.resource}" in API group "{attempt.group}" {scope}'
    )
    named = {"name": attempt.name, "group": attempt.group, "kind": plural}
    details = {key: one for key, one in named.items() if one}
    return Refusal(failure(403, "Forbidden", message, details))


def conflicts(found: Iterable[tuple[Conflict, str | None]]) -> Refusal:
    """An apply that would change fields of others; with each, since when the other has them."""
    causes = []
    for conflict, since in found:
        who = f'conflict with "{conflict.manager.name}"'
        if conflict.manager.subresource:
            who += f' with subresource "{conflict.manager.subresource}"'
        if conflict.manager.operation == "Update":
            who += f" using {conflict.manager.api_version}" + (f" at {since}" if since else "")
        causes += [
            {"reason": "FieldManagerConflict", "message": who, "field": shown_path(path)}
            for path in conflict.paths
        ]
    by_manager: dict[str, list[str]] = {}
    for one in causes:
        by_manager.setdefault(one["message"], []).append(one["field"])
    if len(causes) == 1:
        said = f"{causes[0]['message']}: {causes[0]['field']}"
    else:
        said = "\n".join(
            f"{who.replace('conflict', 'conflicts', 1)}:\n"
            + "\n".join(f"- {one}" for one in fields)
            for who, fields in by_manager.items()
        )
    plural = "" if len(causes) == 1 else "s"
    message = f"Apply failed with {len(causes)} conflict{plural}: {said}"
    return Refusal(failure(409, "Conflict", message, {"causes": causes}))


def bad_request(message: str) -> Refusal:
    return Refusal(failure(400, "BadRequest", message))


def undecodable(resource: Resource, why: str) -> Refusal:
    """What was sent is no object of the kind."""
    kind, version = resource.kind, resource.version
    return bad_request(f'{kind} in version "{version}" cannot be handled as a {kind}: {why}')


def unknown_error(message: str) -> Refusal:
    """What Kubernetes says when it did not foresee the error: 500 without a reason."""
    return Refusal(failure(500, "", message))


def unauthorized() -> Refusal:
    return Refusal(failure(401, "Unauthorized", "Unauthorized"))


def expired(since: int, oldest: int) -> dict[str, Any]:
    """The Status of a watch that starts before what is still remembered."""
    return failure(410, "Expired", f"too old resource version: {since} ({oldest})")


def not_built(what: str) -> Refusal:
    """The stand-in's own: what it does not do, it says loudly."""
    return Refusal(failure(501, "NotImplemented", f"The stand-in does not do this: {what}"))


def deleted(resource: Resource, name: str, uid: str) -> dict[str, Any]:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": {**_details(resource, name), "uid": uid},
    }


def invalid_options(field: str, message: str) -> Refusal:
    """A query that makes no sense."""
    details = {
        "group": "meta.k8s.io",
        "kind": "PatchOptions",
        "causes": [{"reason": "FieldValueInvalid", "message": message, "field": field}],
    }
    said = f'PatchOptions.meta.k8s.io "" is invalid: {field}: {message}'
    return Refusal(failure(422, "Invalid", said, details))
