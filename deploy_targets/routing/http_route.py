"""The split as a Gateway API HTTPRoute, which Shipway owns whole. Pure.

The same order as in the local Envoy: first the pins, then a refusal of every other pin, then the buckets of sticky users
where the endpoint has those, then the weights. Where matches are as specific as one another, as those by one header are,
the API gives precedence to the rule that stands first. Each backend sets `x-shipway-version` on its answers, the Gateway's
own errors for it included, so that a failure can be attributed.
Nothing rewrites a path: few Gateways do so for each backend, so every revision serves at its root.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from deploy_targets.endpoint import Endpoint
from deploy_targets.manifest import (
    Manifest,
    Object,
    kubernetes_object,
    object_labels,
    part,
    parts,
)
from deploy_targets.routing.buckets import (
    BUCKET_HEADER,
    SPLIT_HEADER,
    pattern,
    shares,
    split_name,
)
from deploy_targets.routing.traffic import VERSION_HEADER, Traffic
from registry.errors import ManifestInvalid

API_VERSION = "gateway.networking.k8s.io/v1"
_MAX_RULES = 16
"""Of an HTTPRoute, by its schema; two are not pins."""
_ANY_VERSION = ".+"
_EVERY_PATH: Mapping[str, str] = {"type": "PathPrefix", "value": "/"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """The Service in front of one version. The port is part of it: the API refuses a Service without one."""

    service: str
    port: int


def render_route(endpoint: Endpoint, backends: Mapping[str, Backend], traffic: Traffic) -> Manifest:
    """The HTTPRoute named like the endpoint. `backends` are the deployed versions, those at weight 0 included.

    A request that pins a version without a backend matches a rule without backends, and so does every request while
    there is no traffic: the Gateway answers 500, as the API demands.

    Raises:
        ManifestInvalid: no Gateway is declared, a weight is for a version without a backend, or there are more versions
            than a route has rules for.
    """
    gateway = endpoint.cluster.gateway
    if gateway is None:
        message = (
            f"{endpoint.name} has no Gateway that a route could join. Declare kubernetes.gateway."
        )
        raise ManifestInvalid(message)
    if missing := sorted(traffic.weights.keys() - backends.keys()):
        message = (
            f"The route of {endpoint.name} has weights for {', '.join(missing)}, which has no backend. "
            "Apply the revision first."
        )
        raise ManifestInvalid(message)
    buckets = shares(traffic) if endpoint.guard.sticky is not None else {}
    room = _MAX_RULES - 2 - len(buckets)
    if len(backends) > room:
        message = (
            f"{endpoint.name} has {len(backends)} versions deployed, and a route has room for {room}. "
            "Retire versions that get no requests."
        )
        raise ManifestInvalid(message)
    limits = {"request": _duration(endpoint.serving.timeout_s)}
    pins = [
        {
            "matches": [_header(VERSION_HEADER, "Exact", version)],
            "backendRefs": [_backend(version, backend)],
            "timeouts": limits,
        }
        for version, backend in sorted(backends.items())
    ]
    unknown_pin = {"matches": [_header(VERSION_HEADER, "RegularExpression", _ANY_VERSION)]}
    shared = {SPLIT_HEADER: split_name(traffic)} if buckets else {}
    sticky = [
        {
            "matches": [_header(BUCKET_HEADER, "RegularExpression", pattern(own))],
            "backendRefs": [_backend(version, backends[version], shared)],
            "timeouts": limits,
        }
        for version, own in sorted(buckets.items())
    ]
    split: dict[str, Any] = {"matches": [{"path": _EVERY_PATH}]}
    if traffic.weights:
        split["backendRefs"] = [
            {**_backend(version, backends[version], shared), "weight": weight}
            for version, weight in sorted(traffic.weights.items())
        ]
        split["timeouts"] = limits
    parent = {
        "group": "gateway.networking.k8s.io",
        "kind": "Gateway",
        "name": gateway.name,
        "namespace": gateway.namespace,
    }
    return kubernetes_object(
        API_VERSION,
        "HTTPRoute",
        metadata={
            "name": endpoint.name,
            "namespace": endpoint.cluster.namespace,
            "labels": object_labels(endpoint.name),
        },
        spec={
            "parentRefs": [parent],
            "hostnames": [gateway.hostname],
            "rules": [*pins, unknown_pin, *sticky, split],
        },
    )


def parse_route(body: Mapping[str, Any]) -> Traffic:
    """The weights that an HTTPRoute carries, as rendered here or as the API server gives it back.

    Raises:
        ManifestInvalid: it is none of ours: a backend without the version that it sets, or weights that are no percent.
    """
    weights: dict[str, int] = {}
    for rule in body["spec"].get("rules", ()):
        if any("headers" in match for match in rule.get("matches", ())):
            continue
        for backend in rule.get("backendRefs", ()):
            if weight := int(backend.get("weight", 1)):
                weights[_version_of(backend)] = weight
    try:
        return Traffic(weights=weights)
    except ValueError as error:
        raise _not_ours(str(error)) from error


def route_fault(body: Object) -> str:
    """Why the Gateway does not send requests by this route as it stands now, and what to do; empty where it does.

    The Gateway must have Accepted this generation of it, and have ResolvedRefs: found every Service that it names.
    """
    wanted = next(iter(parts(body["spec"], "parentRefs")), None)
    if wanted is None:
        return "somebody took its Gateway out of the route. Delete the route, and Shipway makes it again."
    gateway = f"Gateway {wanted.get('namespace', body['metadata']['namespace'])}/{wanted['name']}"
    takers = [
        one
        for one in parts(part(body, "status"), "parents")
        if part(one, "parentRef").get("name") == wanted["name"]
    ]
    if not takers:
        return (
            f"no controller has taken the route up for {gateway}. Create that Gateway, or mend kubernetes.gateway, and see "
            "whether its controller runs."
        )
    faults = [_parent_fault(one, gateway, body["metadata"].get("generation", 0)) for one in takers]
    return "" if "" in faults else faults[0]


def _parent_fault(parent: Object, gateway: str, generation: int) -> str:
    conditions = {one["type"]: one for one in parts(parent, "conditions")}
    for kind in ("Accepted", "ResolvedRefs"):
        found = conditions.get(kind, {})
        if found.get("status") != "True":
            said = found.get("message") or found.get("reason") or "nothing"
            return (
                f"{gateway} does not serve the route ({kind} is {found.get('status', 'not set')}): {said}. See whether a "
                "listener takes its hostname and allows routes of this namespace, and whether its Services are there."
            )
        if int(found.get("observedGeneration", 0)) < generation:
            return f"{gateway} has not followed the route's last change yet."
    return ""


def _version_of(backend: Mapping[str, Any]) -> str:
    headers: Iterable[Mapping[str, str]] = (
        header
        for one in backend.get("filters", ())
        for header in one.get("responseHeaderModifier", {}).get("set", ())
    )
    for header in headers:
        if header["name"].lower() == VERSION_HEADER:
            return header["value"]
    raise _not_ours(f"The backend {backend.get('name')} does not say which version it is.")


def _not_ours(what: str) -> ManifestInvalid:
    return ManifestInvalid(
        f"{what} Somebody else wrote this route: let Shipway write it again, and give others a route of their own."
    )


def _backend(
    version: str, backend: Backend, more: Mapping[str, str] = MappingProxyType({})
) -> dict[str, Any]:
    """`more` are response headers that it sets besides the version."""
    told = {VERSION_HEADER: version, **more}
    says = {"set": [{"name": name, "value": value} for name, value in told.items()]}
    return {
        "group": "",
        "kind": "Service",
        "name": backend.service,
        "port": backend.port,
        "filters": [{"type": "ResponseHeaderModifier", "responseHeaderModifier": says}],
    }


def _header(name: str, kind: str, value: str) -> dict[str, Any]:
    """A match with the path that the API server would add, so that a route reads back as it was written."""
    return {
        "path": _EVERY_PATH,
        "headers": [{"type": kind, "name": name, "value": value}],
    }


def _duration(seconds: float) -> str:
    """The Gateway API's spelling (GEP-2257), rounded up to milliseconds: 90.5 s is `1m30s500ms`."""
    left = math.ceil(seconds * 1000)
    parts: list[str] = []
    for unit, size in (("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)
