"""What a client tries with the guard: labels without end, keys in the log, bodies and schemas that cost more than they should.

Heads, slow clients and malformed HTTP: `tests/guard/test_http_heads.py`; doubtful JSON: `tests/guard/test_strict_json.py`.
"""

import gzip
import json
import random
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from deploy_targets.guard.steps import steps_of
from deploy_targets.guard_policy import GuardPolicy
from tests.guard.stub import KEY, a_chat
from tests.guard.test_process import free_ports, until_started

PATH = "/v1/chat/completions"


def labels_of(admin_url: str) -> set[str]:
    """Each series of the guard's page, as one text."""
    page = httpx2.get(f"{admin_url}/metrics").text
    return {
        f"{sample.name}{sorted(sample.labels.items())}"
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


@pytest.mark.parametrize("auth", [True, False])
def test_whatever_clients_send_no_label_is_of_their_making(start_world, auth) -> None:
    """Each series costs memory here and in Prometheus for ever: a client that could make one could make millions."""
    world = start_world(auth=auth)
    dice = random.Random(7)
    assert world.post().status_code == 200
    assert world.post(stream="no").status_code == 200
    world.counted()
    before = labels_of(world.admin_url)
    for _ in range(80):
        made_up = f"m{dice.getrandbits(64):x}"
        method = dice.choice(["GET", "POST", "PUT", "DELETE", "OPTIONS", made_up.upper()])
        path = dice.choice([PATH, "/v1/completions", "/v1/models", f"/{made_up}", f"{PATH}/{made_up}"])  # fmt: skip
        body = a_chat(model=dice.choice(["chat", made_up]), user=made_up, metadata={"k": made_up})
        body["messages"][0]["name"] = made_up
        headers = {
            "Authorization": f"Bearer {dice.choice([KEY, made_up])}",
            "x-request-id": made_up, "user-agent": made_up, "x-shipway-endpoint": made_up,
        }  # fmt: skip
        world.http.request(method, f"{path}?{made_up}={made_up}", json=body, headers=headers)
    world.counted()
    assert labels_of(world.admin_url) == before


def test_a_guards_log_holds_no_key_wherever_a_client_put_it(start, keys_file: Path, world) -> None:
    """Good and bad keys, in the header, the address, the body and other headers."""
    port, admin_port = free_ports(2)
    process = start(
        endpoint="chat", upstream_url=world.stub_url, port=port, admin_port=admin_port, keys_file=keys_file,
    )  # fmt: skip
    until_started(process)
    wrong = "sk-shipway-" + "w" * 43
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as http:
        for key in (KEY, wrong):
            bearer = {"Authorization": f"Bearer {key}"}
            http.post(PATH, json=a_chat(), headers=bearer)
            http.post(PATH, json=a_chat(key, user=key, model=key), headers=bearer)
            http.post(PATH, content=f'{{"{key}": '.encode(), headers=bearer)
            http.post(f"{PATH}?api_key={key}", json=a_chat(), headers={"x-api-key": key})
            http.get(f"/v1/models/{key}", headers=bearer)
            http.get(f"/{'p' * 40}/{key}", headers={"Authorization": key, "Cookie": key})
            http.request(key.upper().replace("-", ""), "/v1/models", headers=bearer)
    process.terminate()
    out, err = process.communicate(timeout=30)
    assert out.count("request.served") == 12  # a method of that name is no HTTP
    for key in (KEY, wrong):
        assert key not in out + err
        assert key[11:30].lower() not in (out + err).lower()


@pytest.mark.parametrize(
    "deep",
    [b"[" * 100_000, b'{"a":' * 100_000, b'{"messages":' + b"[" * 500_000],
    ids=["lists", "objects", "messages"],
)
@pytest.mark.parametrize("policy", [{}, {"input": {}}], ids=["plain", "with input"])
def test_a_body_that_is_nested_without_end_is_a_400(start_world, deep, policy) -> None:
    world = start_world(steps=steps_of(GuardPolicy.model_validate(policy)))
    world.sent()
    assert world.http.post(PATH, content=deep).status_code == 400
    assert world.post().status_code == 200


def test_a_body_that_is_small_only_until_it_is_unpacked_is_not_unpacked(world) -> None:
    bomb = gzip.compress(json.dumps(a_chat("x" * (50 << 20))).encode())
    world.sent()
    answer = world.http.post(PATH, content=bomb, headers={"content-encoding": "gzip"})
    assert answer.status_code == 400
    assert world.stub.bodies == []


GREEDY: dict[str, Any] = {
    "max_tokens": 10**30, "n": 10**9, "top_logprobs": 10**9,
    "stop": ["x"] * 100_000, "logit_bias": {str(at): 1 for at in range(50_000)},
    "temperature": 1e308, "seed": 10**400,
}  # fmt: skip


@pytest.mark.parametrize("field", GREEDY)
def test_a_request_for_more_than_anybody_may_have_goes_nowhere_under_limits(
    start_world, field
) -> None:
    policy = GuardPolicy.model_validate({"input": {"limits": {"max_answer_tokens": 64}}})
    world = start_world(steps=steps_of(policy))
    assert world.post(a_chat(**{field: GREEDY[field]})).status_code in {400, 413}
    assert world.stub.bodies == []


@pytest.mark.timeout(60)
def test_a_schema_whose_pattern_would_backtrack_for_ever_costs_no_time(start_world) -> None:
    """Schemas come from clients, and what they are held against from a model that they may ask to say anything."""
    policy = GuardPolicy.model_validate({"output": {"json_answers": "refuse"}})
    world = start_world(steps=steps_of(policy))
    schema = {"type": "string", "pattern": "^(a+)+$"}
    wanted = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    said = json.dumps("a" * 40 + "!")
    begun = time.monotonic()
    answer = world.post(a_chat(f"say {said}", response_format=wanted))
    assert answer.status_code in {400, 502}
    assert time.monotonic() - begun < 5
    assert world.post().status_code == 200


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "http://169.254.169.254/latest/meta-data/"},
        {"properties": {"a": {"$ref": "file:///etc/passwd"}}},
        {"$dynamicRef": "http://127.0.0.1:1/x"},
        {"$schema": "http://127.0.0.1:1/schema"},
    ],
    ids=str,
)
def test_a_schema_that_names_an_address_has_nothing_fetched(start_world, schema, monkeypatch) -> None:  # fmt: skip
    policy = GuardPolicy.model_validate({"output": {"json_answers": "refuse"}})
    world = start_world(steps=steps_of(policy))
    wanted = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    answer = world.post(a_chat('say {"a": 1}', response_format=wanted))
    assert answer.status_code == 400
    assert world.stub.bodies == []


def test_an_answer_that_never_ends_does_not_fill_the_guards_memory(start_world) -> None:
    """A replica that drips for ever is cut at the endpoint's time limit, and its version is at fault."""
    world = start_world(timeout_s=1)
    world.sent()
    with world.http.stream("POST", PATH, json=a_chat("drip", stream=True)) as answer:
        read = sum(len(piece) for piece in answer.iter_raw())
    assert read < 1 << 20
    assert world.line()["outcome"] == "failed"
