"""OpenAI's chat request as far as the guard looks into it. Pure.

Checked is what gives a clear 400 here and a vague one, or none, further on. Nothing is rewritten: the client's own
bytes are passed on, fields that are unknown here included. Limits that an operator sets are not here.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deploy_targets.guard.errors import RequestInvalid

_CONTENT_RULE = 'must be a string, or a list of parts {"type": "text", "text": "..."}'


class _Lenient(BaseModel):
    """Strict in types, so that "5" is no number; indifferent to fields that it does not know."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class _TextPart(_Lenient):
    type: Literal["text"]
    text: str


class _Message(_Lenient):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | Annotated[list[_TextPart], Field(min_length=1)]


class _StreamOptions(_Lenient):
    include_usage: bool | None = None


_Tokens = Annotated[int, Field(ge=1)] | None


class _Body(_Lenient):
    model: str
    messages: Annotated[list[_Message], Field(min_length=1)]
    max_tokens: _Tokens = None
    max_completion_tokens: _Tokens = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """What the guard needs to know of a request that it passes on."""

    model: str
    is_streamed: bool


def parse_chat(body: bytes) -> ChatRequest:
    """What the body of POST /v1/chat/completions asks for.

    Raises:
        RequestInvalid: not a JSON object, or a field that is missing, of the wrong type or out of its range. Its
            message never repeats what the client sent.
    """
    try:
        parsed = _Body.model_validate_json(body)
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False, include_context=False)[0]
        place = [str(part) for part in fault["loc"]]
        rule = fault["msg"]
        if "content" in place:
            place = place[: place.index("content") + 1]
            rule = _CONTENT_RULE
        name = ".".join(place)
        message = f"{name or 'The body'}: {rule}."
        raise RequestInvalid(message, param=name or None) from error
    return ChatRequest(model=parsed.model, is_streamed=bool(parsed.stream))
