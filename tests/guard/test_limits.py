"""Limits of keys and endpoints, in memory and in a real Redis, as clients meet them."""

import asyncio
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from deploy_targets.guard.access_control import ANYBODY
from deploy_targets.guard.exchange import Exchange
from deploy_targets.guard.limit_store import LimitStore
from deploy_targets.guard.rate_limit import RateLimiter
from deploy_targets.guard.steps import steps_of
from deploy_targets.guard.wire import parse_chat
from deploy_targets.guard_policy import GuardPolicy
from tests.guard.redis_server import RedisServer, a_redis
from tests.guard.stub import ENDPOINT, KEY, a_chat
from tests.guard.world import World

Start = Callable[..., World]
PRICES = {"prompt_micros_per_million": 1_000_000, "completion_micros_per_million": 10_000_000}
"""One micro for a token of a prompt, ten for one of an answer: the stub's answer of 3 and 2 tokens costs 23."""


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with a_redis() as server:
        yield server


def a_policy(*, endpoint: dict[str, int] | None = None, **key: int) -> GuardPolicy:
    limits = {"key": key, "endpoint": endpoint or {}}
    return GuardPolicy.model_validate({"limits": limits, "prices": PRICES})


@pytest.fixture(params=["memory", "redis"])
def start(request: pytest.FixtureRequest, start_world: Start, redis: RedisServer) -> Start:
    """A guard with a policy; in Redis nothing is left of the test before."""
    url = redis.url if request.param == "redis" else None
    if url is not None:
        redis.stop()
        redis.start()

    def start(policy: GuardPolicy) -> World:
        return start_world(policy=policy, redis_url=url)

    return start


def series(world: World, name: str, *labels: str) -> dict[tuple[str, ...], float]:
    page = httpx2.get(f"{world.admin_url}/metrics").text
    return {
        tuple(sample.labels[label] for label in labels): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == name
    }


def settled(world: World, body: object = None) -> int:
    """The status of a request that is settled: its line is there."""
    status = world.post(body).status_code
    world.line()
    return status


def test_requests_past_a_keys_limit_are_refused_and_told_when_to_come_again(start: Start) -> None:
    world = start(a_policy(requests_per_minute=3))
    statuses = [world.post().status_code for _ in range(4)]
    assert statuses == [200, 200, 200, 429]
    refused = world.post()
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert refused.headers["x-ratelimit-limit-requests"] == "3"
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert len(world.stub.bodies) == 3
    for _ in range(5):
        line = world.line()
    assert line["rule"] == "requests_per_minute"
    assert (
        series(world, "llm_guard_rules_total", "rule", "action")["requests_per_minute", "refused"]
        == 2
    )
    assert world.counted() == (3, 0)


def test_an_answer_says_what_is_left(start: Start) -> None:
    world = start(a_policy(requests_per_minute=10, tokens_per_minute=1000))
    headers = world.post().headers
    assert headers["x-ratelimit-remaining-requests"] == "9"
    assert 900 < int(headers["x-ratelimit-remaining-tokens"]) < 1000
    assert headers["x-ratelimit-reset-tokens"].endswith("s")


def test_the_official_client_raises_a_rate_limit_error(start: Start) -> None:
    world = start(a_policy(requests_per_minute=1))
    with openai.OpenAI(base_url=f"{world.url}/v1", api_key=KEY, max_retries=0) as client:
        ask: Any = lambda: client.chat.completions.create(**a_chat())  # noqa: E731
        ask()
        with pytest.raises(openai.RateLimitError):
            ask()


def test_tokens_are_reserved_before_and_settled_after(start: Start) -> None:
    """8 for the answer and 9 for the prompt are reserved, 5 are taken: so 100 do for more than 100 / 17 requests."""
    world = start(a_policy(tokens_per_minute=100))
    statuses = [settled(world) for _ in range(20)]
    assert statuses[:17] == [200] * 17  # 16 * 5 + 17 <= 100
    assert statuses[17:] == [429] * 3


def test_what_can_never_fit_is_refused(start: Start) -> None:
    world = start(a_policy(tokens_per_minute=100))
    assert world.post(a_chat(max_tokens=500)).status_code == 429
    assert world.post(a_chat(n=20)).status_code == 429
    assert world.post().status_code == 200


def test_of_requests_at_once_only_so_many_are_let_in_and_places_come_free(start: Start) -> None:
    world = start(a_policy(concurrent_requests=2))
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(world.post, a_chat("slow")) for _ in range(2)]
        for _ in range(2):
            assert world.stub.begun.acquire(timeout=20)
        refused = world.post()
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        assert series(world, "llm_inference_in_flight") == {(): 2}
        world.stub.go_on.set()
        assert [one.result().status_code for one in waiting] == [200, 200]
    for _ in range(3):
        world.line()
    assert [world.post().status_code for _ in range(3)] == [200] * 3
    assert series(world, "llm_inference_in_flight") == {(): 0}


