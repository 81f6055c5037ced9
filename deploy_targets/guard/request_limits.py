"""What a chat may ask for: ranges that OpenAI's API documents, and the limits of a policy. Pure.

Only where a policy has limits; `wire` has seen already that the fields it knows are of their types.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deploy_targets.filter_policy import RequestLimits
from deploy_targets.guard.errors import RequestInvalid
from deploy_targets.guard.prompt_filter import text_of

_Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)] | None
_Stop = Annotated[str, Field(min_length=1, max_length=200)]
_FIRST = ("system", "developer")


class _Ranges(BaseModel):
    """Beyond those of `wire`. One choice, for the engines here give one whatever they are asked for."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    n: Annotated[int, Field(ge=1, le=1)] | None = None
    presence_penalty: _Penalty = None
    frequency_penalty: _Penalty = None
    stop: _Stop | Annotated[list[_Stop], Field(max_length=4)] | None = None
    logit_bias: (
        Annotated[
            dict[
                Annotated[str, Field(pattern=r"^[0-9]{1,7}$")],
                Annotated[float, Field(ge=-100, le=100)],
            ],
            Field(max_length=1024),
        ]
        | None
    ) = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    seed: int | None = None
    user: Annotated[str, Field(max_length=512)] | None = None


def check_limits(document: dict[str, Any], limits: RequestLimits) -> None:
    """Nothing, where a chat keeps to the limits.

    Raises:
        RequestInvalid: it does not. The message names the field and the limit, and repeats nothing of what was sent.
    """
    try:
        _Ranges.model_validate(document)
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False, include_context=False)[0]
        field = str(fault["loc"][0])
        raise RequestInvalid(f"{field}: {fault['msg']}.", param=field) from error
    messages: list[dict[str, Any]] = document["messages"]
    if limits.max_messages is not None and len(messages) > limits.max_messages:
        message = f"messages: at most {limits.max_messages} are taken here. Leave the oldest out."
        raise RequestInvalid(message, param="messages")
    for name in ("max_tokens", "max_completion_tokens"):
        asked = document.get(name)
        if asked and limits.max_answer_tokens is not None and asked > limits.max_answer_tokens:
            message = f"{name}: at most {limits.max_answer_tokens} are given here."
            raise RequestInvalid(message, param=name)
    for number, one in enumerate(messages):
        if one["role"] not in limits.roles:
            place = f"messages.{number}.role"
            message = f"{place}: may be {', '.join(limits.roles)} here."
            raise RequestInvalid(message, param=place)
    if limits.max_prompt_chars is not None:
        chars = sum(len(text_of(one)) for one in messages)
        if chars > limits.max_prompt_chars:
            message = f"messages: at most {limits.max_prompt_chars} characters are taken here. Shorten them."
            raise RequestInvalid(message, param="messages")
    if limits.is_order_checked:
        _check_order([one["role"] for one in messages])


def _check_order(roles: list[str]) -> None:
    said = [(number, role) for number, role in enumerate(roles) if role not in _FIRST]
    for turn, (number, role) in enumerate(said):
        if number != len(roles) - len(said) + turn:
            message = "messages: those of system and developer come first."
            raise RequestInvalid(message, param="messages")
        if role != ("user", "assistant")[turn % 2]:
            place = f"messages.{number}.role"
            message = f"{place}: user and assistant speak by turns here, the user first."
            raise RequestInvalid(message, param=place)
    if len(said) % 2 == 0:
        message = "messages: the last one has to be the user's."
        raise RequestInvalid(message, param="messages")
