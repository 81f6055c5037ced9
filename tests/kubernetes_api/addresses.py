"""What a request points to, and who may do it there. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tests.kubernetes_api import status
from tests.kubernetes_api.rbac import Attempt, User, is_allowed
from tests.kubernetes_api.resources import Catalogue, Resource
from tests.kubernetes_api.selectors import selected_name
from tests.kubernetes_api.store import Key, Store, key_of

_CORE = re.compile(r"/api/(?P<version>v1)(?P<rest>/.+)")
_GROUP = re.compile(r"/apis/(?P<group>[^/]+)/(?P<version>[^/]+)(?P<rest>/.+)")
_REST = re.compile(
    r"(/namespaces/(?P<namespace>[^/]+))?/(?P<plural>[^/]+)(/(?P<name>[^/]+)(/(?P<sub>.+))?)?"
)
_NAMESPACE = re.compile(r"/namespaces(/(?P<name>[^/]+)(/(?P<sub>status))?)?")
_RBAC_GROUP = "rbac.authorization.k8s.io"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request, read from HTTP."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"
    user_agent: str = ""
    body: bytes = b""

    @property
    def is_apply(self) -> bool:
        return self.content_type == "application/apply-patch+yaml"

    def is_set(self, name: str) -> bool:
        return self.query.get(name, "").lower() in ("true", "1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """What a path points to."""

    resource: Resource
    namespace: str = ""
    name: str = ""
    subresource: str = ""

    @property
    def key(self) -> Key:
        return key_of(self.resource, self.namespace, self.name)


def find_address(catalogue: Catalogue, path: str) -> Address | None:
    """What the path points to; None for what is not served, as for a CRD that is not installed."""
    found = _CORE.fullmatch(path) or _GROUP.fullmatch(path)
    if found is None:
        return None
    group = found.groupdict().get("group", "")
    if not group and (whole := _NAMESPACE.fullmatch(found["rest"])):
        resource = catalogue.find("", "v1", "namespaces")
        parts = {"name": whole["name"] or "", "subresource": whole["sub"] or ""}
        return None if resource is None else Address(resource=resource, **parts)
    rest = _REST.fullmatch(found["rest"])
    resource = rest and catalogue.find(group, found["version"], rest["plural"])
    if rest is None or resource is None or (rest["namespace"] and not resource.is_namespaced):
        return None
    return Address(
        resource=resource,
        namespace=rest["namespace"] or "",
        name=rest["name"] or "",
        subresource=rest["sub"] or "",
    )


def find_verb(request: Request, address: Address) -> str:
    """RBAC's word for the request."""
    match request.method:
        case "GET" if address.name:
            return "get"
        case "GET":
            return "watch" if request.is_set("watch") else "list"
        case "DELETE":
            return "delete" if address.name else "deletecollection"
        case method:
            return {"POST": "create", "PUT": "update", "PATCH": "patch"}.get(method, method.lower())


def attempts(store: Store, address: Address, verb: str, request: Request) -> tuple[Attempt, ...]:
    """What the request needs in RBAC's words: an apply of what is not there needs `create` too."""
    resource = address.resource
    name = address.name or selected_name(request.query.get("fieldSelector", ""))
    full = f"{resource.plural}/{address.subresource}" if address.subresource else resource.plural
    # A Namespace itself is asked for in its own namespace.
    namespace = address.name if resource.kind == "Namespace" else address.namespace
    asked = Attempt(
        verb=verb,
        group=resource.group,
        resource=full,
        namespace=namespace,
        name="" if verb == "create" else name,
    )
    is_new = verb == "patch" and request.is_apply and address.key not in store.objects
    return (asked, replace(asked, verb="create")) if is_new else (asked,)


def check_access(store: Store, user: User, address: Address, verb: str, request: Request) -> None:
    grants = [body for key, body in store.objects.items() if key.group == _RBAC_GROUP]
    for attempt in attempts(store, address, verb, request):
        if not is_allowed(user, attempt, grants):
            raise status.forbidden(user, attempt)
