"""What rules do with a text: whole, and in pieces of any size."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy_targets.filter_policy import Action
from deploy_targets.guard.filtering import (
    Recogniser,
    Refusal,
    Rule,
    StreamFilter,
    filter_text,
)
from deploy_targets.guard.patterns import compile_bounded
from deploy_targets.guard.text_views import View
from deploy_targets.pattern_reach import PatternInvalid
from tests.guard.filter_rules import AWS_KEY, BEGIN, END, rules, streamed

SOME = rules(
    {"kind": "secrets", "types": ["aws_key", "private_key", "github_token", "high_entropy"]},
    {"kind": "personal_data"},
    {"kind": "words", "words": ["Project X", "stra\u00dfe", "caf\u00e9"]},
    {"kind": "regex", "pattern": r"\bticket-\d{1,4}\b", "replacement": ""},
    {"kind": "hidden_text"},
)
PIECES = (
    AWS_KEY, "AKIA", BEGIN.format(""), END.format(""), "MIIEvQ+/=",
    "ghp_" + "aZ9" * 12, "bob@example.com", "@", ".com", "4111 1111 1111 1111", "4111", " ", "\n", "\u200b", "\u0301",
    "DE89 3704 0044 0532 0130 00", "DE89", "123-45-6789", "+49 30 123456", "10.0.0.1", "::1", "project", "x", "Caf\u00e9",
    "\uff30roject", "STRASSE", "ticket-", "12", "ticket-12345", ".", "\u202e", "\U000e0041", "\U0001f3f4", "a", "-", "k",
)  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=12).map("".join)


def delay_chars(rules: Sequence[Rule]) -> int:
    """How many visible characters of a stream may be held back, at the most."""
    return max((rule.recogniser.pattern.reach.reach - 1 for rule in rules), default=0)


def cut(text: str, places: list[int]) -> list[str]:
    ends = sorted({place % (len(text) + 1) for place in places} | {0, len(text)})
    return [text[a:b] for a, b in pairwise(ends)]


@given(text=TEXTS, places=st.lists(st.integers(0, 400), max_size=30))
def test_a_stream_gives_what_the_whole_text_gives(text: str, places: list[int]) -> None:
    whole = filter_text(SOME, text)
    out, stream = streamed(SOME, cut(text, places))
    assert (out, stream.found, stream.refusal) == (whole.text, whole.found, whole.refusal)


ATOMS = ["a", "b", "[ab]", "[^a]", ".", r"\w", "\u00e9", r"\b", r"\B", "$", "^", r"\Z", "(?>a|ab)", "(?m:$)", "(?i:a)"]  # fmt: skip
PATTERNS = st.recursive(
    st.sampled_from(ATOMS),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map("(?:{0[0]}|{0[1]})".format),
        st.tuples(inner, st.sampled_from(["?", "{1,3}", "{0,2}", "{2}", "{1,3}?", "{1,2}+"])).map(
            "(?:{0[0]}){0[1]}".format
        ),
        st.tuples(st.sampled_from("=!"), inner).map("(?{0[0]}{0[1]})".format),
        st.sampled_from(["(?<=a)", "(?<!b)", "[ab]{1,3}", ".{0,3}", "a?", r"\w{2,3}?"]),
        inner.map("({})".format),
    ),
    max_leaves=6,
)


@given(
    patterns=st.lists(PATTERNS, min_size=1, max_size=3),
    actions=st.lists(st.sampled_from(Action), min_size=3, max_size=3),
    views=st.lists(st.sampled_from(View), min_size=3, max_size=3),
    text=st.text("aabbc \n\u00e9\u200bA\u00df\u0301", max_size=16),
    places=st.lists(st.integers(0, 16), max_size=8),
)
def test_whatever_the_patterns_a_stream_gives_what_the_whole_gives(
    patterns: list[str], actions: list[Action], views: list[View], text: str, places: list[int]
) -> None:
    made: list[Rule] = []
    for pattern, action, view in zip(patterns, actions, views, strict=False):
        try:
            recogniser = Recogniser(pattern=compile_bounded(pattern), view=view)
        except PatternInvalid:
            continue
        made.append(Rule(name=pattern, action=action, recogniser=recogniser, replacement="<>"))
    whole = filter_text(made, text)
    out, stream = streamed(tuple(made), cut(text, places))
    assert (out, stream.found, stream.refusal) == (whole.text, whole.found, whole.refusal)


@given(text=TEXTS)
def test_no_more_is_held_back_than_the_stated_delay(text: str) -> None:
    stream, given_out = StreamFilter(SOME), ""
    for number, character in enumerate(text, start=1):
        given_out += stream.feed(character)
        seen = text[:number]
        unfinished = filter_text(SOME, seen).text
        hidden = sum(not one.isprintable() or one == "\u0301" for one in seen)
        replaced = sum(stream.found.values())
        assert len(unfinished) - len(given_out) <= delay_chars(SOME) + hidden + 20 * replaced


def test_plain_prose_is_hardly_held_back_by_any_rule() -> None:
    prose = "The quick brown fox jumps over the lazy dog, 12 times in 2026.\n" * 40
    stream, out, held = StreamFilter(SOME), 0, 0
    for number, character in enumerate(prose, start=1):
        out += len(stream.feed(character))
        held = max(held, number - out)
    assert held <= 12


@pytest.mark.parametrize(
    ("declared", "text", "out"),
    [
        ({"kind": "regex", "pattern": "b"}, "abc", "a[regex]c"),
        ({"kind": "regex", "pattern": "b", "replacement": ""}, "abc", "ac"),
        ({"kind": "regex", "pattern": "B"}, "abc", "abc"),
        ({"kind": "regex", "pattern": "B", "ignore_case": True}, "abc", "a[regex]c"),
        ({"kind": "regex", "pattern": "bc"}, "ab\u200b\u00adc!", "a[regex]!"),
        ({"kind": "regex", "pattern": "^a"}, "aa\na", "[regex]a\na"),
        ({"kind": "words", "words": ["Project X"]}, "a PROJECT   x, project xy", "a [words], project xy"),
        ({"kind": "words", "words": ["resume"]}, "my r\u00e9sume\u0301 here", "my [words]\u0301 here"),
        ({"kind": "words", "words": ["stra\u00dfe"]}, "Strasse STRA\u1e9eE strassen", "[words] [words] strassen"),
        ({"kind": "words", "words": ["code"]}, "\uff23\uff4f\uff44\uff45 c\u200bo\u200bd\u200be", "[words] [words]"),
        ({"kind": "words", "words": ["c++", "c"]}, "c++ and c", "[words] and [words]"),
        ({"kind": "words", "words": ["\u0434\u0430"]}, "\u0414\u0410 \u0434\u0430\u0440", "[words] \u0434\u0430\u0440"),
        ({"kind": "hidden_text"}, "a\u202eb\U000e0041\U000e0042c", "abc"),
        ({"kind": "hidden_text"}, "\U0001f3f4\U000e0067\U000e0062\U000e007f", "\U0001f3f4\U000e0067\U000e0062\U000e007f"),
        ({"kind": "hidden_text"}, "\U0001f469\u200d\U0001f4bb", "\U0001f469\u200d\U0001f4bb"),
    ],
)  # fmt: skip
def test_what_a_rule_finds_is_redacted(declared: dict[str, Any], text: str, out: str) -> None:
    assert filter_text(rules(declared), text).text == out


def test_a_refusal_ends_the_text_where_it_stands_and_names_its_rule() -> None:
    by = rules(
        {"kind": "regex", "pattern": "b"},
        {"kind": "words", "name": "no-go", "words": ["stop"], "action": "refuse"},
    )
    done = filter_text(by, "ab stop b")
    assert (done.text, done.refusal) == ("a[regex] ", Refusal(rule="no-go", reason="found"))
    assert done.found == {"regex": 1, "no-go": 1}


def test_nothing_goes_out_of_a_stream_behind_a_refusal() -> None:
    stream = StreamFilter(rules({"kind": "regex", "pattern": "b", "action": "refuse"}))
    assert [stream.feed("ab"), stream.feed("c"), stream.end()] == ["a", "", ""]


def test_what_one_rule_allows_no_later_rule_sees() -> None:
    by = rules(
        {"kind": "regex", "name": "ours", "pattern": r"\w{1,30}@ours\.example", "action": "allow"},
        {"kind": "personal_data", "types": ["email"]},
    )
    done = filter_text(by, "a@ours.example b@theirs.example")
    assert done.text == "a@ours.example [email]"
    assert done.found == {"ours": 1, "personal_data": 1}


def test_of_two_rules_at_one_place_the_first_counts() -> None:
    by = rules(
        {"kind": "regex", "name": "one", "pattern": "ab"},
        {"kind": "regex", "name": "two", "pattern": "abc"},
    )
    assert filter_text(by, "abc").text == "[one]c"
    assert filter_text(by[::-1], "abc").text == "[two]"


def test_a_pattern_that_backtracks_without_end_refuses_in_time() -> None:
    by = rules({"kind": "regex", "pattern": "(?:a|a){1,40}$"})
    done = filter_text(by, "a" * 40 + "b")
    assert done.refusal == Refusal(rule="regex", reason="too_slow")


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("a.*", "bound its repeats"),
        (r"a\s+b", "bound its repeats"),
        ("(?=.*x)a", "bound its repeats"),
        ("a{1,99999}", "bound its repeats"),
        ("a?", "empty text"),
        ("(", "no regular expression"),
        (r"\p{Lu}", "brace"),
        (r"\pL", "no regular expression"),
        ("[[a]", "no regular expression"),
        ("(?:foo){e}", "brace"),
        ("foo{1<=e<=3}", "brace"),
        ("(?x) a # b", "verbose"),
    ],
)
def test_a_pattern_that_no_stream_can_bear_is_refused(pattern: str, says: str) -> None:
    with pytest.raises(ValueError, match="the pattern of rule 'mine' cannot be used") as refused:
        rules({"kind": "regex", "name": "mine", "pattern": pattern})
    assert says in str(refused.value)


def test_the_delay_is_the_longest_reach_of_the_rules() -> None:
    def delay(*declared: Mapping[str, Any]) -> int:
        return delay_chars(rules(*map(dict, declared)))

    assert delay() == 0
    assert delay({"kind": "regex", "pattern": "abc"}) == 2
    assert delay({"kind": "regex", "pattern": "abc(?!de)"}) == 4
    assert delay({"kind": "personal_data"}) == 319
