"""A request that a dying version failed before its first byte is answered by the champion, and counted against who failed."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from deploy_targets.guard.second_try import Serving
from deploy_targets.guard.steps import steps_of
from deploy_targets.guard_policy import GuardPolicy
from tests.guard.stub import COMPLETION, DONE, FAULT, a_chat, chunk, served
from tests.guard.two_versions import page_counts, until
from tests.guard.world import World

COMPARED = "llm_shadow_compared_total"
CHAMPION, CHALLENGER = "6", "7"


class Split:
    """Draws the version that it is told to, or obeys a pin; each version behaves as it is told."""

    def __init__(self) -> None:
        self.draws = CHAMPION
        self.behaves = {CHAMPION: "ok", CHALLENGER: "ok"}
        self.pause_s = 0.0
        self.asked: list[str] = []
        self.app = Starlette(routes=[Route("/v1/chat/completions", self._chat, methods=["POST"])])

    async def _chat(self, request: Request) -> Response:
        version = request.headers.get("x-shipway-version", self.draws)
        self.asked.append(version)
        await asyncio.sleep(self.pause_s)
        if version not in self.behaves:
            return PlainTextResponse("not deployed", status_code=404)
        is_streamed = (await request.json()).get("stream")
        return _answer(self.behaves[version], version, is_streamed=bool(is_streamed))


_SAID: dict[str, tuple[int, str]] = {
    "dead": (503, "upstream connect error or disconnect/reset before headers"),
    "replica lost": (500, "Internal Server Error"),
    "fails": (500, json.dumps(FAULT)),
    "full": (503, "Request dropped due to backpressure (num_queued_requests=1, ...)."),
}


def _answer(behaviour: str, version: str, *, is_streamed: bool) -> Response:
    said = {"x-shipway-version": version}
    if behaviour == "nameless":
        return PlainTextResponse("no healthy upstream", status_code=503)
    if behaviour in _SAID:
        status, words = _SAID[behaviour]
        return PlainTextResponse(words, status_code=status, headers=said)
    events = {"cut": _cut(), "cut later": _cut(chunk("Par"))}.get(behaviour)
    if events is None and not is_streamed:
        return JSONResponse(COMPLETION, headers=said)
    events = events or iter((chunk("Paris."), DONE))
    return StreamingResponse(events, media_type="text/event-stream", headers=said)


async def _cut(*before: bytes) -> AsyncIterator[bytes]:
    for piece in before:
        yield piece
    raise ConnectionAbortedError


@pytest.fixture
def split() -> Split:
    return Split()


@pytest.fixture
def world(split: Split, start_world: Callable[..., World]) -> Iterator[World]:
    """The guard has had one answer of the champion, and the challenger is drawn from now on."""
    with served() as serve:
        world = start_world(upstream_url=serve(split.app))
        assert world.post().status_code == 200
        world.line()
        split.draws = CHALLENGER
        yield world
        world.stop()


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("behaviour", ["dead", "replica lost", "cut"])
def test_a_dying_challengers_client_gets_the_champions_answer(
    world: World, split: Split, behaviour: str, *, is_streamed: bool
) -> None:
    split.behaves[CHALLENGER] = behaviour

    response = world.post(a_chat(stream=is_streamed))

    assert response.status_code == 200
    assert "Paris." in response.text
    assert response.headers["x-shipway-version"] == CHAMPION
    assert split.asked == [CHAMPION, CHALLENGER, CHAMPION]
    line = world.line()
    assert (line["version"], line["route"], line["outcome"]) == (CHAMPION, "retry", "answered")
    code = "upstream_broken" if behaviour == "cut" else "version_died"
    assert (line["failed_first"], line["failed_with"]) == (CHALLENGER, code)


def test_the_first_try_counts_against_its_version_and_the_second_is_not_compared(
    world: World, split: Split
) -> None:
    split.behaves[CHALLENGER] = "dead"

    for _ in range(3):
        world.post()

    assert world.counted(CHALLENGER) == (3, 3)
    assert world.counted(CHAMPION) == (1, 0)
    assert world.counted(CHAMPION, route="retry") == (3, 0)
    assert world.samples("llm_inference_duration_seconds_count")[CHALLENGER, "chat"] == 3


def test_a_dying_champions_clients_are_not_put_on_the_challenger(
    world: World, split: Split
) -> None:
    split.draws = CHAMPION
    for _ in range(3):
        world.post()
    split.draws = CHALLENGER
    world.post()
    split.draws, split.behaves[CHAMPION] = CHAMPION, "dead"

    response = world.post()

    assert (response.status_code, response.headers["x-shipway-version"]) == (503, CHAMPION)
    assert world.counted(CHAMPION) == (5, 1)


def test_there_is_no_third_try(world: World, split: Split) -> None:
    split.behaves = {CHAMPION: "dead", CHALLENGER: "dead"}

    response = world.post()

    assert (response.status_code, response.headers["x-shipway-version"]) == (503, CHAMPION)
    assert split.asked == [CHAMPION, CHALLENGER, CHAMPION]
    assert world.counted(CHALLENGER) == (1, 1)
    assert world.counted(CHAMPION, route="retry") == (1, 1)


@pytest.mark.parametrize(
    ("behaviour", "status", "version"), [("fails", 500, CHALLENGER), ("nameless", 503, None)]
)
def test_what_a_version_says_itself_and_what_names_none_reaches_the_client(
    world: World, split: Split, behaviour: str, status: int, version: str | None
) -> None:
    split.behaves[CHALLENGER] = behaviour

    response = world.post()

    assert (response.status_code, response.headers.get("x-shipway-version")) == (status, version)
    assert len(split.asked) == 2
    assert world.counted(version or "unattributed") == (1, 1)


def test_a_full_queue_is_no_death_and_counts_as_one(world: World, split: Split) -> None:
    split.behaves[CHALLENGER] = "full"

    response = world.post()

    assert (response.status_code, response.json()["error"]["code"]) == (503, "queue_full")
    assert len(split.asked) == 2
    assert world.counted(CHALLENGER) == (1, 1)
    assert world.samples("llm_inference_queue_full_total")[CHALLENGER, "chat"] == 1


def test_what_a_rule_has_redacted_of_the_prompt_counts_with_a_second_try_as_well(
    split: Split, start_world: Callable[..., World]
) -> None:
    rule = {"name": "pii", "kind": "personal_data", "action": "redact"}
    policy = GuardPolicy.model_validate({"input": {"rules": [rule]}})
    with served() as serve:
        world = start_world(upstream_url=serve(split.app), policy=policy, steps=steps_of(policy))
        world.post()
        split.draws, split.behaves[CHALLENGER] = CHALLENGER, "dead"

        assert world.post(a_chat("mail ann@example.com")).status_code == 200

        assert world.counted(CHAMPION, route="retry") == (1, 0)
        assert world.labelled("llm_guard_rules_total", "rule", "action")["pii", "redacted"] == 1
        world.stop()


def test_a_second_try_is_not_asked_of_the_challenger_once_more(
    split: Split, start_world: Callable[..., World]
) -> None:
    policy = GuardPolicy.model_validate({"shadow": {"sample": 1}})
    with served() as serve:
        world = start_world(upstream_url=serve(split.app), policy=policy)
        world.post()
        word = {"version": CHALLENGER, "for_s": 60}
        httpx2.put(f"{world.admin_url}/shadow", json=word).raise_for_status()
        split.draws, split.behaves[CHALLENGER] = CHALLENGER, "dead"
        world.post()
        split.draws = CHAMPION
        world.post()
        until(lambda: bool(page_counts(world.admin_url, COMPARED, "result", version=CHALLENGER)))

        assert split.asked == [CHAMPION, CHALLENGER, CHAMPION, CHAMPION, CHALLENGER]
        world.stop()


def test_a_stream_that_breaks_after_its_first_event_is_not_begun_again(
    world: World, split: Split
) -> None:
    split.behaves[CHALLENGER] = "cut later"

    response = world.post(a_chat(stream=True))

    assert "Par" in response.text
    assert "upstream_broken" in response.text
    assert len(split.asked) == 2
    assert world.counted(CHALLENGER) == (1, 1)


def test_a_pinned_request_stays_with_its_version(world: World, split: Split) -> None:
    split.behaves[CHALLENGER] = "dead"

    response = world.post(**{"x-shipway-version": CHALLENGER})

    assert response.status_code == 503
    assert split.asked == [CHAMPION, CHALLENGER]
    assert world.counted(CHALLENGER, route="pinned") == (1, 1)


def test_where_the_champion_has_gone_the_first_failure_stands(world: World, split: Split) -> None:
    split.behaves = {CHALLENGER: "dead"}

    response = world.post()

    assert (response.status_code, response.json()["error"]["code"]) == (503, "version_died")
    assert world.counted(CHALLENGER) == (1, 1)
    assert world.counted("unattributed", route="retry") == (1, 1)


def test_once_half_of_the_time_is_over_there_is_no_second_try(
    split: Split, start_world: Callable[..., World]
) -> None:
    with served() as serve:
        world = start_world(upstream_url=serve(split.app), timeout_s=4)
        world.post()
        split.draws, split.behaves[CHALLENGER], split.pause_s = CHALLENGER, "dead", 2.2

        response = world.post()

        assert (response.status_code, response.headers["x-shipway-version"]) == (503, CHALLENGER)
        assert len(split.asked) == 2
        world.stop()


@given(st.lists(st.sampled_from("67"), min_size=1))
def test_at_one_moment_the_champion_is_who_has_answered_most(answers: list[str]) -> None:
    serving = Serving()

    for version in answers:
        serving.answered(version, now=5.0)

    most = serving.most(now=5.0)
    assert most is not None
    assert answers.count(most) * 2 >= len(answers)


def test_what_is_long_ago_weighs_little_and_is_forgotten_in_the_end() -> None:
    serving = Serving()
    for _ in range(50):
        serving.answered("6", now=0.0)

    for second in range(20):
        serving.answered("7", now=300.0 + second)

    assert serving.most(now=320.0) == "7"
    assert serving.most(now=1320.0) is None
