"""POST /v1/feedback: whose word counts, on what, how often; in one guard and across two that share a Redis."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from deploy_targets import metrics
from deploy_targets.guard_policy import GuardPolicy
from tests.guard.redis_server import RedisServer, a_redis
from tests.guard.stub import COMPLETION, KEY, RAW, a_chat, keys_json
from tests.guard.two_versions import until
from tests.guard.world import World

OTHER = "sk-shipway-" + "o" * 43


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.json"
    path.write_text(keys_json(owner=KEY, other=OTHER))
    return path


def give(world: World, body: object, *, key: str = KEY) -> Any:
    world.sent()
    headers = {"Authorization": f"Bearer {key}"}
    return world.http.post("/v1/feedback", json=body, headers=headers)


def counted(world: World, name: str = metrics.FEEDBACK.name) -> dict[tuple[str, str], float]:
    told = world.labelled(name, "version", "verdict")
    return {place: count for place, count in told.items() if count}


def test_a_word_counts_for_the_version_that_answered(world: World) -> None:
    asked = world.post().headers["x-request-id"]
    response = give(world, {"request_id": asked, "score": -1, "comment": "no"})
    assert response.json() == {"object": "feedback", "request_id": asked, "verdict": "bad"}
    assert counted(world) == {("7", "bad"): 1}
    assert world.counted() == (1, 0)  # feedback is no request of a version


@pytest.mark.parametrize(
    ("score", "verdict"),
    [(1, "good"), (0, "neutral"), (-1, "bad"), ("good", "good"), ("bad", "bad")],
)
def test_a_score_is_a_number_or_a_word(world: World, score: object, verdict: str) -> None:
    asked = world.post().headers["x-request-id"]
    assert give(world, {"request_id": asked, "score": score}).json()["verdict"] == verdict


@pytest.mark.parametrize("stream", [False, True])
def test_the_answers_own_id_names_it_too(world: World, *, stream: bool) -> None:
    part = "delta" if stream else "message"
    choice = {"index": 0, part: {"content": "Paris."}, "finish_reason": "stop"}
    document = {**COMPLETION, "id": "chatcmpl-1", "choices": [choice]}
    asked = world.post(a_chat(RAW + json.dumps(document), stream=stream)).headers["x-request-id"]
    assert give(world, {"id": "chatcmpl-1", "score": 1}).json()["request_id"] == asked


def test_a_later_word_takes_the_place_of_the_earlier_one(world: World) -> None:
    asked = world.post().headers["x-request-id"]
    for score in (1, 1, -1, 0, 0):
        assert give(world, {"request_id": asked, "score": score}).status_code == 200
    given, replaced = counted(world), counted(world, metrics.FEEDBACK_REPLACED.name)
    assert given == {("7", "good"): 1, ("7", "bad"): 1, ("7", "neutral"): 1}
    assert replaced == {("7", "good"): 1, ("7", "bad"): 1}
    assert sum(given.values()) - sum(replaced.values()) == 1


def test_nobody_speaks_of_an_answer_that_another_key_has_had(world: World) -> None:
    asked = world.post().headers["x-request-id"]
    told = [
        give(world, {"request_id": name, "score": -1}, key=key)
        for name, key in ((asked, OTHER), ("0" * 32, KEY))
    ]
    assert [one.status_code for one in told] == [404, 404]
    assert told[0].json() == told[1].json()
    assert told[0].json()["error"]["code"] == "unknown_answer"
    assert counted(world) == {}


def test_without_a_key_nothing_is_taken(world: World) -> None:
    response = give(world, {"request_id": "x", "score": 1}, key="sk-none")
    assert response.status_code == 401


@pytest.mark.parametrize(
    "body",
    [
        {"score": 1},
        {"request_id": "x"},
        {"request_id": "x", "id": "x", "score": 1},
        {"request_id": "x", "score": 2},
        {"request_id": "x", "score": True},
        {"request_id": "x", "score": "fine"},
        {"request_id": 5, "score": 1},
        {"request_id": "x", "score": 1, "comment": 5},
        {"request_id": "x", "score": 1, "more": 5},
        {"request_id": "", "score": 1},
        {"request_id": "x" * 201, "score": 1},
        [],
    ],
)
def test_another_form_is_refused(world: World, body: object) -> None:
    response = give(world, body)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "invalid_request"


def test_a_field_that_is_not_known_is_not_repeated(world: World) -> None:
    name = "sk-a-key-in-the-wrong-place" * 20
    error = give(world, {"request_id": "x", "score": 1, name: 5}).json()["error"]
    assert error["message"] == "The body: has a field that is not known here."
    assert error["param"] is None


def test_a_failed_request_has_no_answer_to_speak_of(world: World) -> None:
    asked = world.post(a_chat("500")).headers["x-request-id"]
    assert give(world, {"request_id": asked, "score": -1}).status_code == 404


def test_a_comment_is_neither_logged_nor_kept(start_world: Callable[..., World]) -> None:
    with a_redis() as server:
        world = start_world(redis_url=server.url)
        asked = world.post().headers["x-request-id"]
        world.line()
        give(world, {"request_id": asked, "score": -1, "comment": "tell nobody"})
        assert "tell nobody" not in str(world.line())
        assert not any(b"tell nobody" in one for one in everything_in(server))


def everything_in(server: RedisServer) -> list[bytes]:
    import redis

    with redis.Redis.from_url(server.url) as client:
        found: Any = [(key, client.get(key), client.ttl(key)) for key in client.keys("shipway:*")]
    assert found
    assert all(0 < ttl <= 7200 for _, _, ttl in found)
    return [key + value for key, value, _ in found]


def test_guards_that_share_a_redis_take_each_others_words_and_count_each_once(
    start_world: Callable[..., World],
) -> None:
    with a_redis() as server:
        first, second = (start_world(redis_url=server.url) for _ in range(2))
        asked = first.post().headers["x-request-id"]
        assert give(first, {"request_id": asked, "score": 1}).status_code == 200
        assert give(second, {"request_id": asked, "score": -1}, key=OTHER).status_code == 404
        assert give(second, {"request_id": asked, "score": 1}).status_code == 200
        assert counted(second) == {}
        assert give(second, {"request_id": asked, "score": -1}).status_code == 200
        assert counted(first) == {("7", "good"): 1}
        assert counted(second) == {("7", "bad"): 1}
        assert counted(second, metrics.FEEDBACK_REPLACED.name) == {("7", "good"): 1}


def test_a_word_that_another_guard_has_taken_makes_the_answer_bad(
    start_world: Callable[..., World],
) -> None:
    policy = GuardPolicy.model_validate({"quality": {"feedback_wait_s": 6}})
    with a_redis() as server:
        first, second = (start_world(redis_url=server.url, policy=policy) for _ in range(2))
        word = {"request_id": first.post().headers["x-request-id"], "score": -1}
        # The answer did not wait for its write to Redis.
        until(lambda: give(second, word).status_code == 200, seconds=5)
        first.post()
        place = ("7", "chat")
        while first.samples(metrics.QUALITY_JUDGED.name)[place] < 2:
            pass
        assert first.samples(metrics.QUALITY_BAD.name)[place] == 1
        assert second.samples(metrics.QUALITY_JUDGED.name).get(place, 0) == 0


@pytest.mark.promise("answers go out")
def test_while_redis_is_gone_answers_go_out_and_feedback_is_told_so(
    start_world: Callable[..., World],
) -> None:
    with a_redis() as server:
        world = start_world(redis_url=server.url)
        server.stop()
        response = world.post()
        assert response.status_code == 200
        told = give(world, {"request_id": response.headers["x-request-id"], "score": 1})
        assert (told.status_code, told.json()["error"]["code"]) == (503, "answers_unavailable")
        lost = world.labelled(metrics.LIMITS_LOST.name, "endpoint", "what")
        assert lost["chat", "answers"] >= 2


def test_a_burst_of_answers_is_kept_over_a_few_connections(
    start_world: Callable[..., World],
) -> None:
    with a_redis() as server:
        world = start_world(redis_url=server.url)

        def ask(_: int) -> str:
            return world.http.post("/v1/chat/completions", json=a_chat()).headers["x-request-id"]

        def praise(asked: str) -> int:
            body = {"request_id": asked, "score": 1}
            return world.http.post("/v1/feedback", json=body).status_code

        with ThreadPoolExecutor(40) as pool:
            said = list(pool.map(praise, list(pool.map(ask, range(200)))))
        assert set(said) == {200}
        assert counted(world) == {("7", "good"): 200}
        lost = world.labelled(metrics.LIMITS_LOST.name, "endpoint", "what")
        assert lost["chat", "answers"] == 0
