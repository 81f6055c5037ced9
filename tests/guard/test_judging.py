"""Every answer is looked at, and each is judged once; by a guard on loopback in front of a stub engine."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from deploy_targets import metrics
from deploy_targets.guard import judging as judging_module
from deploy_targets.guard.answered import Answered, AnswersHere
from deploy_targets.guard.counters import Counters
from deploy_targets.guard.exchange import Exchange
from deploy_targets.guard.judging import Judging, signs_for
from deploy_targets.guard.outcome import Outcome
from deploy_targets.guard.steps import steps_of
from deploy_targets.guard.wire import parse_chat
from deploy_targets.guard_policy import GuardPolicy
from deploy_targets.quality_policy import QualityPolicy
from tests.guard.stub import RAW, SAY, a_chat
from tests.guard.world import World

LOOP = SAY + "again and " * 20
JUDGED = GuardPolicy.model_validate({"quality": {}})


def judged(world: World, route: str = "chat") -> tuple[float, float]:
    """(judged, bad) of version 7."""
    key = ("7", route)
    return (
        world.samples(metrics.QUALITY_JUDGED.name)[key],
        world.samples(metrics.QUALITY_BAD.name)[key],
    )


def shown(world: World) -> dict[str, float]:
    """The signals that version 7 has shown."""
    told = world.labelled(metrics.QUALITY_SIGNALS.name, "version", "signal")
    return {signal: count for (version, signal), count in told.items() if version == "7" and count}


@pytest.mark.parametrize("stream", [False, True])
def test_each_answer_is_judged_once_and_the_bad_ones_are_told(
    start_world: Callable[..., World], *, stream: bool
) -> None:
    world = start_world(policy=JUDGED)
    for said in (SAY + "Paris.", LOOP, SAY, SAY + "I'm sorry, but I cannot help with that."):
        assert world.post(a_chat(said, stream=stream)).status_code == 200
    assert judged(world) == (4, 2)
    assert shown(world) == {"loop": 1, "empty": 1, "refusal": 1}
    assert world.counted() == (4, 0)


def test_without_a_policy_signals_are_counted_and_nothing_is_judged(world: World) -> None:
    world.post(a_chat(LOOP))
    assert judged(world) == (0, 0)
    assert shown(world) == {"loop": 1}


def test_all_series_of_a_version_are_there_with_its_first_answer(world: World) -> None:
    world.post()
    world.line()
    signals = world.labelled(metrics.QUALITY_SIGNALS.name, "version", "signal")
    assert {version for version, _ in signals} == {"7", metrics.UNATTRIBUTED}
    assert len(signals) == 10
    for name in (metrics.FEEDBACK.name, metrics.FEEDBACK_REPLACED.name):
        assert len(world.labelled(name, "version", "verdict")) == 6


@pytest.mark.parametrize("asked", ["500", "error in 200", "garbage", "429", "truncate"])
def test_what_is_no_answer_is_not_judged(start_world: Callable[..., World], asked: str) -> None:
    world = start_world(policy=JUDGED)
    world.post(a_chat(asked, stream=asked == "truncate"))
    assert judged(world) == (0, 0)
    assert world.counted() is not None


def test_a_pinned_request_is_judged_apart(start_world: Callable[..., World]) -> None:
    world = start_world(policy=JUDGED)
    world.post(a_chat(LOOP), **{"x-shipway-version": "7"})
    assert judged(world, "pinned") == (1, 1)
    assert judged(world, "chat") == (0, 0)


def test_an_answer_that_its_client_has_left_is_not_judged(
    start_world: Callable[..., World],
) -> None:
    world = start_world(policy=JUDGED)
    body = a_chat("drip", stream=True)
    world.sent()
    with world.http.stream("POST", "/v1/chat/completions", json=body) as response:
        next(response.iter_bytes())
    assert world.line()["outcome"] == "cancelled"
    world.post()
    assert judged(world) == (1, 0)


def test_one_that_was_left_because_it_went_round_in_a_loop_is_bad(
    start_world: Callable[..., World],
) -> None:
    """`long` says x without end."""
    world = start_world(policy=JUDGED)
    body = a_chat("long", stream=True)
    world.sent()
    with world.http.stream("POST", "/v1/chat/completions", json=body) as response:
        read = 0
        for piece in response.iter_bytes():
            if (read := read + len(piece)) > 100_000:
                break
    assert world.line()["outcome"] == "cancelled"
    assert judged(world) == (1, 1)
    assert shown(world) == {"loop": 1}


RULES = {"rules": [{"name": "no-x", "kind": "words", "words": ["secret"], "action": "refuse"}]}


def test_an_answer_that_a_filter_cuts_off_on_its_way_is_not_judged(
    start_world: Callable[..., World],
) -> None:
    policy = GuardPolicy.model_validate({"quality": {}, "output": RULES})
    world = start_world(policy=policy, steps=steps_of(policy))
    response = world.post(a_chat(SAY + "a secret " + "again and " * 2000, stream=True))
    assert "no-x" in response.text
    assert judged(world) == (0, 0)
    world.post(a_chat(SAY + "nothing to hide", stream=True))
    assert judged(world) == (1, 0)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("mode", ["off", "mark", "refuse"])
def test_an_answer_that_is_not_the_json_that_was_asked_for_is_bad_whatever_becomes_of_it(
    start_world: Callable[..., World], mode: str, *, stream: bool
) -> None:
    policy = GuardPolicy.model_validate({"quality": {}, "output": {"json_answers": mode}})
    world = start_world(policy=policy, steps=steps_of(policy))
    form = {"response_format": {"type": "json_object"}}
    world.post(a_chat(SAY + '{"a": 1}', stream=stream, **form))
    world.post(a_chat(SAY + "a: 1", stream=stream, **form))
    assert judged(world) == (2, 1)
    assert shown(world) == {"invalid_json": 1}


def test_a_response_format_that_is_none_is_no_failure_of_the_guard(world: World) -> None:
    assert world.post(a_chat(response_format={"type": "xml"})).status_code == 200


def test_judging_changes_no_byte_of_a_stream(start_world: Callable[..., World]) -> None:
    raw = RAW + json.dumps({"choices": [{"index": 0, "delta": {"content": "\u00e9  "}}]})
    texts = [
        start_world(policy=policy).post(a_chat(raw, stream=True)).content
        for policy in (GuardPolicy(), JUDGED)
    ]
    assert texts[0] == texts[1]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Court:
    """Answers that wait for their users' word."""

    def __init__(self) -> None:
        self.clock = Clock()
        registry = CollectorRegistry()
        self.counters = Counters(registry, endpoint="chat")
        self.answers = AnswersHere(clock=self.clock)
        policy = QualityPolicy(feedback_wait_s=60)
        self.judging = Judging(
            policy, signs_for(policy), self.counters, self.answers, clock=self.clock
        )
        self._registry = registry

    def answer(self, name: str, text: str) -> None:
        asked = parse_chat(json.dumps(a_chat()).encode())
        exchange = Exchange(request_id=name, route="chat", version="7")
        watch = exchange.watch = self.judging.watch(asked, exchange)
        exchange.decide(Outcome.ANSWERED)
        watch.whole({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]})
        self.judging.ended(exchange)

    async def say(self, name: str, verdict: str) -> None:
        assert await self.answers.say(name, key="anybody", verdict=verdict)

    async def until(self, judged: int) -> tuple[float, float]:
        """(judged, bad), once so many are judged."""
        async with asyncio.timeout(20):
            while (seen := self.judged)[0] < judged:
                await asyncio.sleep(0.01)
        return seen

    @property
    def judged(self) -> tuple[float, float]:
        labels = {"endpoint": "chat", "version": "7", "route": "chat"}
        series = (metrics.QUALITY_JUDGED.name, metrics.QUALITY_BAD.name)
        judged, bad = (self._registry.get_sample_value(one, labels) or 0.0 for one in series)
        return judged, bad


