"""What the signals find, and that they hold nothing back."""

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy_targets.guard.json_answers import json_check
from deploy_targets.guard.quality import AnswerWatch, is_loop, signs_of
from deploy_targets.quality_policy import QualityPolicy, Signal

SIGNS = signs_of(QualityPolicy())
PROSE = (
    "The capital of France is Paris. It lies on the Seine, and it has been the capital since the tenth century, with "
    "some interruptions. About two million people live in the city itself, and eleven in the region around it."
)

CITIES = (
    "Paris",
    "Lyon",
    "Marseille",
    "Toulouse",
    "Nice",
    "Nantes",
    "Montpellier",
    "Bordeaux",
    "Lille",
    "Rennes",
)


def a_watch(policy: QualityPolicy | None = None, **asked: Any) -> AnswerWatch:
    signs = SIGNS if policy is None else signs_of(policy)
    return AnswerWatch(signs, json_check=json_check(asked), begun=lambda _: None)


def whole(content: str | None, *, finish: str = "stop", **message: Any) -> dict[str, Any]:
    said = {"role": "assistant", "content": content, **message}
    return {"id": "c", "choices": [{"index": 0, "message": said, "finish_reason": finish}]}


def signals(document: dict[str, Any], watch: AnswerWatch | None = None) -> set[str]:
    watch = watch or a_watch()
    watch.whole(document)
    assert watch.has_ended
    return {str(one) for one in watch.signals()}


@pytest.mark.parametrize(
    ("content", "seen"),
    [
        (PROSE, set()),
        ("Paris.", set()),
        ("4", set()),
        ("", {"empty"}),
        (None, {"empty"}),
        (" \n\t", {"empty"}),
        ("!" * 100, {"loop"}),
        ("\n" * 100, {"empty", "loop"}),
        ("Paris." + "\n" * 100, {"loop"}),
        (PROSE + " and so on" * 12, {"loop"}),
        (PROSE + " and so on" * 12 + " and s", {"loop"}),
        (PROSE + " and so on" * 12 + "\n", {"loop"}),
        (PROSE + (PROSE + " ") * 5, {"loop"}),
        ("no " * 20, set()),
        (PROSE * 3, set()),
        (" and so on" * 12 + PROSE, set()),
        ("\n".join(f"{n}. a line like the others" for n in range(50)), {"loop"}),
        (PROSE + "\n\n I\n\n\n not not.\n\n I, I\n\n\n\n not.\n" * 2 + "\n \n" * 40, {"loop"}),
        ("\n".join(f"| {city} | {n * 7919 % 1000} |" for n, city in enumerate(CITIES)), set()),
        ("I'm sorry, but I can't assist with that request.", {"refusal"}),
        ("I\u2019m sorry, but I cannot help with that.", {"refusal"}),
        ("**I cannot provide medical advice.**", {"refusal"}),
        ("As an AI language model, I don't have feelings.", {"refusal"}),
        ("Unfortunately, I am unable to answer.", {"refusal"}),
        ("I can't believe how lovely Paris is.", set()),
        ("Sorry for the delay: it is Paris.", set()),
        ("Paris. I cannot help you further.", set()),
        ("As an AI enthusiast, I do not mind.", set()),
    ],
)
def test_an_answer_shows_what_is_wrong_with_it(content: str | None, seen: set[str]) -> None:
    assert signals(whole(content)) == seen


def test_what_a_model_says_of_itself_counts_before_any_pattern() -> None:
    assert signals(whole("Paris is the", finish="length")) == {"truncated"}
    assert signals(whole(None, refusal="No.")) == {"refusal"}
    assert signals(whole("Well.", finish="content_filter")) == {"refusal"}
    assert signals(whole(None, finish="tool_calls", tool_calls=[{"id": "1"}])) == set()


