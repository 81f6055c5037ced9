"""A chat as the tensors of Triton's model, on both sides: whoever asks encodes, Triton's model decodes, and back. Pure.

Inputs are the messages as JSON, for the version's own template makes the prompt, and vLLM's SamplingParams as JSON. The
response cache's key is made of the inputs, so equal requests must give equal text, and whatever changes an answer must
be in it. A copy of this module lies in every model repository.
"""

import json
from collections.abc import Mapping
from typing import Any

from deploy_targets.engine.chat import BadRequest, ChatRequest, Piece, Usage, parse_chat

CHECKPOINT_FOLDER = "checkpoint"
"""Where a version's weights and tokenizer lie, inside its version folder."""

TEXT_INPUT, SAMPLING_PARAMETERS = "text_input", "sampling_parameters"
TEXT_OUTPUT, FINISH_REASON = "text_output", "finish_reason"
INPUT_TOKENS, OUTPUT_TOKENS = "num_input_tokens", "num_output_tokens"
"""As Triton's vLLM backend names them."""

REFUSED = "refused"
"""The finish reason of an answer that is none: the request cannot work, and the text says why. It is not an error of
the version, and Triton cannot tell the two apart in a stream."""


class AnswerFailed(Exception):
    """Triton said that it failed, or said nothing, whatever the status was."""


def encode_request(asked: ChatRequest, *, draw: str) -> dict[str, str]:
    """The inputs by name. `draw` makes a sampled request unlike any other; a greedy one goes without.

    Otherwise the response cache would give out one sampled answer again and again.
    """
    sampling: dict[str, Any] = {
        "max_tokens": asked.max_tokens,
        "temperature": asked.temperature,
        "top_p": asked.top_p,
        "stop": list(asked.stop),
    }
    if asked.temperature:
        sampling["draw"] = draw
    return {TEXT_INPUT: _canonical(list(asked.messages)), SAMPLING_PARAMETERS: _canonical(sampling)}


def decode_request(text: str, sampling: str) -> ChatRequest:
    """What `encode_request` encoded.

    Raises:
        BadRequest: it did not come from there.
    """
    try:
        document = {**json.loads(sampling), "messages": json.loads(text)}
    except (ValueError, TypeError, RecursionError) as error:
        message = f"{TEXT_INPUT} must be a JSON array of messages and {SAMPLING_PARAMETERS} a JSON object: {error}"
        raise BadRequest(message) from error
    return parse_chat(json.dumps(document).encode())


def encode_refusal(refusal: BadRequest) -> str:
    """The text of an answer whose finish reason is `REFUSED`."""
    return _canonical({"message": str(refusal), "param": refusal.param})


def decode_piece(event: Mapping[str, Any]) -> Piece:
    """One event of Triton's generate endpoints.

    Raises:
        AnswerFailed: an error, which comes with status 200 once a stream has begun; or no text at all, which is how
            Triton repeats a failed answer out of its response cache.
        BadRequest: the model refused the request.
    """
    if "error" in event:
        raise AnswerFailed(str(event["error"]))
    if TEXT_OUTPUT not in event:
        message = (
            "Triton answered without any output: this request failed before, and the response cache repeats that. "
            "Its log has the cause of the first failure."
        )
        raise AnswerFailed(message)
    text, finish = str(event[TEXT_OUTPUT]), str(event[FINISH_REASON])
    if finish == REFUSED:
        told = json.loads(text)
        param = told["param"]
        raise BadRequest(str(told["message"]), param=None if param is None else str(param))
    usage = Usage(prompt=int(event[INPUT_TOKENS]), completion=int(event[OUTPUT_TOKENS]))
    return Piece(text=text, finish=finish, usage=usage)


def _canonical(document: object) -> str:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
