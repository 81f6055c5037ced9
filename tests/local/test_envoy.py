"""What `envoy` renders can be read back, and routes as it should."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy_targets.local.envoy import Backend, parse_routes, render_clusters, render_routes
from deploy_targets.routing.buckets import BUCKET_HEADER, SPLIT_HEADER
from deploy_targets.routing.traffic import VERSION_HEADER, Traffic


def backends(*versions: str) -> dict[str, Backend]:
    return {v: Backend(host="127.0.0.1", port=8000, prefix=f"/chat-v{v}/") for v in versions}


def routes_of(traffic: Traffic, *versions: str) -> list[dict[str, object]]:
    document = render_routes(backends(*versions), traffic, timeout_s=60)
    return document["resources"][0]["virtual_hosts"][0]["routes"]


@st.composite
def traffics(draw: st.DrawFn) -> Traffic:
    cuts = sorted(draw(st.sets(st.integers(1, 99), max_size=4)))
    edges = [0, *cuts, 100]
    weights = [high - low for low, high in itertools.pairwise(edges)]
    return Traffic(weights={str(n + 1): weight for n, weight in enumerate(weights)})


@given(traffics())
def test_rendered_weights_are_read_back(traffic: Traffic) -> None:
    document = render_routes(backends(*traffic.weights, "99"), traffic, timeout_s=60)
    assert parse_routes(document["resources"][0]) == traffic


def test_without_traffic_everything_but_a_pin_is_refused() -> None:
    routes = routes_of(Traffic(), "7")
    assert [route.get("direct_response", {}).get("status") for route in routes] == [None, 404, 503]
    assert (
        parse_routes(render_routes(backends("7"), Traffic(), timeout_s=1)["resources"][0])
        == Traffic()
    )


def test_pins_come_first_and_an_unknown_pin_is_refused_before_any_weight() -> None:
    routes = routes_of(Traffic(weights={"6": 95, "7": 5}), "6", "7")
    pins = [route["match"]["headers"][0] for route in routes[:3]]
    assert [pin["name"] for pin in pins] == [VERSION_HEADER] * 3
    assert routes[2]["direct_response"]["status"] == 404
    assert "headers" not in routes[3]["match"]


def test_the_smaller_share_is_drawn_first_and_every_route_names_its_version() -> None:
    routes = routes_of(Traffic(weights={"6": 95, "7": 5}), "6", "7")[3:]
    assert [route["route"]["cluster"] for route in routes] == ["v7", "v6"]
    assert routes[0]["match"]["runtime_fraction"]["default_value"]["numerator"] == 50_000
    named = [route["response_headers_to_add"][0]["header"]["value"] for route in routes]
    assert named == ["7", "6"]


def test_weights_for_a_version_that_is_not_deployed_are_refused() -> None:
    with pytest.raises(ValueError, match="no backend for 7"):
        render_routes(backends("6"), Traffic(weights={"6": 95, "7": 5}), timeout_s=60)


def test_every_version_has_a_cluster() -> None:
    names = [cluster["name"] for cluster in render_clusters(backends("6", "7"))["resources"]]
    assert names == ["v6", "v7"]


@given(traffics())
def test_with_sticky_users_the_weights_read_back_too(traffic: Traffic) -> None:
    document = render_routes(backends(*traffic.weights), traffic, timeout_s=60, is_sticky=True)
    assert parse_routes(document["resources"][0]) == traffic


def test_buckets_come_after_the_pins_and_before_the_weights() -> None:
    document = render_routes(
        backends("6", "7"), Traffic.split("6", "7", 5), timeout_s=60, is_sticky=True
    )
    routes = document["resources"][0]["virtual_hosts"][0]["routes"]
    names = [route["match"].get("headers", [{}])[0].get("name", "") for route in routes]
    assert names == [VERSION_HEADER] * 3 + [BUCKET_HEADER] * 2 + [""] * 2
    told = [
        [(one["header"]["key"], one["header"]["value"]) for one in route["response_headers_to_add"]]
        for route in routes
    ]
    assert (SPLIT_HEADER, "6,7") not in told[0] + told[1]
    assert all((SPLIT_HEADER, "6,7") in headers for headers in told[3:])


def test_a_version_that_has_everything_needs_no_buckets() -> None:
    alone = render_routes(backends("7"), Traffic.all_to("7"), timeout_s=60, is_sticky=True)
    assert alone == render_routes(backends("7"), Traffic.all_to("7"), timeout_s=60)