def test_json_is_looked_at_where_it_was_asked_for_and_was_not_cut_off() -> None:
    asked = {"response_format": {"type": "json_object"}}
    assert signals(whole('{"a": 1}'), a_watch(**asked)) == set()
    assert signals(whole("a: 1"), a_watch(**asked)) == {"invalid_json"}
    assert signals(whole('{"a": 1', finish="length"), a_watch(**asked)) == {"truncated"}
    assert signals(whole("a: 1")) == set()
    assert (
        signals(
            whole(json.dumps({"a": random.Random(1).sample(range(10**6), 25_000)})),
            a_watch(**asked),
        )
        == set()
    )


def test_an_answer_is_as_bad_as_the_worst_of_its_choices() -> None:
    document = whole("Paris.")
    document["choices"].append({"index": 1, "message": {"content": ""}, "finish_reason": "length"})
    assert signals(document) == {"empty", "truncated"}


def test_a_policy_moves_the_thresholds_and_adds_phrases() -> None:
    strict = QualityPolicy(
        min_chars=5, loop_repeats=3, loop_chars=20, refusal_patterns=("es tut mir leid",)
    )
    assert signals(whole("4"), a_watch(strict)) == {"empty"}
    assert signals(whole("no no no no no no no "), a_watch(strict)) == {"loop"}
    assert signals(whole("Es tut mir leid, nein."), a_watch(strict)) == {"refusal"}
    assert signals(whole("I cannot help."), a_watch(strict)) == {"refusal"}


@given(
    st.text(max_size=200),
    st.text(min_size=1, max_size=40),
    st.integers(4, 30),
    st.integers(2, 6),
    st.integers(20, 200),
)
def test_every_repeated_end_is_a_loop(
    before: str, unit: str, more: int, repeats: int, chars: int
) -> None:
    times = repeats + chars // len(unit) + more
    assert is_loop(before + unit * times, repeats=repeats, chars=chars)
    assert is_loop(before + unit * times + unit[: len(unit) // 2], repeats=repeats, chars=chars)


@given(st.lists(st.integers(0, 10**6), min_size=60, max_size=400, unique=True))
def test_words_that_are_all_different_are_no_loop(words: list[int]) -> None:
    assert not is_loop(" ".join(map(str, words)), repeats=4, chars=100)


@given(st.text(max_size=400), st.integers(1, 30))
def test_a_stream_shows_what_the_whole_answer_would(text: str, size: int) -> None:
    watch = a_watch()
    for at in range(0, len(text), size):
        piece = {"index": 0, "delta": {"content": text[at : at + size]}, "finish_reason": None}
        watch.event({"id": "c", "choices": [piece]})
        assert not watch.has_ended
    watch.event({"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    assert watch.has_ended
    assert {str(one) for one in watch.signals()} == signals(whole(text))


def test_of_a_long_answer_its_beginning_and_its_end_are_kept() -> None:
    watch = a_watch()
    for text in ("I cannot help with that. ", *[PROSE] * 2_000, *[" and so on"] * 40):
        watch.event({"id": "c", "choices": [{"index": 0, "delta": {"content": text}}]})
    watch.end()
    assert watch.signals() == {Signal.REFUSAL, Signal.LOOP}
    assert sum(len(part) for one in watch._choices.values() for part in one.parts) <= 8_000


def test_a_stream_of_nothing_at_all_is_empty() -> None:
    watch = a_watch()
    watch.end()
    assert (watch.has_ended, watch.signals()) == (True, {Signal.EMPTY})


def test_the_answers_id_is_told_once_and_before_anything_goes_on() -> None:
    told: list[str] = []
    watch = AnswerWatch(SIGNS, json_check=None, begun=told.append)
    for answer_id in ("chatcmpl-1", "chatcmpl-2"):
        watch.event({"id": answer_id, "choices": [{"index": 0, "delta": {"content": "x"}}]})
        assert told == ["chatcmpl-1"]
    watch.end()
    assert told == ["chatcmpl-1"]
