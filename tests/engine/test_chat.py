"""The engine's side of OpenAI's protocol."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy_targets.engine.chat import (
    AnswerText,
    BadRequest,
    ChatRequest,
    Frame,
    Piece,
    Usage,
    parse_chat,
)


def body(**fields: object) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": "hi"}], **fields}).encode()


def test_defaults_are_openais() -> None:
    assert parse_chat(body()) == ChatRequest(
        messages=({"role": "user", "content": "hi"},),
        max_tokens=256,
        temperature=1.0,
        top_p=1.0,
        stop=(),
        stream=False,
        include_usage=False,
    )


def test_the_newer_name_of_max_tokens_wins() -> None:
    assert parse_chat(body(max_tokens=5, max_completion_tokens=7)).max_tokens == 7


def test_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    asked = parse_chat(json.dumps({"messages": [{"role": "user", "content": parts}]}).encode())
    assert asked.messages[0]["content"] == "ab"


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"[]",
        b"\xff",
        body(max_tokens=0),
        body(temperature=3),
        body(top_p=0),
        body(messages=[]),
    ],
)
def test_what_cannot_work_is_a_bad_request(wrong: bytes) -> None:
    with pytest.raises(BadRequest):
        parse_chat(wrong)


def test_a_piece_is_one_event() -> None:
    frame = Frame(request_id="1", created=2, model="m", include_usage=False)
    piece = Piece(text="a\nb", finish="", usage=Usage(prompt=1, completion=1))
    text = frame.events(piece).decode()
    assert text.startswith("data: ")
    assert text.endswith("\n\n")
    assert text.count("\n") == 2


def grown(text: str, stop: tuple[str, ...] = ()) -> tuple[str, str | None]:
    """`text` given to an answer character by character: what came out, and why it ended."""
    answer = AnswerText(stop=stop)
    out = ""
    for end in range(1, len(text) + 1):
        out += answer.grow(text[:end], is_last=end == len(text))
        if answer.finish:
            break
    return out, answer.finish


@given(st.text(alphabet="abc", max_size=20))
def test_without_a_stop_string_everything_comes_out(text: str) -> None:
    assert grown(text) == (text, None)


@given(st.text(alphabet="ab", max_size=12), st.text(alphabet="ab", min_size=1, max_size=4))
def test_a_stop_string_cut_anywhere_never_comes_out(text: str, stop: str) -> None:
    out, finish = grown(text, (stop,))
    assert stop not in out
    assert out == text.split(stop, maxsplit=1)[0]
    assert finish == ("stop" if stop in text else None)


def test_half_a_character_waits_for_its_other_half() -> None:
    answer = AnswerText(stop=())
    assert answer.grow("caf\ufffd", is_last=False) == "caf"
    assert answer.grow("café", is_last=True) == "é"
