"""When an answer is given again, when it is not, and what that counts for."""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from deploy_targets.guard.answer_cache import MAX_ANSWER_BYTES, is_repeatable
from deploy_targets.guard.sightings import SETTLE_S
from deploy_targets.guard.steps import steps_of
from deploy_targets.guard.wire import parse_chat
from deploy_targets.guard_policy import GuardPolicy
from tests.guard.redis_server import a_redis
from tests.guard.stub import KEY, a_chat, keys_json, served
from tests.guard.stub_split import StubSplit
from tests.guard.world import World

RECHECK_S = 30


class Cached:
    """A guard with a cache in front of a stub split, and the cache's clock."""

    def __init__(self, start_world: Callable[..., World], url: str, split: StubSplit) -> None:
        self._start, self._url, self.split = start_world, url, split

    def start(self, cache: dict[str, Any] | None = None, **more: Any) -> "Cached":
        redis_url = more.pop("redis_url", None)
        policy = GuardPolicy.model_validate({"cache": cache or {}, **more})
        self.world = self._start(
            upstream_url=self._url, policy=policy, steps=steps_of(policy), redis_url=redis_url
        )
        self.world.now = 1000.0
        return self

    def ask(self, prompt: str = "hi", *, key: str = KEY, **fields: object) -> httpx2.Response:
        body = a_chat(prompt, temperature=0) | fields
        return self.world.post(body, Authorization=f"Bearer {key}")

    def said(self, prompt: str = "hi") -> str:
        response = self.ask(prompt)
        assert response.status_code == 200, response.text
        return response.json()["choices"][0]["message"]["content"]

    def later(self, seconds: float) -> None:
        assert self.world.now is not None
        self.world.now += seconds

    def results(self) -> dict[str, int]:
        """How often the cache did what, without what it never did."""
        self.world.samples("llm_inference_requests_total")  # every line is there
        page = httpx2.get(f"{self.world.admin_url}/metrics").text
        told = [one for one in page.splitlines() if one.startswith("llm_guard_cache_total{")]
        counts = {
            one.partition('result="')[2].partition('"')[0]: int(float(one.split()[-1]))
            for one in told
        }
        assert counts.keys() == {"hit", "miss", "skipped", "paused", "lost"}
        return {result: count for result, count in counts.items() if count}


@pytest.fixture
def split() -> StubSplit:
    return StubSplit()


@pytest.fixture
def cached(start_world: Callable[..., World], split: StubSplit) -> Iterator[Cached]:
    with served() as serve:
        yield Cached(start_world, serve(split.app), split)
        split.is_open.set()


def test_the_same_request_is_answered_once_and_counts_for_its_version_once(cached: Cached) -> None:
    cached.start()
    first, second = cached.ask(), cached.ask()
    assert second.content == first.content
    assert [one.headers["x-shipway-cache"] for one in (first, second)] == ["miss", "hit"]
    assert second.headers["x-shipway-version"] == "6"
    assert second.headers["content-type"] == first.headers["content-type"]
    assert cached.split.asked == 1
    assert cached.results() == {"hit": 1, "miss": 1}
    assert cached.world.counted("6") == (1, 0)


def test_every_result_has_its_series_from_the_start(world: World) -> None:
    page = httpx2.get(f"{world.admin_url}/metrics").text
    for result in ("hit", "miss", "skipped", "paused", "lost"):
        assert f'llm_guard_cache_total{{endpoint="chat",result="{result}"}} 0.0' in page


def test_a_hit_costs_nothing_and_is_charged_to_nobody(cached: Cached) -> None:
    cached.start(
        prices={"completion_micros_per_million": 1_000_000},
        limits={"key": {"tokens_per_minute": 25, "micros_per_day": 20}},
    )
    lines: list[dict[str, Any]] = []
    for _ in range(8):
        assert cached.ask().status_code == 200
        lines.append(cached.world.line())  # by then it is settled
    assert [line["cost_micros"] for line in lines] == [2, *[0] * 7]
    assert [line["completion_tokens"] for line in lines] == [2, *[0] * 7]
    assert [line["cache"] for line in lines] == ["miss", *["hit"] * 7]
    assert [line["route"] for line in lines] == ["chat", *[""] * 7]
    page = httpx2.get(f"{cached.world.admin_url}/metrics").text
    charged = 'llm_guard_key_requests_total{endpoint="chat",key="owner",version="6"} 1.0'
    assert charged in page


