"""Whatever is sent, the answer is one that a server gives: nothing fails inside. On plain values, without HTTP."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.contracts.custom_resources import schema_folder
from tests.kubernetes_api.addresses import Request
from tests.kubernetes_api.api import Answer, Moment, answer
from tests.kubernetes_api.objects import APPLY, MERGE, a_route, backend
from tests.kubernetes_api.rbac import admin
from tests.kubernetes_api.resources import read_catalogue
from tests.kubernetes_api.status import Refusal
from tests.kubernetes_api.store import Key, Store, put

MOMENT = Moment(now="2026-11-25T07:00:00Z", uid="0000-1111")
SAYS = {"set": [{"name": "x-shipway-version", "value": "7"}]}
FILTER = {"type": "ResponseHeaderModifier", "responseHeaderModifier": SAYS}
ROUTE = a_route(backend("v6", 95), backend("v7", 5, filters=[FILTER]), parent={"name": "llm"})
OBJECTS = {
    "/apis/gateway.networking.k8s.io/v1/namespaces/llm/httproutes": {
        **ROUTE,
        "metadata": {
            "name": "chat",
            "labels": {"a": "b"},
            "finalizers": ["shipway/wait"],
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "a", "uid": "u"}],
        },
    },
    "/api/v1/namespaces/llm/secrets": {
        "metadata": {"name": "chat"},
        "stringData": {"a": "b"},
        "data": {"c": "ZA=="},
    },
    "/api/v1/namespaces/llm/services": {
        "metadata": {"name": "chat"},
        "spec": {"ports": [{"port": 80}, {"port": 443, "name": "https"}], "selector": {"a": "b"}},
    },
    "/apis/coordination.k8s.io/v1/namespaces/llm/leases": {
        "metadata": {"name": "chat"},
        "spec": {"holderIdentity": "a", "renewTime": "2026-11-25T07:00:00.000000Z"},
    },
}
JUNK = (
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.floats(allow_nan=False)
    | st.sampled_from(["", "a", "x" * 300, "2026"])
    | st.lists(st.sampled_from(["a", 1, None, {}, []]), max_size=2)
    | st.dictionaries(st.sampled_from(["a", "name", "type"]), st.sampled_from(["a", 1, None]))
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a body."""
    found = [path]
    if isinstance(value, (dict, list)):
        keys = value if isinstance(value, dict) else range(len(value))
        for key in keys:
            found += places(value[key], (*path, key))
    return found


def changed(body: Any, path: tuple[Any, ...], junk: Any) -> Any:
    if not path:
        return junk
    copied = copy.deepcopy(body)
    part = copied
    for step in path[:-1]:
        part = part[step]
    part[path[-1]] = junk
    return copied


@pytest.fixture(scope="module")
def ask():
    catalogue = read_catalogue(schema_folder())
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "llm", "uid": "n"}}
    begun, _ = put(Store(), Key("", "namespaces", "", "llm"), body)

    def ask(request: Request, store: Store = begun) -> tuple[Store, int]:
        """The store afterwards, and the code of the answer."""
        try:
            after, found = answer(store, catalogue, request, admin(), MOMENT)
        except Refusal as refusal:
            return store, refusal.status["code"]
        assert isinstance(found, Answer)
        json.dumps(found.body)
        return after, found.code

    return ask


@pytest.mark.parametrize("path", OBJECTS)
@given(data=st.data())
def test_a_body_with_a_slip_anywhere_gets_an_answer(ask, path, data):
    good = OBJECTS[path]
    store, code = ask(Request(method="POST", path=path, body=json.dumps(good).encode()))
    assert code == 201
    slip = changed(good, data.draw(st.sampled_from(places(good))), data.draw(JUNK))
    sent = json.dumps(slip).encode()
    one = f"{path}/chat"
    manager = {"fieldManager": "shipway", "force": "true"}
    requests = [
        Request(method="POST", path=path, body=sent, query={"dryRun": "All"}),
        Request(method="PUT", path=one, body=sent),
        Request(method="PATCH", path=one, body=sent, content_type=MERGE),
        Request(method="PATCH", path=one, body=sent, content_type=APPLY, query=manager),
        Request(method="DELETE", path=one, body=sent),
    ]

    codes = [ask(request, store)[1] for request in requests]

    assert set(codes) <= {200, 201, 400, 404, 409, 422, 500, 501}


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[]", b"null", b"1"])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
@pytest.mark.parametrize("kind", [MERGE, APPLY, "application/json"])
def test_what_is_no_object_is_refused(ask, body, method, kind):
    path = next(iter(OBJECTS))
    store, _ = ask(Request(method="POST", path=path, body=json.dumps(OBJECTS[path]).encode()))
    request = Request(
        method=method,
        path=path if method == "POST" else f"{path}/chat",
        body=body,
        content_type=kind,
        query={"fieldManager": "shipway"},
    )

    assert ask(request, store)[1] in (400, 415)


@pytest.mark.parametrize(
    "query",
    [
        {"limit": "1"},
        {"watch": "true", "resourceVersion": "x"},
        {"labelSelector": "=("},
        {"fieldSelector": "spec.x=1"},
        {"resourceVersionMatch": "Exact"},
    ],
)
def test_a_query_that_is_wrong_or_not_built_is_refused(ask, query):
    path = next(iter(OBJECTS))

    assert ask(Request(method="GET", path=path, query=query))[1] in (400, 501)


@pytest.mark.parametrize("query", [{"dryRun": "Some"}, {"fieldValidation": "Loose"}])
def test_an_option_that_there_is_not_is_refused(ask, query):
    path = next(iter(OBJECTS))
    body = json.dumps(OBJECTS[path]).encode()

    assert ask(Request(method="POST", path=path, query=query, body=body))[1] == 400


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/v1/namespaces/llm/secrets/chat"),
        ("PUT", "/api/v1/namespaces/llm/secrets"),
        ("PATCH", "/api/v1/secrets"),
    ],
)
def test_a_method_that_is_not_for_the_address_is_refused(ask, method, path):
    assert ask(Request(method=method, path=path, body=b"{}"))[1] == 405
