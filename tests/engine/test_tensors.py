"""A chat as tensors and back; every way in which Triton says that it failed is a failure."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy_targets.engine.chat import BadRequest, ChatRequest, Usage
from deploy_targets.engine.tensors import (
    REFUSED,
    AnswerFailed,
    decode_piece,
    decode_request,
    encode_refusal,
    encode_request,
)


def a_request(**changes: object) -> ChatRequest:
    values = {"max_tokens": 8, "temperature": 0.0, "top_p": 1.0, "stop": (), "content": "hi"}
    values |= changes
    message = {"role": "user", "content": values.pop("content")}
    return ChatRequest(messages=(message,), stream=False, include_usage=False, **values)


@given(
    content=st.text(),
    max_tokens=st.integers(1, 10_000),
    temperature=st.floats(0, 2),
    top_p=st.floats(0, 1, exclude_min=True),
    stop=st.lists(st.text(min_size=1), max_size=3).map(tuple),
)
def test_what_is_encoded_is_decoded(**fields: object) -> None:
    asked = a_request(**fields)
    assert decode_request(*encode_request(asked, draw="x").values()) == asked


def test_equal_greedy_requests_are_equal_to_the_cache_and_sampled_ones_never_are() -> None:
    greedy, sampled = a_request(), a_request(temperature=0.7)
    assert encode_request(greedy, draw="1") == encode_request(greedy, draw="2")
    assert encode_request(sampled, draw="1") != encode_request(sampled, draw="2")


@pytest.mark.parametrize(
    "changed", [{"max_tokens": 9}, {"top_p": 0.5}, {"stop": ("a",)}, {"content": "ho"}]
)
def test_whatever_changes_an_answer_changes_the_inputs(changed: dict[str, object]) -> None:
    assert encode_request(a_request(), draw="") != encode_request(a_request(**changed), draw="")


@pytest.mark.parametrize("inputs", [("[", "{}"), ("[]", "{}"), ("[]", "[1]"), ('{"a": 1}', "{}")])
def test_inputs_of_another_kind_are_the_clients_fault(inputs: tuple[str, str]) -> None:
    with pytest.raises(BadRequest):
        decode_request(*inputs)


def an_event(**fields: object) -> dict[str, object]:
    return {
        "model_name": "chat", "model_version": "7", "text_output": "hello", "finish_reason": "stop",
        "num_input_tokens": 3, "num_output_tokens": 2, **fields,
    }  # fmt: skip


def test_a_piece_has_its_text_and_counts() -> None:
    piece = decode_piece(an_event())
    assert (piece.text, piece.finish) == ("hello", "stop")
    assert piece.usage == Usage(prompt=3, completion=2)


def test_an_error_with_status_200_is_a_failure() -> None:
    with pytest.raises(AnswerFailed, match="no such token"):
        decode_piece({"error": "no such token"})


def test_an_answer_without_outputs_is_a_failure_that_the_cache_repeats() -> None:
    with pytest.raises(AnswerFailed, match="the response cache repeats that"):
        decode_piece({"model_name": "chat", "model_version": "7"})


def test_a_refusal_is_the_clients_fault_and_keeps_its_field() -> None:
    refusal = encode_refusal(BadRequest("too long", param="messages"))
    with pytest.raises(BadRequest, match="too long") as told:
        decode_piece(an_event(finish_reason=REFUSED, text_output=refusal))
    assert told.value.param == "messages"
    assert json.loads(refusal)["message"] == "too long"