def test_an_answer_waits_for_its_users_word_and_is_judged_once_by_the_last_one() -> None:
    async def story() -> None:
        court = Court()
        for name in ("good", "bad", "changed", "silent"):
            court.answer(name, "Paris.")
        court.answer("praised loop", "again and " * 20)
        for name, verdict in (
            ("good", "good"),
            ("bad", "bad"),
            ("changed", "bad"),
            ("changed", "neutral"),
            ("praised loop", "good"),
        ):
            await court.say(name, verdict)
        await asyncio.sleep(0.05)
        assert court.judged == (0, 0)
        court.clock.now = 60
        assert await court.until(5) == (5, 2)
        await court.say("silent", "bad")
        court.answer("next", "Paris.")
        court.clock.now = 120
        assert await court.until(6) == (6, 2)
        await court.judging.aclose()

    asyncio.run(story())


def test_past_the_bound_the_oldest_waits_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging_module, "_MOST_WAITING", 3)

    async def story() -> None:
        court = Court()
        for number in range(5):
            court.answer(str(number), "Paris.")
        assert await court.until(2) == (2, 0)
        await asyncio.sleep(0.05)
        assert court.judged == (2, 0)
        await court.judging.aclose()

    asyncio.run(story())


def test_here_the_last_20_000_answers_are_kept_for_an_hour() -> None:
    async def story() -> None:
        clock = Clock()
        answers = AnswersHere(clock=clock)

        async def knows(name: str) -> bool:
            return await answers.say(name, key="k", verdict="bad") is not None

        for number in range(20_001):
            answered = Answered(request_id=f"r{number}", key="k", version="7")
            answers.keep(answered, answer_id=f"chatcmpl-{number}")
        assert not await knows("r0")
        assert not await knows("chatcmpl-0")
        assert await knows("r1")
        assert await knows("chatcmpl-20000")
        clock.now = 3600
        assert not await knows("r1")
        answers.keep(Answered(request_id="new", key="k", version="7"), answer_id="x" * 201)
        assert len(answers._by_name) == 1

    asyncio.run(story())


def test_a_word_is_known_for_longer_than_its_answer_so_that_a_late_judge_hears_it() -> None:
    async def story() -> None:
        clock = Clock()
        answers = AnswersHere(clock=clock)
        answers.keep(Answered(request_id="first", key="k", version="7"), answer_id="c")
        assert await answers.say("first", key="k", verdict="bad") is not None
        clock.now = 3600
        for number in range(20_001):
            answered = Answered(request_id=f"r{number}", key="k", version="7")
            answers.keep(answered, answer_id="")
        assert await answers.say("first", key="k", verdict="good") is None
        assert await answers.said(["first", "r0"]) == ["bad", None]
        for number in range(1, 20_001):
            await answers.say(f"r{number}", key="k", verdict="bad")
        assert await answers.said(["first", "r20000"]) == [None, "bad"]

    asyncio.run(story())


def test_an_id_that_two_answers_share_means_the_later_one() -> None:
    async def story() -> None:
        answers = AnswersHere(clock=Clock())
        for version in ("6", "7"):
            answered = Answered(request_id=f"r{version}", key="k", version=version)
            answers.keep(answered, answer_id="c")
        said: Any = await answers.say("c", key="k", verdict="bad")
        assert said.answered.version == "7"

    asyncio.run(story())
