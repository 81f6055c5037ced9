"""What is asked, and when an answer is as expected."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.evaluate.prompts import GOLDEN, TEXTS, Question, read_prompts, repeated_share
from registry.errors import BadInput
from registry.gate import MIN_SAMPLES
from registry.scorecard import Kind

PARIS = Question(question="What is the capital of France?", expected=r"\bparis\b")
CITY = Question(question="Describe Paris.", keys=("name", "country"))


def test_the_sets_are_large_enough_for_the_gate_and_say_nothing_twice() -> None:
    forms = [one for one in GOLDEN if one.is_format]
    assert len(TEXTS) >= MIN_SAMPLES[Kind.DIVERGENCE]
    assert len(forms) >= MIN_SAMPLES[Kind.FORMAT]
    assert len(GOLDEN) - len(forms) >= MIN_SAMPLES[Kind.GOLDEN]
    assert len(set(TEXTS)) == len(TEXTS)
    assert len({one.question for one in GOLDEN}) == len(GOLDEN)


@pytest.mark.parametrize(
    ("question", "answer", "is_right"),
    [
        (PARIS, "It is PARIS.", True),
        (PARIS, "It is Parisian.", False),
        (PARIS, "", False),
        (CITY, '{"name": "Paris", "country": "France"}', True),
        (
            CITY,
            'Sure:\n```json\n{"name": "Paris", "country": {"code": "FR"}}\n``` Anything else?',
            True,
        ),
        (CITY, '{"name": "Paris"}', False),
        (CITY, '{"name": "Paris", "country": "Fra', False),
        (CITY, '[{"name": "Paris", "country": "France"}]', False),
        (CITY, "name: Paris, country: France", False),
        (CITY, "[" * 100_000, False),
    ],
)
def test_an_answer_is_right_when_it_holds_what_was_asked_for(question, answer, is_right) -> None:
    assert question.is_answered_by(answer) is is_right


def test_an_answer_that_says_itself_again_is_told_by_its_share() -> None:
    assert repeated_share(["a", "b", "c", "d", "e"]) == 0
    assert repeated_share(["a", "a", "a", "a", "a"]) == pytest.approx(2 / 3)
    assert repeated_share(["a", "b", "c", "a", "b", "c"]) == pytest.approx(1 / 4)
    assert repeated_share(["a", "b"]) == 0


@given(st.lists(st.integers(0, 3)))
def test_a_share_is_a_share(tokens) -> None:
    assert 0 <= repeated_share(tokens) < 1


def test_a_data_folder_may_bring_its_own_and_then_has_another_name(tmp_path) -> None:
    ours = read_prompts(tmp_path)
    (tmp_path / "prompts.jsonl").write_text('{"text": "one two"}\n\n{"text": "three four"}\n')
    (tmp_path / "golden.jsonl").write_text(
        '{"question": "q?", "expected": "a"}\n{"question": "j?", "keys": ["k"]}\n'
    )
    own = read_prompts(tmp_path)
    assert own.texts == ("one two", "three four")
    assert own.golden == (
        Question(question="q?", expected="a"),
        Question(question="j?", keys=("k",)),
    )
    assert ours.digest != own.digest == read_prompts(tmp_path).digest


@pytest.mark.parametrize("name", ["prompts.jsonl", "golden.jsonl"])
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds 0 lines"),
        ("\n \n", "holds 0 lines"),
        ("[1]\n", "each a JSON object"),
        ("{", "is no JSON Lines file"),
        (json.dumps({"text": " "}), "line"),
        (json.dumps({"question": "q"}), "line"),
        (json.dumps({"question": "q", "expected": "("}), "line"),
        (json.dumps({"question": "q", "expected": "a", "keys": ["k"]}), "line"),
    ],
)
def test_a_file_that_asks_nothing_is_refused(tmp_path, name, text, says) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(BadInput, match=says):
        read_prompts(tmp_path)
