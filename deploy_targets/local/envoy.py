"""The split as Envoy's configuration: one Envoy for each endpoint, weights by file. Pure.

Every version has its cluster and its route. First the pins: a request that names a version in `x-shipway-version` goes
there, and one that names an unknown version is refused, never answered by another. Then, where users are to be sticky, the
buckets of each version. Then the weights, as a chain of random fractions. Each route adds the version to its answers,
Envoy's own 503 and 504 too, so that a failure can be attributed. There is no outlier ejection: with one endpoint in a
cluster it would only turn a version off by itself.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from deploy_targets.routing.buckets import (
    BUCKET_HEADER,
    SPLIT_HEADER,
    pattern,
    shares,
    split_name,
)
from deploy_targets.routing.traffic import VERSION_HEADER, Traffic

ROUTES_FILE, CLUSTERS_FILE = "routes.json", "clusters.json"
IDLE_S = 60
"""After which Envoy closes an idle connection to a version; the version keeps it open for longer."""
_MILLION = 1_000_000
_TYPE = "type.googleapis.com/envoy"
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """Where one version listens."""

    host: str
    port: int
    prefix: str
    """Path under which it answers, `/` at both ends."""


def render_bootstrap(*, folder: str, port: int, admin_port: int) -> dict[str, Any]:
    """The static part: a listener and an admin page on loopback; routes and clusters come from files in `folder`."""

    def watched(name: str) -> dict[str, Any]:
        return {
            "resource_api_version": "V3",
            "path_config_source": {
                "path": f"{folder}/{name}",
                "watched_directory": {"path": folder},
            },
        }

    manager = {
        "@type": f"{_TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "split",
        "rds": {"route_config_name": "split", "config_source": watched(ROUTES_FILE)},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_TYPE}.extensions.filters.http.router.v3.Router"},
            }
        ],
    }
    return {
        "node": {"id": "shipway", "cluster": "shipway"},
        "admin": {"address": _address("127.0.0.1", admin_port)},
        "dynamic_resources": {"cds_config": watched(CLUSTERS_FILE)},
        "static_resources": {
            "listeners": [
                {
                    "name": "split",
                    "address": _address("127.0.0.1", port),
                    "filter_chains": [
                        {
                            "filters": [
                                {
                                    "name": "envoy.filters.network.http_connection_manager",
                                    "typed_config": manager,
                                }
                            ]
                        }
                    ],
                }
            ]
        },
    }


def render_clusters(backends: Mapping[str, Backend]) -> dict[str, Any]:
    """One cluster for each version."""
    clusters: list[dict[str, Any]] = [
        {
            "@type": f"{_TYPE}.config.cluster.v3.Cluster",
            "name": _cluster(version),
            "type": "STATIC",
            "connect_timeout": "2s",
            "typed_extension_protocol_options": {
                _HTTP_OPTIONS: {
                    "@type": f"type.googleapis.com/{_HTTP_OPTIONS}",
                    "common_http_protocol_options": {"idle_timeout": f"{IDLE_S}s"},
                    "explicit_http_config": {"http_protocol_options": {}},
                }
            },
            "load_assignment": {
                "cluster_name": _cluster(version),
                "endpoints": [
                    {
                        "lb_endpoints": [
                            {"endpoint": {"address": _address(backend.host, backend.port)}}
                        ]
                    }
                ],
            },
        }
        for version, backend in sorted(backends.items())
    ]
    return {"resources": clusters}


def render_routes(
    backends: Mapping[str, Backend],
    traffic: Traffic,
    *,
    timeout_s: float,
    is_sticky: bool = False,
) -> dict[str, Any]:
    """The routes for these versions and weights; `timeout_s` is for a whole answer.

    With `is_sticky` a user who has a bucket gets the version that has it.

    Raises:
        ValueError: a weight for a version without a backend.
    """
    missing = traffic.weights.keys() - backends.keys()
    if missing:
        message = f"There is no backend for {', '.join(sorted(missing))}; apply the revision first."
        raise ValueError(message)

    buckets = shares(traffic) if is_sticky else {}
    shared = {SPLIT_HEADER: split_name(traffic)} if buckets else {}

    def route(
        version: str, match: Mapping[str, Any], told: Mapping[str, str] = MappingProxyType({})
    ) -> dict[str, Any]:
        return {
            "match": {"prefix": "/", **match},
            "route": {
                "cluster": _cluster(version),
                "prefix_rewrite": backends[version].prefix,
                "timeout": f"{timeout_s:g}s",
            },
            "response_headers_to_add": [
                {
                    "header": {"key": key, "value": value},
                    "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
                }
                for key, value in {VERSION_HEADER: version, **told}.items()
            ],
        }

    pins = [route(version, {"headers": [_header_is(version)]}) for version in sorted(backends)]
    unknown = _refusal(
        {"headers": [{"name": VERSION_HEADER, "present_match": True}]},
        status=404,
        message=f"The version named in {VERSION_HEADER} is not deployed here.",
        kind="not_found_error",
    )
    split = [
        route(version, {"headers": [_bucket_is_one_of(own)]}, shared)
        for version, own in sorted(buckets.items())
    ]
    left = 100
    versions = sorted(traffic.weights, key=lambda version: (traffic.weights[version], version))
    for version in versions:
        weight = traffic.weights[version]
        match = {} if weight == left else {"runtime_fraction": _fraction(weight, left)}
        split.append(route(version, match, shared))
        left -= weight
    if not versions:
        split.append(
            _refusal({}, status=503, message="No version serves here yet.", kind="server_error")
        )
    configuration = {
        "@type": f"{_TYPE}.config.route.v3.RouteConfiguration",
        "name": "split",
        "virtual_hosts": [{"name": "split", "domains": ["*"], "routes": [*pins, unknown, *split]}],
    }
    return {"resources": [configuration]}


def parse_routes(configuration: Mapping[str, Any]) -> Traffic:
    """The weights that a route configuration carries, as rendered or as Envoy's admin page gives it back."""
    weights: dict[str, int] = {}
    left = 100
    for route in configuration["virtual_hosts"][0]["routes"]:
        if "route" not in route or "headers" in route["match"]:
            continue
        version = str(route["route"]["cluster"]).removeprefix("v")
        fraction = route["match"].get("runtime_fraction")
        weight = left
        if fraction is not None:
            numerator = int(fraction["default_value"].get("numerator", 0))
            weight = round(numerator * left / _MILLION)
        weights[version] = weight
        left -= weight
    return Traffic(weights=weights)


def _cluster(version: str) -> str:
    return f"v{version}"


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


def _header_is(version: str) -> dict[str, Any]:
    return {"name": VERSION_HEADER, "string_match": {"exact": version}}


def _bucket_is_one_of(buckets: Sequence[int]) -> dict[str, Any]:
    return {"name": BUCKET_HEADER, "string_match": {"safe_regex": {"regex": pattern(buckets)}}}


def _fraction(weight: int, left: int) -> dict[str, Any]:
    numerator = round(weight / left * _MILLION)
    return {"default_value": {"numerator": numerator, "denominator": "MILLION"}}


def _refusal(match: Mapping[str, Any], *, status: int, message: str, kind: str) -> dict[str, Any]:
    body = {"error": {"message": message, "type": kind, "param": None, "code": None}}
    return {
        "match": {"prefix": "/", **match},
        "direct_response": {"status": status, "body": {"inline_string": json.dumps(body)}},
        "response_headers_to_add": [
            {"header": {"key": "content-type", "value": "application/json"}}
        ],
    }
