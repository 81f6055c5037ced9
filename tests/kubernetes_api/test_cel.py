"""The rules that stand in the CRDs as CEL: each known one refuses what it should, and no unknown one is passed by."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.contracts.custom_resources import schema_folder
from tests.contracts.test_custom_resources import CUSTOM
from tests.kubernetes_api import cel
from tests.kubernetes_api.objects import Objects, a_route, backend
from tests.kubernetes_api.resources import read_catalogue
from tests.kubernetes_api.schema import ANYTHING, Schema, defaulted, faults, schema_of
from tests.kubernetes_api.test_measured_answers import refused

FILTERS = {
    "cors": "CORS",
    "requestHeaderModifier": "RequestHeaderModifier",
    "responseHeaderModifier": "ResponseHeaderModifier",
    "requestMirror": "RequestMirror",
    "requestRedirect": "RequestRedirect",
    "urlRewrite": "URLRewrite",
    "extensionRef": "ExtensionRef",
}
HTTP = {"name": "http", "port": 80, "protocol": "HTTP"}
SAME = [{"kind": "Gateway", "name": "llm"}, {"kind": "Gateway", "name": "llm"}]


def path(text: str, kind: str = "PathPrefix") -> dict[str, str]:
    return {"type": kind, "value": text}


REFUSED: dict[str, Any] = {
    "c931cd547c": [SAME[0], {**SAME[1], "sectionName": "http"}],
    "e906342c6f": SAME,
    "dfef9215af": [{"matches": [{}] * 64}] * 2 + [{"matches": [{}]}],
    "80d5779a11": {"backendRefs": [{}], "filters": [{"requestRedirect": {}}]},
    "3f02004fba": {"request": "1s", "backendRequest": "1s1ms"},
    "089ed26a9f": {"group": "", "kind": "Service", "name": "chat"},
    "24c3fdad46": [{"type": "URLRewrite"}, {"type": "RequestRedirect"}],
    "ee6a308c41": [{"type": "CORS"}] * 2,
    "501e61ba52": [{"type": "RequestHeaderModifier"}] * 2,
    "226cc5e317": [{"type": "ResponseHeaderModifier"}] * 2,
    "c1f6cb742f": [{"type": "RequestRedirect"}] * 2,
    "61ed15b8b7": [{"type": "URLRewrite"}] * 2,
    **{
        cel.digest(f"!(has(self.{field}) && self.type != '{kind}')"): {"type": "Else", field: {}}
        for field, kind in FILTERS.items()
    },
    **{
        cel.digest(f"!(!has(self.{field}) && self.type == '{kind}')"): {"type": kind}
        for field, kind in FILTERS.items()
    },
    "d1b1dcc5e5": path("v1"),
    "2a730cbab5": path("/v1//chat"),
    "8c3f86ff50": path("/v1/./chat"),
    "ced0ffeab4": path("/v1/../chat"),
    "16add9e26d": path("/v1%2fchat"),
    "5f510e9128": path("/v1%2Fchat"),
    "209894350d": path("/v1#chat"),
    "0c441c9dd7": path("/v1/.."),
    "c36405e2d0": path("/v1/."),
    "1267f0554f": path("/v1", "Suffix"),
    "67736b8f42": path("/v1 chat"),
    "78a7723977": [{**HTTP, "tls": {}}],
    "aec2bd596a": [{**HTTP, "protocol": "HTTPS", "tls": {"mode": "Passthrough"}}],
    "79a4844635": [{**HTTP, "protocol": "TLS"}],
    "08d23c40ec": [{**HTTP, "protocol": "TCP", "hostname": "llm.example"}],
    "b3c66e248d": [HTTP, {**HTTP, "port": 81}],
    "d31959b5ef": [HTTP, {**HTTP, "name": "other"}],
    "f4f4adcfb2": "another",
    "4cdc559e61": "somebody",
}
"""For each rule that is known, by its digest, a value that it refuses."""

LOUD = {"14c17d520e", "0fa5a331dd", "06e14dab4f", "bf9fd4333d"}
"""Known only as far as our objects go: what they are about is refused as not built."""


@pytest.fixture(scope="module")
def catalogue():
    return read_catalogue(schema_folder())


def rules(schema: Schema) -> Iterator[str]:
    """The text of each rule anywhere in a schema."""
    for rule in schema.get("x-kubernetes-validations", ()):
        yield rule["rule"]
    inner = [*schema.get("properties", {}).values(), schema.get("items")]
    for one in (*inner, schema.get("additionalProperties")):
        if isinstance(one, Mapping):
            yield from rules(one)


def rules_met(value: Any, schema: Schema, place: str = "") -> Iterator[tuple[str, str]]:
    """The place and the digest of each rule that a value meets."""
    for rule in schema.get("x-kubernetes-validations", ()):
        yield place, cel.digest(rule["rule"])
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield from rules_met(one, schema_of(key, schema) or ANYTHING, f"{place}.{key}")
    elif isinstance(value, list):
        for one in value:
            yield from rules_met(one, schema.get("items", ANYTHING), f"{place}[]")


@pytest.mark.parametrize("name", CUSTOM)
def test_every_rule_that_our_objects_meet_is_known(catalogue, name):
    body = CUSTOM[name].body
    group, version = body["apiVersion"].split("/")
    kinds = {one.kind: one for one in catalogue.of_group(group, version)}
    schema = kinds[body["kind"]].schema

    met = set(rules_met(defaulted(body, schema), schema))

    assert {(place, digest) for place, digest in met if digest not in cel.RULES} == set()


def test_our_routes_do_meet_rules(catalogue):
    schema = catalogue.find("gateway.networking.k8s.io", "v1", "httproutes").schema
    route = next(one.body for one in CUSTOM.values() if one.body["kind"] == "HTTPRoute")

    assert len(set(rules_met(route, schema))) > 20


def test_every_rule_that_is_known_stands_in_some_crd(catalogue):
    kinds = (
        catalogue.find("gateway.networking.k8s.io", "v1", "httproutes"),
        catalogue.find("gateway.networking.k8s.io", "v1", "gateways"),
        catalogue.find("ray.io", "v1", "rayservices"),
    )
    found = {cel.digest(rule) for kind in kinds for rule in rules(kind.schema)}

    assert cel.RULES.keys() - found == set()


def test_every_rule_that_is_known_has_a_value_that_it_refuses():
    assert REFUSED.keys() | LOUD == cel.RULES.keys()


@pytest.mark.parametrize("digest", REFUSED)
def test_a_known_rule_refuses(digest):
    assert not cel.RULES[digest](REFUSED[digest], "before")


@pytest.mark.parametrize("digest", sorted(LOUD))
def test_a_rewritten_path_is_not_passed_by(digest):
    filters = [{"requestRedirect": {"path": {}}}, {"urlRewrite": {"path": {}}}]

    with pytest.raises(NotImplementedError):
        cel.RULES[digest]({"filters": filters}, None)


def test_a_rule_that_nobody_knows_stops_the_object_that_meets_it():
    schema = {"type": "string", "x-kubernetes-validations": [{"rule": "self != 'made up'"}]}

    with pytest.raises(NotImplementedError, match="made up"):
        list(faults("anything", schema))


@pytest.mark.stand_in("what it does not do")
def test_over_http_what_is_not_known_is_501(cluster):
    objects = Objects(by=cluster.admin, namespace=cluster.a_namespace())
    mirrored = {"percent": 1, "backendRef": {"name": "chat-v7", "port": 8000}}
    mirror = {"type": "RequestMirror", "requestMirror": mirrored}
    route = a_route(backend("v6", 100, filters=[mirror]))

    with pytest.raises(Exception, match="The stand-in does not do this") as caught:
        objects.post(route)

    assert caught.value.status == 501


def test_a_gateway_is_taken_and_two_listeners_of_one_name_are_not(cluster):
    objects = Objects(by=cluster.admin, namespace=cluster.a_namespace())
    gateway = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": "llm"},
        "spec": {"gatewayClassName": "envoy", "listeners": [HTTP]},
    }

    created = objects.post(gateway, field_validation="Strict")

    (listener,) = created["spec"]["listeners"]
    assert listener["allowedRoutes"]["namespaces"]["from"] == "Same"
    spec = {**gateway["spec"], "listeners": [HTTP, HTTP]}
    refused(422, objects.post, {**gateway, "metadata": {"name": "other"}, "spec": spec})


@pytest.mark.parametrize("name", CUSTOM)
def test_what_we_render_is_applied_whole_and_applying_it_again_writes_nothing(cluster, name):
    rendered, namespace = CUSTOM[name].body, cluster.a_namespace()
    body = {**rendered, "metadata": {**rendered["metadata"], "namespace": namespace}}
    objects = Objects(by=cluster.admin, namespace=namespace)

    applied = objects.apply(body)

    assert applied["metadata"]["labels"] == body["metadata"]["labels"]
    assert list(unsaid(body["spec"], applied["spec"])) == []
    assert objects.apply(body) == applied


def unsaid(wanted: Any, given: Any, place: str = "spec") -> Iterator[str]:
    """Where what was given back says less than, or something else than, what was sent; defaults may be added."""
    if isinstance(wanted, Mapping) and isinstance(given, Mapping):
        for key, one in wanted.items():
            yield from unsaid(one, given.get(key), f"{place}.{key}")
    elif isinstance(wanted, list) and isinstance(given, list) and len(wanted) == len(given):
        for index, one in enumerate(wanted):
            yield from unsaid(one, given[index], f"{place}[{index}]")
    elif wanted != given:
        yield place
