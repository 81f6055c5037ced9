"""Triton's events are the same answer however the bytes arrive."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy_targets.engine.chat import DONE, BadRequest, Frame
from deploy_targets.engine.generate_stream import PieceReader, error_of, read_pieces
from deploy_targets.engine.tensors import AnswerFailed, decode_request
from tests.guard.stub_triton import END, NAMED, encoded, piece

BODY = encoded(piece("Pär"), piece(" "), END)
FRAME = Frame(request_id="x", created=1, model="chat", include_usage=False)


@given(cuts=st.lists(st.integers(0, len(BODY)), max_size=8).map(sorted))
def test_wherever_the_bytes_are_cut_the_pieces_are_the_same(cuts: list[int]) -> None:
    reader = PieceReader()
    ends = [*cuts, len(BODY)]
    parts = [BODY[begin:end] for begin, end in zip([0, *cuts], ends, strict=True)]

    pieces = [one for part in parts for one in reader.feed(part)] + list(reader.end())

    assert (pieces, reader.version) == read_pieces(BODY)
    assert FRAME.whole(pieces)["choices"][0]["message"]["content"] == "Pär is."


def test_only_the_last_piece_brings_the_end_mark() -> None:
    *begun, last = read_pieces(BODY)[0]
    assert not any(DONE in FRAME.events(one) for one in begun)
    assert FRAME.events(last).endswith(DONE)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (encoded({"error": "no such name"}), "no such name"),
        (b'{"error":"Request for unknown model"}', "Request for unknown model"),
        (b'{"error": {"message": "The split says so"}}', None),
        (encoded(NAMED), None),
        (b"upstream connect error", None),
        (b"[1]", None),
        (b"[" * 5000, None),
        (b"\xff", None),
    ],
)
def test_only_tritons_own_errors_are_taken_for_such(body: bytes, told: str | None) -> None:
    assert error_of(body) == told


@pytest.mark.parametrize(
    "event",
    [
        b"[" * 5000,
        b'{"text_output": "a", "finish_reason": "", "num_input_tokens": Infinity, "num_output_tokens": 1}',
    ],
)
def test_an_event_that_cannot_be_read_is_a_failed_answer(event: bytes) -> None:
    with pytest.raises(AnswerFailed, match="none of our model's"):
        read_pieces(b"data: " + event + b"\n\n")


def test_a_refusal_names_its_field_in_a_word_or_not_at_all() -> None:
    refusal = piece('{"message": {"a": 1}, "param": ["b"]}', "refused")
    with pytest.raises(BadRequest) as told:
        read_pieces(encoded(refusal))
    assert (str(told.value), told.value.param) == ("{'a': 1}", "['b']")


def test_inputs_that_are_nested_without_end_are_a_bad_request() -> None:
    with pytest.raises(BadRequest, match="must be a JSON array"):
        decode_request("[" * 5000, "{}")
