"""Training data: what is let in, how it is divided, and what is learned of it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.loading import load_tokenizer
from pipelines.retrain.examples import (
    IGNORED,
    Example,
    divide,
    parse_examples,
    read_content,
    tokenize,
)
from registry.errors import BadInput

CHAT = [
    {"role": "user", "content": "the quick"},
    {"role": "assistant", "content": "brown fox"},
    {"role": "user", "content": "jumps"},
    {"role": "assistant", "content": "over the lazy dog"},
]
GOOD = b'{"text": "a"}\n'


def chat(*turns) -> Example:
    return Example.model_validate({"messages": turns or CHAT})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "holds no examples"),
        (b"\n\n", "holds no examples"),
        (GOOD, "holds 1 example,"),
        (GOOD * 5, "holds 1 example,"),
        (GOOD + b"{", "Line 2 of d is neither"),
        (GOOD + b"\n[]\n", "Line 3 of d is neither"),
        (GOOD + b'{"text": ""}', "Line 2 of d .*either messages or a text"),
        (GOOD + b'{"text": "a", "messages": []}\n{"txt": "a"}', "Line 3 of d .*txt"),
        (GOOD + b'{"text": 3}', "Line 2 of d .*text"),
        (GOOD + b'{"messages": [{"role": "robot", "content": "x"}]}', "messages.0.role"),
        (GOOD + b'{"messages": [{"role": "user", "content": "x"}]}', "no message is the assistant"),
        (GOOD + '{"text": "\u00e9"}'.encode("latin-1"), "Line 2 of d is not UTF-8 .byte 11"),
        ('{"text": "a"}\n{"text": "b"}'.encode("utf-16"), "Line 1 of d is not UTF-8"),
    ],
)
def test_bad_data_is_refused_with_its_line(content, says) -> None:
    with pytest.raises(BadInput, match=says):
        parse_examples(content, where="d")


def test_data_that_is_not_there_is_refused(tmp_path) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        read_content(tmp_path / "none.jsonl")


def test_chats_and_texts_with_any_line_ends_are_read_once_each() -> None:
    lines = [json.dumps({"messages": CHAT}), '{"text": "a\\u2028b"}', '{"text": "a\u2028b"}']
    examples = parse_examples("\r\n".join([*lines, lines[0]]).encode(), where="d")
    assert [bool(one.messages) for one in examples] == [True, False]


@given(st.integers(2, 60), st.integers(1, 50), st.integers(0, 3))
def test_no_example_is_both_trained_on_and_held_out(count, percent, seed) -> None:
    examples = [Example(text=str(number)) for number in range(count)]
    train, holdout = divide(examples, holdout_percent=percent, seed=seed)
    assert train
    assert holdout
    assert sorted([*train, *holdout], key=lambda one: int(one.text)) == examples
    assert divide(examples, holdout_percent=percent, seed=seed) == (train, holdout)


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return load_tokenizer(tiny_model)


def learned(tokenizer, tokens) -> str:
    return tokenizer.decode([label for label in tokens.labels if label != IGNORED])


def test_of_a_chat_only_what_the_assistant_says_is_learned_and_its_end(tokenizer) -> None:
    [tokens] = tokenize(tokenizer, [chat()], length=500)
    assert tokenizer.decode(tokens.ids) == tokenizer.apply_chat_template(CHAT, tokenize=False)
    assert learned(tokenizer, tokens) == "brown fox<|im_end|>\nover the lazy dog<|im_end|>\n"


def test_a_chat_is_cut_and_left_out_where_no_answer_is_left(tokenizer) -> None:
    [tokens] = tokenize(tokenizer, [chat()], length=40)
    assert len(tokens.ids) <= 40
    assert tokenize(tokenizer, [chat()], length=5) == []


def test_all_of_a_text_is_learned_in_as_many_pieces_as_it_needs(tokenizer) -> None:
    text = "the quick brown fox jumps over the lazy dog " * 5
    pieces = tokenize(tokenizer, [Example(text=text)], length=16)
    assert "".join(learned(tokenizer, piece) for piece in pieces) == text + tokenizer.eos_token
    assert max(len(piece.ids) for piece in pieces) == 16


def test_a_template_that_rewrites_earlier_turns_is_refused(tiny_model) -> None:
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.chat_template = "{{ messages[-1].content }}"
    with pytest.raises(BadInput, match="rewrites earlier turns"):
        tokenize(tokenizer, [chat()], length=100)


def test_a_template_that_refuses_a_chat_is_told_as_such(tiny_model) -> None:
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(BadInput, match="roles must alternate"):
        tokenize(tokenizer, [chat()], length=100)