@pytest.mark.parametrize("is_for_completions", [False, True])
def test_a_stream_is_given_again_as_the_same_stream(
    cached: Cached, *, is_for_completions: bool
) -> None:
    cached.start()
    path = "/v1/completions" if is_for_completions else "/v1/chat/completions"
    body = a_chat("hi", temperature=0, stream=True)
    if is_for_completions:
        body["prompt"] = body.pop("messages")[0]["content"]

    def ask() -> httpx2.Response:
        cached.world.sent()
        return cached.world.http.post(path, json=body)

    first, second = ask(), ask()
    assert first.text.endswith("data: [DONE]\n\n")
    assert second.content == first.content
    assert second.headers["content-type"] == first.headers["content-type"]
    assert second.headers["x-shipway-cache"] == "hit"


def test_each_way_to_ask_has_answers_of_its_own(cached: Cached) -> None:
    cached.start()
    cached.ask()
    assert "chat.completion.chunk" in cached.ask(stream=True).text
    cached.world.sent()
    body = {"model": "chat", "prompt": "hi", "temperature": 0, "max_tokens": 8}
    completion = cached.world.http.post("/v1/completions", json=body)
    assert completion.json()["object"] == "text_completion"
    assert cached.results() == {"miss": 3}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"temperature": 0}, True),
        ({"temperature": 0.0, "seed": None}, True),
        ({"temperature": 0.7, "seed": 3}, True),
        ({"seed": 0}, True),
        ({}, False),
        ({"temperature": 0.7}, False),
        ({"temperature": None}, False),
        ({"seed": True}, False),
        ({"seed": False}, False),
        ({"seed": "3"}, False),
        ({"temperature": 0, "n": 2}, False),
    ],
)
def test_only_what_would_be_answered_alike_is_looked_up(
    fields: dict[str, object], *, expected: bool
) -> None:
    asked = parse_chat(json.dumps(a_chat("hi", **fields)).encode())
    assert is_repeatable(asked) is expected


def test_what_is_drawn_at_random_and_what_is_pinned_is_sent_on(cached: Cached) -> None:
    cached.start()
    cached.ask()
    assert "x-shipway-cache" not in cached.ask(temperature=1).headers
    pinned = cached.world.post(a_chat("hi", temperature=0), **{"x-shipway-version": "5"})
    assert pinned.headers["x-shipway-version"] == "5"
    assert "x-shipway-cache" not in pinned.headers
    assert cached.ask().headers["x-shipway-cache"] == "hit"
    assert cached.results() == {"hit": 1, "miss": 1, "skipped": 2}


@pytest.mark.parametrize(("scope", "given"), [("key", "miss"), ("endpoint", "hit")])
def test_another_key_is_given_an_answer_only_where_the_policy_says_so(
    cached: Cached, keys_file: Path, scope: str, given: str
) -> None:
    keys_file.write_text(keys_json(owner=KEY, other="sk-other"))
    cached.start({"scope": scope})
    cached.ask()
    assert cached.ask(key="sk-other").headers["x-shipway-cache"] == given


def test_nothing_is_given_while_two_versions_answer_nor_soon_after(cached: Cached) -> None:
    cached.start()
    cached.said()
    assert cached.said() == "hi 6 1"
    cached.split.version = "7"
    assert cached.said("the canary's") == "the canary's 7 2"
    for _ in range(3):
        cached.later(SETTLE_S / 3 - 1)
        assert cached.said().startswith("hi 7")
    assert cached.results() == {"hit": 1, "miss": 2, "paused": 3}
    cached.later(3)
    # From here on the new version is believed, and what it has said last is given again.
    assert cached.said() == "hi 7 5"
    assert cached.results()["hit"] == 2


def test_a_failure_that_names_no_files_is_no_other_version(cached: Cached) -> None:
    """As an engine's server says that its queue is full."""
    cached.start()
    cached.said()
    cached.split.fails, cached.split.digest = True, ""
    assert cached.ask("more").status_code == 500
    assert cached.said() == "hi 6 1"
    assert cached.results() == {"hit": 1, "miss": 2}


def test_users_speak_of_an_answer_that_is_given_again_by_its_own_id_alone(cached: Cached) -> None:
    cached.start()
    first, again = cached.ask(), cached.ask()
    names = [
        {"request_id": again.headers["x-request-id"]},
        {"request_id": first.headers["x-request-id"]},
        {"id": again.json()["id"]},
    ]
    told = [cached.world.http.post("/v1/feedback", json={**one, "score": -1}) for one in names]
    assert [one.status_code for one in told] == [404, 200, 200]
    said = cached.world.labelled("llm_feedback_total", "version", "verdict")
    assert said["6", "bad"] == 1


def test_after_a_rollback_only_the_version_that_is_back_is_heard(cached: Cached) -> None:
    cached.start()
    assert cached.said() == "hi 6 1"
    cached.split.version = "7"
    assert cached.said("other") == "other 7 2"
    assert cached.said() == "hi 7 3"
    cached.split.version = "6"
    assert cached.said("other") == "other 6 4"
    cached.later(SETTLE_S)
    assert cached.said("more") == "more 6 5"  # its lease had ended
    assert cached.said() == "hi 6 1"