def test_a_budget_is_spent_by_what_requests_really_cost(start: Start) -> None:
    """Each costs 23; 9 + 80 are reserved."""
    world = start(a_policy(micros_per_day=150))
    statuses = [settled(world) for _ in range(5)]
    assert statuses == [200, 200, 200, 429, 429]  # 2 * 23 + 89 <= 150 < 3 * 23 + 89
    refused = world.post()
    assert refused.json()["error"]["code"] == "insufficient_quota"
    assert int(refused.headers["retry-after"]) <= 86_400
    assert series(world, "llm_guard_key_cost_micros_total", "version", "key") == {
        ("7", "owner"): 69
    }
    assert world.samples("llm_inference_cost_micros_total")["7", "chat"] == 69


def test_what_a_version_fails_costs_nothing(start: Start) -> None:
    world = start(a_policy(micros_per_day=100))
    assert [settled(world, a_chat("500")) for _ in range(3)] == [500] * 3
    assert settled(world) == 200
    assert series(world, "llm_guard_key_cost_micros_total", "version", "key") == {
        ("7", "owner"): 23
    }


def test_a_client_that_leaves_pays_for_what_it_has_seen(start: Start) -> None:
    world = start(a_policy(tokens_per_minute=1000))
    with world.http.stream("POST", "/v1/chat/completions", json=a_chat("drip", stream=True)) as it:
        for _ in zip(range(3), it.iter_raw(), strict=False):
            pass
    assert world.line()["outcome"] == "cancelled"
    tokens = series(world, "llm_guard_key_tokens_total", "version", "key")["7", "owner"]
    assert tokens >= 9 + 3


def test_the_endpoints_limit_is_for_all_keys_together(start: Start, keys_file: Path) -> None:
    keys_file.write_text(
        json.dumps({"keys": [a_key("a", "sk-a"), a_key("b", "sk-b", requests_per_minute=1)]})
    )
    world = start(a_policy(endpoint={"requests_per_minute": 3}, requests_per_minute=9))

    def ask(key: str) -> int:
        return world.post(Authorization=f"Bearer {key}").status_code

    assert [ask("sk-b"), ask("sk-b"), ask("sk-a"), ask("sk-a"), ask("sk-a")] == [
        200, 429, 200, 200, 429,
    ]  # fmt: skip


def a_key(name: str, key: str, **limits: int) -> dict[str, Any]:
    return {"name": name, "sha256": sha256(key.encode()).hexdigest(), "limits": limits}


def test_a_key_with_a_budget_where_nothing_has_a_price_is_not_let_through(
    start_world: Start, keys_file: Path
) -> None:
    keys_file.write_text(json.dumps({"keys": [a_key("a", KEY, micros_per_day=5)]}))
    response = start_world().post()
    assert (response.status_code, response.json()["error"]["code"]) == (503, "budget_unknown")
    assert response.headers["retry-after"] == "1"


@pytest.mark.promise("rates are counted on, budgets let nothing through")
def test_without_redis_rates_are_each_processes_own_and_budgets_are_refused(
    start_world: Start, keys_file: Path
) -> None:
    keys_file.write_text(
        json.dumps({"keys": [a_key("rich", KEY, micros_per_day=500), a_key("plain", "sk-plain")]})
    )
    with a_redis() as redis:
        world = start_world(policy=a_policy(requests_per_minute=3), redis_url=redis.url)
        assert world.post().status_code == 200
        assert world.post(Authorization="Bearer sk-plain").status_code == 200
        redis.stop()
        refused = world.post()
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "budget_unknown")
        statuses = [world.post(Authorization="Bearer sk-plain").status_code for _ in range(4)]
        assert statuses == [200, 200, 200, 429]
        lost = series(world, "llm_guard_limits_lost_total", "what")
        assert lost["rates",] >= 5
        assert lost["budgets",] == 1
        redis.start()
        for _ in range(100):
            if world.post().status_code == 200:
                break
            asyncio.run(asyncio.sleep(0.05))
        else:
            pytest.fail("a Redis that is back is not asked again")


def test_several_processes_share_one_redis(start_world: Start, redis: RedisServer) -> None:
    redis.stop()
    redis.start()
    worlds = [
        start_world(policy=a_policy(requests_per_minute=20), redis_url=redis.url) for _ in range(2)
    ]
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda i: worlds[i % 2].post().status_code, range(60)))
    assert statuses.count(200) == 20
    assert statuses.count(429) == 40


def test_every_rule_and_store_has_its_series_from_the_start(world: World) -> None:
    rules = series(world, "llm_guard_rules_total", "rule", "action")
    for rule in ("invalid_api_key", "requests_per_minute", "micros_per_day", "request_too_large"):
        assert rules[rule, "refused"] == 0
    assert series(world, "llm_guard_limits_lost_total", "what") == {
        ("rates",): 0, ("budgets",): 0, ("settlements",): 0, ("answers",): 0, ("users",): 0,
    }  # fmt: skip


