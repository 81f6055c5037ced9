"""The split as an HTTPRoute: what is written is read back, pins come first, and every backend says its version."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy_targets.endpoint import ServingPolicy
from deploy_targets.guard_policy import GuardPolicy, StickyPolicy
from deploy_targets.routing.buckets import BUCKET_HEADER, SPLIT_HEADER, shares
from deploy_targets.routing.http_route import Backend, parse_route, render_route, route_fault
from deploy_targets.routing.traffic import VERSION_HEADER, Traffic
from registry.errors import ManifestInvalid
from tests.builders import a_knative_endpoint, a_ray_endpoint, an_endpoint


def backends(*versions: str) -> dict[str, Backend]:
    return {version: Backend(service=f"chat-v{version}", port=8000) for version in versions}


def rules(*versions: str, traffic: Traffic, **changes: Any) -> list[dict[str, Any]]:
    return render_route(a_ray_endpoint(**changes), backends(*versions), traffic).body["spec"][
        "rules"
    ]


@given(percent=st.integers(0, 100))
def test_the_weights_read_back_as_they_were_written(percent: int) -> None:
    traffic = Traffic.split("6", "7", percent)
    assert parse_route(render_route(a_ray_endpoint(), backends("6", "7"), traffic).body) == traffic


def test_without_traffic_there_is_none_to_read_and_nothing_answers() -> None:
    route = render_route(a_ray_endpoint(), backends("6"), Traffic())
    assert parse_route(route.body) == Traffic()
    assert "backendRefs" not in route.body["spec"]["rules"][-1]


def test_the_route_has_the_endpoints_name_and_joins_its_gateway() -> None:
    body = render_route(a_ray_endpoint(), backends("7"), Traffic.all_to("7")).body
    assert body["metadata"]["name"] == "chat"
    assert body["metadata"]["namespace"] == "llm"
    assert body["spec"]["hostnames"] == ["chat.example.com"]
    (parent,) = body["spec"]["parentRefs"]
    assert (parent["name"], parent["namespace"]) == ("llm", "gateways")


def test_a_pin_reaches_its_version_at_any_weight_and_an_unknown_pin_reaches_none() -> None:
    *pins, unknown, split = rules("6", "7", traffic=Traffic.all_to("6"))
    pinned = {
        rule["matches"][0]["headers"][0]["value"]: rule["backendRefs"][0]["name"] for rule in pins
    }
    assert pinned == {"6": "chat-v6", "7": "chat-v7"}
    assert all(rule["matches"][0]["headers"][0]["name"] == VERSION_HEADER for rule in pins)
    assert unknown["matches"][0]["headers"][0]["type"] == "RegularExpression"
    assert "backendRefs" not in unknown
    assert [backend["name"] for backend in split["backendRefs"]] == ["chat-v6"]


def test_every_backend_has_a_port_and_says_which_version_answered() -> None:
    used = [
        backend
        for rule in rules("6", "7", traffic=Traffic.split("6", "7", 5))
        for backend in rule.get("backendRefs", ())
    ]
    assert len(used) == 4
    for backend in used:
        assert backend["port"] == 8000
        (header,) = backend["filters"][0]["responseHeaderModifier"]["set"]
        assert backend["name"] == f"chat-v{header['value']}"


@pytest.mark.parametrize(
    ("timeout_s", "spelt"),
    [(60, "1m"), (90.5, "1m30s500ms"), (0.0001, "1ms"), (7200, "2h"), (59.9999, "1m")],
)
def test_the_time_limit_is_spelt_as_the_gateway_api_wants_it(timeout_s: float, spelt: str) -> None:
    serving = ServingPolicy(timeout_s=timeout_s)
    for rule in rules("7", traffic=Traffic.all_to("7"), serving=serving):
        assert ("backendRefs" not in rule) or rule["timeouts"] == {"request": spelt}


def test_a_weight_without_a_backend_is_refused() -> None:
    with pytest.raises(ManifestInvalid, match=r"weights for 7.*Apply the revision first"):
        rules("6", traffic=Traffic.split("6", "7", 5))


STICKY = GuardPolicy(sticky=StickyPolicy())


@given(percent=st.integers(0, 100))
def test_with_sticky_users_the_weights_read_back_too(percent: int) -> None:
    traffic, endpoint = Traffic.split("6", "7", percent), a_ray_endpoint(guard=STICKY)
    assert parse_route(render_route(endpoint, backends("6", "7"), traffic).body) == traffic


@given(percent=st.integers(1, 99))
def test_each_bucket_has_one_rule_between_the_pins_and_the_weights(percent: int) -> None:
    traffic = Traffic.split("6", "7", percent)
    *_, unknown, sixes, sevens, split = rules("6", "7", traffic=traffic, guard=STICKY)
    assert unknown["matches"][0]["headers"][0]["name"] == VERSION_HEADER
    assert "headers" not in split["matches"][0]
    for rule, version in ((sixes, "6"), (sevens, "7")):
        (header,) = rule["matches"][0]["headers"]
        assert (header["name"], header["type"]) == (BUCKET_HEADER, "RegularExpression")
        matched = [n for n in range(100) if re.fullmatch(header["value"], f"{n:02}")]
        assert tuple(matched) == shares(traffic)[version]
        (backend,) = rule["backendRefs"]
        assert backend["name"] == f"chat-v{version}"


def test_only_what_was_shared_out_says_among_whom() -> None:
    def told(rule: dict[str, Any]) -> list[str]:
        return [
            header["value"]
            for backend in rule.get("backendRefs", ())
            for header in backend["filters"][0]["responseHeaderModifier"]["set"]
            if header["name"] == SPLIT_HEADER
        ]

    *pins, _, sixes, sevens, split = rules(
        "6", "7", traffic=Traffic.split("6", "7", 5), guard=STICKY
    )
    assert [told(rule) for rule in pins] == [[], []]
    assert told(sixes) == told(sevens) == ["6,7"]
    assert told(split) == ["6,7", "6,7"]
    assert not any(told(rule) for rule in rules("6", traffic=Traffic.all_to("6"), guard=STICKY))


def test_buckets_take_the_room_of_their_rules() -> None:
    many = [str(version) for version in range(1, 14)]
    split = Traffic.split("1", "2", 5)
    assert len(rules(*many[:12], traffic=split, guard=STICKY)) == 16
    with pytest.raises(ManifestInvalid, match="room for 12"):
        rules(*many, traffic=split, guard=STICKY)


def test_more_versions_than_a_route_has_rules_are_refused() -> None:
    many = [str(version) for version in range(1, 16)]
    assert len(rules(*many[:14], traffic=Traffic.all_to("1"))) == 16
    with pytest.raises(ManifestInvalid, match="room for 14"):
        rules(*many, traffic=Traffic.all_to("1"))


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [(a_knative_endpoint(), "Declare kubernetes.gateway"), (an_endpoint(), "target local")],
)
def test_an_endpoint_without_a_gateway_has_no_route(endpoint: Any, said: str) -> None:
    with pytest.raises(ManifestInvalid, match=said):
        render_route(endpoint, backends("7"), Traffic.all_to("7"))


@pytest.mark.parametrize(
    "backend",
    [
        {"name": "other", "port": 80},
        {
            "name": "chat-v7",
            "weight": 60,
            "filters": [
                {"responseHeaderModifier": {"set": [{"name": VERSION_HEADER, "value": "7"}]}}
            ],
        },
    ],
)
def test_a_route_that_somebody_else_wrote_is_not_read_as_ours(backend: dict[str, Any]) -> None:
    body = {"spec": {"rules": [{"matches": [], "backendRefs": [backend]}]}}
    with pytest.raises(ManifestInvalid, match="Somebody else wrote this route"):
        parse_route(body)


def test_a_backend_that_was_set_to_0_by_hand_has_no_traffic() -> None:
    route: Any = render_route(a_ray_endpoint(), backends("6", "7"), Traffic.all_to("6")).body
    off = {**route["spec"]["rules"][1]["backendRefs"][0], "weight": 0}
    route["spec"]["rules"][-1]["backendRefs"].append(off)
    assert parse_route(route) == Traffic.all_to("6")


def a_live_route(*parents: Any, generation: int = 3) -> dict[str, Any]:
    body = render_route(a_ray_endpoint(), {}, Traffic()).body
    metadata = {**body["metadata"], "generation": generation}
    return {**body, "metadata": metadata, "status": {"parents": list(parents)}}


def a_parent(name: str = "llm", *, seen: int = 3, **statuses: str) -> dict[str, Any]:
    found = {"Accepted": "True", "ResolvedRefs": "True", **statuses}
    conditions = [
        {"type": kind, "status": status, "reason": "Why", "observedGeneration": seen}
        for kind, status in found.items()
    ]
    return {"parentRef": {"name": name}, "conditions": conditions}


@pytest.mark.parametrize(
    ("parents", "words"),
    [
        ((), "no controller has taken the route up for Gateway gateways/llm"),
        ((a_parent("other"),), "no controller has taken the route up"),
        ((a_parent(Accepted="False"),), "(Accepted is False): Why"),
        ((a_parent(ResolvedRefs="False"),), "(ResolvedRefs is False): Why"),
        (({"parentRef": {"name": "llm"}},), "(Accepted is not set)"),
        ((a_parent(seen=2),), "has not followed the route's last change"),
    ],
)
def test_a_route_that_its_gateway_does_not_obey_says_so(parents: Any, words: str) -> None:
    assert words in route_fault(a_live_route(*parents))


def test_a_route_that_one_of_its_controllers_obeys_has_no_fault() -> None:
    assert route_fault(a_live_route(a_parent())) == ""
    assert route_fault(a_live_route(a_parent(seen=2), a_parent())) == ""


@pytest.mark.parametrize(
    ("parents", "words"),
    [
        (None, "took its Gateway out"),
        ([], "took its Gateway out"),
        ([{"name": "other"}], "no controller has taken the route up for Gateway llm/other"),
    ],
)
def test_a_route_that_was_taken_from_its_gateway_says_so(parents: Any, words: str) -> None:
    route = a_live_route(a_parent())
    route["spec"]["parentRefs"] = parents
    assert words in route_fault(route)