def test_an_answer_outlives_its_version_by_no_more_than_the_stated_time(cached: Cached) -> None:
    """Every request would be a hit, so that nothing but the time shows that another version serves."""
    cached.start({"recheck_s": RECHECK_S})
    cached.said()
    cached.split.version = "7"
    stale = 0
    while cached.said() == "hi 6 1":
        cached.later(1)
        stale += 1
    assert 0 < stale <= RECHECK_S


def test_one_request_is_sent_on_in_time_so_that_the_others_stay_hits(cached: Cached) -> None:
    cached.start({"recheck_s": RECHECK_S})
    cached.said()
    cached.later(RECHECK_S / 2)
    cached.split.is_open.clear()
    cached.split.begun.acquire()
    with ThreadPoolExecutor(1) as pool:
        renewing = pool.submit(cached.ask)
        assert cached.split.begun.acquire(timeout=10)
        for _ in range(3):
            assert cached.said() == "hi 6 1"
        cached.split.is_open.set()
        assert renewing.result(10).headers["x-shipway-cache"] == "miss"
    cached.later(RECHECK_S - 1)
    cached.said("something else")
    assert cached.said() == "hi 6 2"


def test_another_digest_under_the_same_number_is_another_version(cached: Cached) -> None:
    cached.start()
    cached.said()
    cached.split.digest = "sha256:b"
    cached.said("other")
    assert cached.said() == "hi 6 3"


def test_a_split_that_names_no_version_has_nothing_given_again(cached: Cached) -> None:
    cached.start()
    cached.split.version = None
    assert cached.said() != cached.said()
    assert cached.results() == {"miss": 2}


def test_those_who_ask_the_same_at_once_share_one_answer(cached: Cached) -> None:
    cached.start()
    cached.split.is_open.clear()
    with ThreadPoolExecutor(8) as pool:
        leader = pool.submit(cached.said)
        assert cached.split.begun.acquire(timeout=10)
        others = [pool.submit(cached.said) for _ in range(7)]
        await_in_flight(cached.world, 8)
        cached.split.is_open.set()
        assert {one.result(10) for one in (leader, *others)} == {"hi 6 1"}
    assert cached.results() == {"hit": 7, "miss": 1}
    assert cached.world.counted("6") == (1, 0)


def await_in_flight(world: World, wanted: int) -> None:
    """Returns once so many requests are under way."""
    end = time.monotonic() + 10
    in_flight = 0
    while in_flight < wanted:
        assert time.monotonic() < end, in_flight
        page = httpx2.get(f"{world.admin_url}/metrics").text
        told = page.partition('llm_inference_in_flight{endpoint="chat"} ')[2]
        in_flight = int(float(told.split()[0]))


def test_those_who_wait_for_one_that_fails_go_on_themselves(cached: Cached) -> None:
    cached.start()
    cached.split.is_open.clear()
    cached.split.fails = True
    with ThreadPoolExecutor(4) as pool:
        leader = pool.submit(cached.ask)
        assert cached.split.begun.acquire(timeout=10)
        others = [pool.submit(cached.ask) for _ in range(3)]
        await_in_flight(cached.world, 4)
        cached.split.is_open.set()
        assert leader.result(10).status_code == 500
        assert {one.result(10).status_code for one in others} == {500}
    assert cached.split.asked == 4
    assert cached.world.counted("6") == (4, 4)


def test_those_who_wait_for_one_that_leaves_go_on_themselves(cached: Cached) -> None:
    cached.start()
    cached.split.is_open.clear()
    with ThreadPoolExecutor(2) as pool:
        client = httpx2.Client(base_url=cached.world.url, timeout=2)
        headers = {"Authorization": f"Bearer {KEY}"}
        body = a_chat("hi", temperature=0)
        cached.world.sent()
        leader = pool.submit(client.post, "/v1/chat/completions", json=body, headers=headers)
        assert cached.split.begun.acquire(timeout=10)
        follower = pool.submit(cached.said)
        with pytest.raises(httpx2.TimeoutException):
            leader.result(10)
        assert cached.split.begun.acquire(timeout=10)
        cached.split.is_open.set()
        assert follower.result(10) == "hi 6 2"