def test_a_key_of_another_endpoint_and_a_users_pin_are_refused(
    world: World, keys_file: Path
) -> None:
    foreign = a_key("foreign", "sk-foreign") | {"endpoints": ["other"]}
    user = a_key("user", "sk-user") | {"endpoints": [ENDPOINT]}
    keys_file.write_text(json.dumps({"keys": [foreign, user]}))
    response = world.post(Authorization="Bearer sk-foreign")
    assert (response.status_code, response.json()["error"]["code"]) == (403, "not_permitted")
    assert world.post(Authorization="Bearer sk-user").status_code == 200
    pinned = world.post(Authorization="Bearer sk-user", **{"x-shipway-version": "7"})
    assert pinned.status_code == 403
    assert len(world.stub.bodies) == 1


@pytest.mark.parametrize(("protocol", "prompt"), [("openai", "ok"), ("triton", "pieces")])
@pytest.mark.parametrize("is_streamed", [False, True])
def test_tokens_and_costs_are_counted_by_version_through_either_protocol(
    start_world: Start, protocol: str, prompt: str, *, is_streamed: bool
) -> None:
    world = start_world(protocol=protocol, policy=a_policy())
    assert world.post(a_chat(prompt, stream=is_streamed)).status_code == 200
    assert world.samples("llm_inference_prompt_tokens_total")["7", "chat"] == 3
    assert world.samples("llm_inference_completion_tokens_total")["7", "chat"] == 2
    assert world.samples("llm_inference_cost_micros_total")["7", "chat"] == 23
    assert world.samples("llm_inference_cost_micros_total")["7", "pinned"] == 0
    timed = world.samples("llm_inference_first_token_seconds_count")["7", "chat"]
    assert timed == int(is_streamed)
    between = world.samples("llm_inference_per_token_seconds_count")["7", "chat"]
    assert between in ({0, 1} if is_streamed else {0})


def test_a_client_whose_answer_a_rule_cuts_off_pays_for_what_was_made_of_it(
    start_world: Start,
) -> None:
    policy = GuardPolicy.model_validate(
        {
            "prices": PRICES,
            "output": {
                "rules": [{"name": "no", "kind": "words", "words": ["is"], "action": "refuse"}]
            },
        }
    )
    world = start_world(policy=policy, steps=steps_of(policy))
    assert "content_filter" in world.post(a_chat("say Paris is", stream=True)).text
    assert world.line()["outcome"] == "answered"
    assert series(world, "llm_guard_key_cost_micros_total", "version", "key")["7", "owner"] > 10
    assert world.samples("llm_inference_cost_micros_total")["7", "chat"] > 10


def test_a_client_pays_for_what_came_of_a_stream_that_ran_out_of_time(start_world: Start) -> None:
    policy = GuardPolicy.model_validate({"prices": PRICES})
    world = start_world(policy=policy, timeout_s=2)
    assert "upstream_timeout" in world.post(a_chat("hang in stream", stream=True)).text
    assert world.line()["outcome"] == "failed"
    assert series(world, "llm_guard_key_cost_micros_total", "version", "key")["7", "owner"] > 10


def test_a_client_pays_for_a_stream_that_ends_unfit(start_world: Start) -> None:
    policy = GuardPolicy.model_validate({"prices": PRICES, "output": {"json_answers": "refuse"}})
    world = start_world(policy=policy, steps=steps_of(policy))
    asked = a_chat("say Paris", stream=True, response_format={"type": "json_object"})
    assert "answer_unfit" in world.post(asked).text
    assert world.line()["outcome"] == "answered"
    assert series(world, "llm_guard_key_cost_micros_total", "version", "key")["7", "owner"] > 10


def test_more_tokens_than_can_be_counted_are_refused_and_no_budget_is_lost(start: Start) -> None:
    world = start(a_policy(micros_per_day=1000))
    asked = a_chat(max_tokens=10**18, n=128)
    assert world.post(asked).status_code == 400
    assert world.post().status_code == 200


def test_a_place_is_given_back_by_a_request_that_is_ended_while_it_reserves() -> None:
    async def run() -> None:
        policy = a_policy(concurrent_requests=1, micros_per_day=1000)
        store = LimitStore(None, lost=lambda _: None)
        limiter = RateLimiter(policy, store, endpoint=ENDPOINT, longest_s=5)
        asked = parse_chat(json.dumps(a_chat()).encode())
        counted = store.budget

        async def ended(_: object) -> None:
            raise asyncio.CancelledError

        store.budget = ended  # pyright: ignore[reportAttributeAccessIssue]
        with pytest.raises(asyncio.CancelledError):
            async with limiter.reserved(asked, Exchange(request_id="1", caller=ANYBODY)):
                pass
        store.budget = counted
        async with limiter.reserved(asked, Exchange(request_id="2", caller=ANYBODY)):
            pass

    asyncio.run(run())
