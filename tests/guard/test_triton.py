"""The guard before a stub Triton: clients speak OpenAI's protocol, and no failure passes for an answer."""

import json
from collections.abc import Callable

import httpx2
import openai
import pytest

from tests.guard.stub import ENDPOINT, KEY, a_chat
from tests.guard.test_app import error_of, hang_up
from tests.guard.world import World

ANSWERED = ["whole", "pieces", "an empty end", "no last line end", "torn"]
FAILS_AT_ONCE = [
    "error", "cached failure", "nothing", "garbage", "another model", "no object", "endless line",
    "400", "404 of Triton",
]  # fmt: skip


@pytest.fixture
def world(start_world: Callable[..., World]) -> World:
    return start_world(protocol="triton")


def events_of(answer: httpx2.Response) -> list[str]:
    return [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]


@pytest.mark.parametrize("asked", ANSWERED)
def test_an_answer_comes_whole_with_its_usage_however_triton_sends_it(world: World, asked) -> None:
    answer = world.post(a_chat(asked))

    body, line = answer.json(), world.line()
    assert (answer.status_code, answer.headers["x-shipway-version"]) == (200, "7")
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "Paris."}
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    assert (body["model"], body["id"]) == (ENDPOINT, f"chatcmpl-{line['request_id']}")
    assert world.counted() == (1, 0)


@pytest.mark.parametrize("asked", ANSWERED)
def test_an_answer_is_streamed_however_triton_sends_it(world: World, asked) -> None:
    answer = world.post(a_chat(asked, stream=True, stream_options={"include_usage": True}))

    *events, end = events_of(answer)
    documents = [json.loads(event) for event in events]
    choices = [one["choices"][0] for one in documents if one["choices"]]
    assert "".join(choice["delta"].get("content", "") for choice in choices) == "Paris."
    assert [choice["finish_reason"] for choice in choices][-1] == "stop"
    assert documents[-1]["usage"]["completion_tokens"] == 2
    assert end == "[DONE]"
    assert world.line()["outcome"] == "answered"
    assert world.counted() == (1, 0)


def test_a_stream_is_passed_on_while_it_goes_on(world: World) -> None:
    body = a_chat("break", stream=True)
    with world.http.stream("POST", "/v1/chat/completions", json=body) as answer:
        first = next(answer.iter_raw())
    assert b'"content": "Par"' in first


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("asked", FAILS_AT_ONCE)
def test_what_fails_at_once_is_a_500_of_its_version_whatever_triton_says(
    world: World, asked: str, *, is_streamed: bool
) -> None:
    answer = world.post(a_chat(asked, stream=is_streamed))

    assert answer.status_code == 500
    assert error_of(answer)["message"].startswith("The engine failed: ")
    assert error_of(answer)["type"] == "server_error"
    assert answer.headers["x-shipway-version"] == "7"
    assert world.line()["outcome"] == "failed"
    assert world.counted() == (1, 1)


@pytest.mark.parametrize(
    ("asked", "status", "counted"),
    [("503", 503, (1, 1)), ("503 of the split", 503, (1, 1)), ("404 of the split", 404, None)],
)
def test_a_status_that_says_so_itself_is_kept(world: World, asked: str, status, counted) -> None:
    answer = world.post(a_chat(asked))

    assert answer.status_code == status
    assert error_of(answer)
    assert world.counted() == counted


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ("error under way", "engine_failed"),
        ("no end", "engine_failed"),
        ("refused under way", "engine_failed"),
        ("break", "upstream_broken"),
    ],
)
@pytest.mark.parametrize("is_streamed", [False, True])
def test_what_fails_under_way_is_an_error_of_its_version(
    world: World, asked: str, code: str, *, is_streamed: bool
) -> None:
    world.stub.go_on.set()
    answer = world.post(a_chat(asked, stream=is_streamed))

    if is_streamed:
        *_, last = events_of(answer)
        assert answer.status_code == 200
        assert "Par" in answer.text
        assert json.loads(last)["error"]["code"] == code
    else:
        assert answer.status_code >= 500
        assert error_of(answer)["code"] == code
    line = world.line()
    assert (line["outcome"], line["error"]) == ("failed", code)
    assert world.counted() == (1, 1)


