"""From a request to an answer: addresses, who may, and which write it is. Pure; HTTP itself is `server`'s.

What a real server does and this one does not is answered with 501 and said, so that no test rests on it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import yaml

from tests.kubernetes_api import deletes, status, writes
from tests.kubernetes_api.addresses import Address, Request, check_access, find_address, find_verb
from tests.kubernetes_api.rbac import User, service_account
from tests.kubernetes_api.resources import Catalogue
from tests.kubernetes_api.selectors import Selector, parse_selectors
from tests.kubernetes_api.store import Key, Store, objects_of
from tests.kubernetes_api.watches import Watch

Body = Mapping[str, Any]

_KNOWN_QUERIES = {
    "allowWatchBookmarks",
    "dryRun",
    "fieldManager",
    "fieldSelector",
    "fieldValidation",
    "force",
    "gracePeriodSeconds",
    "labelSelector",
    "pretty",
    "propagationPolicy",
    "resourceVersion",
    "resourceVersionMatch",
    "timeoutSeconds",
    "watch",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer with a body of JSON."""

    code: int = 200
    body: Body


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What a pure function may not draw itself."""

    now: str
    uid: str


def answer(
    store: Store, catalogue: Catalogue, request: Request, user: User, moment: Moment
) -> tuple[Store, Answer | Watch]:
    """The store afterwards, and the answer.

    Raises:
        Refusal: any answer that is no success.
    """
    address = find_address(catalogue, request.path)
    if address is None:
        return store, _other_answer(catalogue, request.path)
    if unknown := request.query.keys() - _KNOWN_QUERIES:
        raise status.not_built(f"query parameters {', '.join(sorted(unknown))}")
    verb = find_verb(request, address)
    check_access(store, user, address, verb, request)
    if address.subresource == "token" and address.resource.kind == "ServiceAccount":
        return _with_token(store, address, moment)
    if address.subresource and not (
        address.subresource == "status" and address.resource.has_status
    ):
        raise status.not_found(address.resource, f"{address.name}/{address.subresource}")
    if request.method == "GET":
        return store, _read(store, verb, address, request)
    return _change(store, verb, address, request, moment)


def _read(store: Store, verb: str, address: Address, request: Request) -> Answer | Watch:
    if verb == "list":
        return _list(store, address, request)
    if verb == "watch":
        return _watch(address, request)
    if address.key not in store.objects:
        raise status.not_found(address.resource, address.name)
    return Answer(body=store.objects[address.key])


def _change(
    store: Store, verb: str, address: Address, request: Request, moment: Moment
) -> tuple[Store, Answer]:
    if verb == "delete":
        return _deleted(store, address, request, moment)
    if verb == "deletecollection":
        return _all_deleted(store, address, request, moment)
    if verb not in ("create", "update", "patch") or (verb == "create") == bool(address.name):
        raise status.Refusal(status.failure(405, "MethodNotAllowed", f"{verb} is not supported"))
    if address.resource.is_namespaced and not address.namespace:
        raise status.bad_request("a namespace is needed")
    return _written(store, address, request, moment)


def _other_answer(catalogue: Catalogue, path: str) -> Answer:
    """Discovery of one group, health, version; else the 404 without a Status that a missing CRD gives."""
    if path in ("/healthz", "/livez", "/readyz"):
        return Answer(body={"status": "ok"})
    if path == "/version":
        return Answer(body={"major": "1", "minor": "36", "gitVersion": "v1.36.0-shipway-test"})
    parts = path.strip("/").split("/")
    group, version = ("", parts[1]) if parts[:1] == ["api"] and len(parts) == 2 else ("", "")
    if parts[:1] == ["apis"] and len(parts) == 3:
        group, version = parts[1], parts[2]
    found = list(catalogue.of_group(group, version)) if version else []
    if not found:
        raise status.Refusal({"message": "404 page not found", "code": 404})
    listed = [
        {
            "name": one.plural,
            "kind": one.kind,
            "namespaced": one.is_namespaced,
            "singularName": "",
            "verbs": [],
        }
        for one in found
    ]
    return Answer(
        body={
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": found[0].api_version,
            "resources": listed,
        }
    )


def _list(store: Store, address: Address, request: Request) -> Answer:
    if request.query.get("resourceVersionMatch") == "Exact":
        raise status.not_built("a list as of one resourceVersion")
    selects = _selector(request)
    resource = address.resource
    items = [body for _, body in objects_of(store, resource, address.namespace) if selects(body)]
    return Answer(
        body={
            "apiVersion": resource.api_version,
            "kind": f"{resource.kind}List",
            "metadata": {"resourceVersion": str(store.revision)},
            "items": items,
        }
    )


def _watch(address: Address, request: Request) -> Watch:
    since = request.query.get("resourceVersion", "")
    if since and not since.isdecimal():
        raise status.bad_request(f'Invalid value: "{since}": no resourceVersion')
    timeout = request.query.get("timeoutSeconds")
    return Watch(
        resource=address.resource,
        namespace=address.namespace,
        selects=_selector(request),
        since=None if since in ("", "0") else int(since),
        has_bookmarks=request.is_set("allowWatchBookmarks"),
        timeout_s=None if timeout is None else float(timeout),
    )


def _selector(request: Request) -> Selector:
    query = request.query
    return parse_selectors(query.get("labelSelector", ""), query.get("fieldSelector", ""))


def _write(address: Address, request: Request, moment: Moment) -> writes.Write:
    query = request.query
    if query.get("dryRun", "All") != "All":
        raise status.bad_request("dryRun: only All is supported")
    validation = query.get("fieldValidation", "Warn")
    if validation not in ("Ignore", "Warn", "Strict"):
        raise status.bad_request(f"fieldValidation: {validation} is not supported")
    return writes.Write(
        resource=address.resource,
        namespace=address.namespace,
        name=address.name,
        subresource=address.subresource,
        manager=query.get("fieldManager") or request.user_agent.partition("/")[0] or "unknown",
        is_dry_run="dryRun" in query,
        is_strict=validation == "Strict",
        now=moment.now,
        uid=moment.uid,
    )


def _written(
    store: Store, address: Address, request: Request, moment: Moment
) -> tuple[Store, Answer]:
    write = _write(address, request, moment)
    if request.method != "PATCH":
        sent = _parsed(request.body, request.content_type)
        does = writes.create if request.method == "POST" else writes.replace
        after, body = does(store, write, sent)
        return after, Answer(code=201 if request.method == "POST" else 200, body=body)
    if request.is_apply:
        if not request.query.get("fieldManager"):
            raise status.invalid_options(
                "fieldManager", "Required value: is required for apply patch"
            )
        sent = _parsed(request.body, "application/yaml")
        after, body = writes.apply_patch(store, write, sent, force=request.is_set("force"))
        return after, Answer(code=200 if address.key in store.objects else 201, body=body)
    if request.is_set("force"):
        raise status.invalid_options("force", "Forbidden: may not be specified for non-apply patch")
    sent = _parsed(request.body, "application/json")
    match request.content_type:
        case "application/merge-patch+json":
            pass
        case "application/strategic-merge-patch+json" if not address.resource.is_custom:
            if _has_list(sent):
                raise status.not_built("a strategic merge patch with a list in it")
        case "application/json-patch+json":
            raise status.not_built("a JSON patch")
        case other:
            message = f"the body of the request was in an unknown format: {other}"
            raise status.Refusal(status.failure(415, "UnsupportedMediaType", message))
    after, body = writes.merge_patch(store, write, sent)
    return after, Answer(body=body)


def _has_list(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_has_list(one) for one in value.values())
    return isinstance(value, list)


def _parsed(body: bytes, content_type: str) -> Any:
    try:
        return yaml.load(body, yaml.CSafeLoader) if "yaml" in content_type else json.loads(body)
    except (ValueError, yaml.YAMLError) as error:
        raise status.bad_request(f"the body cannot be read: {error}") from error


def _deletion(address: Address, key: Key, request: Request, moment: Moment) -> deletes.Deletion:
    options = _parsed(request.body, "application/json") if request.body else {}
    if not isinstance(options, Mapping):
        raise status.bad_request("the options of a deletion are an object")
    options = dict(options)
    if policy := request.query.get("propagationPolicy"):
        options["propagationPolicy"] = policy
    return deletes.Deletion(
        resource=address.resource,
        key=key,
        options=options,
        is_dry_run="dryRun" in request.query or bool(options.get("dryRun")),
        now=moment.now,
    )


def _deleted(
    store: Store, address: Address, request: Request, moment: Moment
) -> tuple[Store, Answer]:
    after, body = deletes.delete(store, _deletion(address, address.key, request, moment))
    return after, Answer(body=body)


def _all_deleted(
    store: Store, address: Address, request: Request, moment: Moment
) -> tuple[Store, Answer]:
    selects = _selector(request)
    found = [
        key for key, body in objects_of(store, address.resource, address.namespace) if selects(body)
    ]
    listed = _list(store, address, request)
    for key in found:
        if key in store.objects:
            store, _ = deletes.delete(store, _deletion(address, key, request, moment))
    return store, listed


def _with_token(store: Store, address: Address, moment: Moment) -> tuple[Store, Answer]:
    """A token for the service account, as TokenRequest gives it; it does not expire here."""
    if address.key not in store.objects:
        raise status.not_found(address.resource, address.name)
    user = service_account(address.namespace, address.name)
    body = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "metadata": {"name": address.name, "namespace": address.namespace},
        "spec": {"audiences": ["shipway-test"], "expirationSeconds": 3600},
        "status": {"token": moment.uid, "expirationTimestamp": "2100-01-01T00:00:00Z"},
    }
    return replace(store, tokens={**store.tokens, moment.uid: user}), Answer(code=201, body=body)