def test_who_waits_for_another_and_leaves_is_charged_nothing(cached: Cached) -> None:
    cached.start(prices={"completion_micros_per_million": 1_000_000})
    cached.split.is_open.clear()
    with ThreadPoolExecutor(1) as pool:
        leader = pool.submit(cached.ask)
        assert cached.split.begun.acquire(timeout=10)
        cached.world.sent()
        headers = {"Authorization": f"Bearer {KEY}"}
        with pytest.raises(httpx2.TimeoutException):
            httpx2.post(
                f"{cached.world.url}/v1/chat/completions",
                json=a_chat("hi", temperature=0),
                headers=headers,
                timeout=2,
            )
        left = cached.world.line()
        cached.split.is_open.set()
        assert leader.result(10).status_code == 200
    assert (left["outcome"], left["cost_micros"], left["completion_tokens"]) == ("cancelled", 0, 0)
    assert cached.world.line()["cost_micros"] == 2
    page = httpx2.get(f"{cached.world.admin_url}/metrics").text
    assert 'llm_guard_key_requests_total{endpoint="chat",key="owner",version="6"} 1.0' in page
    assert 'key="owner",version="unattributed"' not in page


@pytest.mark.parametrize("is_streamed", [False, True])
def test_an_answer_that_a_rule_withholds_is_not_kept(cached: Cached, *, is_streamed: bool) -> None:
    rule = {"name": "no", "kind": "words", "words": ["secret"], "action": "refuse"}
    cached.start(output={"rules": [rule]})
    for _ in range(2):
        assert "content_filter" in cached.ask("a secret", stream=is_streamed).text
    assert cached.split.asked == 2


def test_what_is_kept_is_what_the_filters_have_left(cached: Cached) -> None:
    rule = {"name": "mail", "kind": "words", "words": ["secret"], "action": "redact"}
    cached.start(output={"rules": [rule]})
    first, second = cached.said("a secret"), cached.said("a secret")
    assert second == first
    assert "secret" not in first
    assert cached.split.asked == 1


def test_a_stream_that_broke_off_is_not_kept(cached: Cached) -> None:
    cached.start()
    for _ in range(2):
        assert "upstream_broken" in cached.ask("broken", stream=True).text
    assert cached.split.asked == 2


def test_an_error_is_not_kept(cached: Cached) -> None:
    cached.start()
    cached.split.fails = True
    assert cached.ask().status_code == 500
    cached.split.fails = False
    assert cached.said() == "hi 6 2"


def test_an_answer_that_is_too_large_is_not_kept(cached: Cached) -> None:
    cached.start()
    prompt = "x" * MAX_ANSWER_BYTES
    assert cached.said(prompt) != cached.said(prompt)


def test_a_hit_passes_keys_rules_and_rates_like_any_request(cached: Cached) -> None:
    rule = {"name": "no", "kind": "words", "words": ["bomb"], "action": "refuse"}
    cached.start(input={"rules": [rule]}, limits={"key": {"requests_per_minute": 3}})
    assert cached.ask().status_code == 200
    assert cached.ask(key="sk-unknown").status_code == 401
    assert cached.ask("a bomb").status_code == 400
    assert [cached.ask().status_code for _ in range(3)] == [200, 200, 429]


def test_processes_share_what_is_in_redis_each_by_what_it_has_seen_itself(
    start_world: Callable[..., World], cached: Cached, split: StubSplit
) -> None:
    with a_redis() as redis:
        one = cached.start({"store": "redis"}, redis_url=redis.url)
        two = Cached(start_world, cached._url, split)  # pyright: ignore[reportPrivateUsage]
        two.start({"store": "redis"}, redis_url=redis.url)
        one.said()
        while (hit := one.ask()).headers["x-shipway-cache"] != "hit":
            pass  # it is put while the client has its answer already
        before = split.asked
        two.said("who serves?")
        assert two.ask().content == hit.content
        assert split.asked == before + 1
        redis.stop()
        assert two.said().startswith("hi 6")
        assert two.results()["lost"] == 1


@pytest.mark.parametrize("is_streamed", [False, True])
def test_an_answer_that_is_only_marked_as_unfit_is_not_kept(
    cached: Cached, *, is_streamed: bool
) -> None:
    cached.start(output={"json_answers": "mark"})
    form = {"type": "json_object"}
    for _ in range(2):
        response = cached.ask("no JSON", stream=is_streamed, response_format=form)
        assert "json_answers" in response.text
    assert cached.split.asked == 2


@pytest.mark.parametrize("prompt", ["pieces", "pieces unnamed"])
@pytest.mark.parametrize("is_streamed", [False, True])
def test_triton_is_asked_once_whoever_names_the_version(
    start_world: Callable[..., World], prompt: str, *, is_streamed: bool
) -> None:
    world = start_world(protocol="triton", policy=GuardPolicy.model_validate({"cache": {}}))
    body = a_chat(prompt, temperature=0, stream=is_streamed)
    first, second = world.post(body), world.post(body)
    assert second.content == first.content
    assert second.headers["x-shipway-cache"] == "hit"
    assert second.headers["x-shipway-version"] == "7"
    assert len(world.stub.bodies) == 1