@pytest.mark.parametrize("is_streamed", [False, True])
def test_what_the_model_refuses_is_an_answer_and_the_clients_fault(
    world: World, *, is_streamed: bool
) -> None:
    answer = world.post(a_chat("refused", stream=is_streamed))

    error = error_of(answer)
    assert answer.status_code == 400
    assert (error["message"], error["param"]) == ("too long", "messages")
    assert error["type"] == "invalid_request_error"
    assert world.line()["outcome"] == "answered"
    assert world.counted() == (1, 0)


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize(
    ("asked", "counted"),
    [
        ("pieces", (1, 0)),
        ("cached failure", (1, 1)),
        ("error under way", (1, 1)),
        ("refused", (1, 0)),
    ],
)
def test_where_the_split_names_no_version_the_answer_itself_does(
    world: World, asked: str, counted, *, is_streamed: bool
) -> None:
    answer = world.post(a_chat(f"{asked} unnamed", stream=is_streamed))

    assert answer.headers["x-shipway-version"] == "7"
    assert world.counted() == counted


@pytest.mark.parametrize("asked", ["error", "break at once"])
def test_a_failure_that_nothing_names_a_version_for_is_counted_as_such(world: World, asked) -> None:
    answer = world.post(a_chat(f"{asked} unnamed"))

    assert "x-shipway-version" not in answer.headers
    assert world.counted("unattributed") == (1, 1)
    assert world.counted() is None


def test_pinned_requests_go_on_with_their_pin(world: World) -> None:
    world.post(a_chat("whole"), **{"x-shipway-version": "7"})
    assert world.stub.headers[0]["x-shipway-version"] == "7"
    assert world.counted(route="pinned") == (1, 0)


def test_equal_greedy_requests_are_equal_to_tritons_cache_and_sampled_ones_never_are(
    world: World,
) -> None:
    for temperature in (0, 0, 0.7, 0.7):
        world.post(a_chat("whole", temperature=temperature))
    greedy, again, sampled, other = world.stub.bodies
    assert greedy == again
    assert sampled != other


def test_what_cannot_be_translated_is_a_clear_400_and_goes_nowhere(world: World) -> None:
    answer = world.post(a_chat("whole", stop=[""]))
    assert answer.status_code == 400
    assert str(error_of(answer)["param"]).startswith("stop")
    assert not world.stub.bodies
    assert world.line()["outcome"] == "refused"


def test_a_client_that_leaves_a_stream_ends_the_work_and_counts_as_nothing(world: World) -> None:
    hang_up(world, a_chat("drip", stream=True), after=b'"x"')
    assert world.line()["outcome"] == "cancelled"
    assert world.stub.ended.wait(10)
    assert world.counted() == (0, 0)


def test_a_client_that_does_not_wait_for_its_whole_answer_ends_the_work(world: World) -> None:
    hang_up(world, a_chat("drip"))
    assert world.line()["outcome"] == "cancelled"
    assert world.stub.ended.wait(10)


@pytest.mark.parametrize("is_streamed", [False, True])
def test_an_answer_past_its_time_is_an_error_of_its_version_and_ends_the_work(
    start_world: Callable[..., World], *, is_streamed: bool
) -> None:
    world = start_world(protocol="triton", timeout_s=2)
    answer = world.post(a_chat("drip", stream=is_streamed))
    assert "upstream_timeout" in answer.text
    assert answer.status_code == (200 if is_streamed else 504)
    assert world.stub.ended.wait(10)
    assert world.counted() == (1, 1)


def test_openais_own_client_works(world: World) -> None:
    with openai.OpenAI(
        base_url=f"{world.url}/v1", api_key=KEY, max_retries=0, timeout=20
    ) as client:
        asked = {"model": ENDPOINT, "messages": [{"role": "user", "content": "pieces"}]}
        whole = client.chat.completions.create(**asked)
        chunks = list(client.chat.completions.create(**asked, stream=True))
    assert whole.choices[0].message.content == "Paris."
    assert "".join(one.choices[0].delta.content or "" for one in chunks) == "Paris."
