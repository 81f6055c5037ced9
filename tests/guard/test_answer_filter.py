"""An answer's documents behind the rules: which fields, which choices, how they end."""

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy_targets.guard.answer_filter import AnswerFilter
from deploy_targets.guard.json_answers import JsonCheck
from tests.guard.filter_rules import rules

RULES = rules(
    {"kind": "regex", "name": "abc", "pattern": "abc", "replacement": "*"},
    {"kind": "regex", "name": "end", "pattern": "xyz", "action": "refuse"},
)


class Heard:
    def __init__(self) -> None:
        self.redactions: Counter[str] = Counter()
        self.refusals: list[str] = []
        self.unfits = 0

    def redacted(self, rule: str) -> None:
        self.redactions[rule] += 1

    def refused(self, rule: str) -> None:
        self.refusals.append(rule)

    def unfit(self) -> None:
        self.unfits += 1


def a_filter(heard: Heard | None = None, *, json: bool = False) -> AnswerFilter:
    return AnswerFilter(RULES, json_check=JsonCheck(None) if json else None, to=heard or Heard())


def a_chunk(delta: dict[str, Any], *, finish: str | None = None, index: int = 0, **more: Any):
    choice = {"index": index, "delta": delta, "finish_reason": finish, **more}
    return {"id": "c", "object": "chat.completion.chunk", "choices": [choice]}


def a_whole(text: str, **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {
        "id": "c",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", **more}],
    }


def through(by: AnswerFilter, *events: dict[str, Any]) -> list[dict[str, Any]]:
    return [given for event in events for given in by.event(event)] + list(by.end())


def content(events: list[dict[str, Any]], index: int = 0) -> str:
    return "".join(
        choice["delta"].get("content") or ""
        for event in events
        for choice in event["choices"]
        if choice["index"] == index
    )


@given(
    text=st.text("abcxyz ", max_size=40),
    places=st.lists(st.integers(0, 40), max_size=8),
    is_told_apart=st.booleans(),
)
def test_a_streamed_answer_is_the_whole_one(
    text: str, places: list[int], *, is_told_apart: bool
) -> None:
    ends = sorted({min(place, len(text)) for place in places} | {0, len(text)})
    pieces = [text[a:b] for a, b in pairwise(ends)] or [""]
    events = [
        a_chunk({"role": "assistant", "content": ""}),
        *(a_chunk({"content": piece}) for piece in pieces),
    ]
    if is_told_apart:
        events.append(a_chunk({}, finish="stop"))
    else:
        events[-1] = a_chunk(events[-1]["choices"][0]["delta"], finish="stop")
    told, once = Heard(), Heard()
    given = through(a_filter(told), *events)
    whole = a_filter(once).whole(a_whole(text))["choices"][0]
    assert content(given) == whole["message"]["content"]
    assert given[-1]["choices"][0]["finish_reason"] == whole["finish_reason"]
    assert (told.redactions, told.refusals) == (once.redactions, once.refusals)


def test_what_no_rule_touches_stays_the_same_object() -> None:
    whole, chunk = a_whole("fine"), a_chunk({"content": "fine "})
    assert a_filter().whole(whole) is whole
    assert list(a_filter().event(chunk)) == [chunk]
    usage = {"id": "c", "choices": [], "usage": {"prompt_tokens": 1}}
    role = a_chunk({"role": "assistant"})
    tool = a_chunk({"tool_calls": [{"index": 0, "function": {"arguments": "abc"}}]})
    assert through(a_filter(), role, tool, usage) == [role, tool, usage]


def test_a_refused_choice_ends_as_openais_do_and_the_rest_is_not_given() -> None:
    heard = Heard()
    by = a_filter(heard)
    given = through(
        by,
        a_chunk({"content": "a xy"}),
        a_chunk({"content": "z secret"}),
        a_chunk({"content": "more"}),
        a_chunk({}, finish="stop"),
    )
    assert content(given) == "a "
    last = given[-1]["choices"][0]
    assert (last["finish_reason"], last["content_filter_rule"]) == ("content_filter", "end")
    assert heard.refusals == ["end"]
    assert by.is_over


def test_another_choice_goes_on_where_one_is_refused() -> None:
    by = AnswerFilter(RULES, json_check=None, to=Heard(), choices=2)
    given = through(
        by,
        a_chunk({"content": "xyz"}),
        a_chunk({"content": "fine"}, index=1),
        a_chunk({"content": "lost"}),
        a_chunk({}, finish="stop", index=1),
    )
    assert (content(given), content(given, 1)) == ("", "fine")
    assert not by.is_over


def test_what_a_model_thinks_is_filtered_as_well_and_apart() -> None:
    by = a_filter()
    given = through(
        by,
        a_chunk({"reasoning_content": "ab"}),
        a_chunk({"content": "c abc"}),
        a_chunk({}, finish="stop"),
    )
    texts = [event["choices"][0]["delta"] for event in given]
    assert "".join(one.get("reasoning_content", "") for one in texts) == "ab"
    assert content(given) == "c *"


def test_log_probabilities_do_not_spell_what_was_taken_out() -> None:
    spelled = {"content": [{"token": "abc"}]}
    assert a_filter().whole(a_whole("x", logprobs=spelled))["choices"][0]["logprobs"] is None
    assert (
        through(a_filter(), a_chunk({"content": "q"}, logprobs=spelled))[0]["choices"][0][
            "logprobs"
        ]
        is None
    )


def test_what_is_held_back_comes_out_where_no_finish_reason_frees_it() -> None:
    usage = {"id": "c", "choices": [], "usage": {"prompt_tokens": 1}}
    assert content(through(a_filter(), a_chunk({"content": "hi ab"}))) == "hi ab"
    given = through(a_filter(), a_chunk({"content": "hi ab"}), usage)
    assert content(given[:-1]) == "hi ab"
    assert given[-1] == usage


@pytest.mark.parametrize(
    ("text", "finish", "unfits"),
    [('{"a": 1}', "stop", 0), ("Sure!", "stop", 1), ('{"a": ', "length", 0), ('{"a": ', "stop", 1)],
)
def test_an_answer_is_judged_as_json_at_its_end(text: str, finish: str, unfits: int) -> None:
    streamed, whole = Heard(), Heard()
    pieces = [a_chunk({"content": one}) for one in text]
    given = through(a_filter(streamed, json=True), *pieces, a_chunk({}, finish=finish))
    done = a_filter(whole, json=True).whole(a_whole(text, finish_reason=finish))
    assert streamed.unfits == whole.unfits == unfits
    expected = "json_answers" if unfits else None
    assert given[-1]["choices"][0].get("content_filter_rule") == expected
    assert done["choices"][0].get("content_filter_rule") == expected
