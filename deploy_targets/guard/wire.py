"""OpenAI's requests as far as the guard looks into them. Pure.

Checked is what gives a clear 400 here and a vague one, or none, further on. Of a chat nothing is rewritten: the client's
own bytes are passed on, fields that are unknown here included. Limits that an operator sets are not here.
"""

import json
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError
from pydantic_core import from_json

from deploy_targets.guard.errors import RequestInvalid

_CONTENT_RULE = 'must be a string, or a list of parts {"type": "text", "text": "..."}'


M = TypeVar("M", bound=BaseModel)


class _Lenient(BaseModel):
    """Strict in types, so that "5" is no number; indifferent to fields that it does not know."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class _TextPart(_Lenient):
    type: Literal["text"]
    text: str


class _Message(_Lenient):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | Annotated[list[_TextPart], Field(min_length=1)]

    @property
    def size(self) -> int:
        content = self.content
        texts = (content,) if isinstance(content, str) else (part.text for part in content)
        return sum(len(text.encode()) for text in texts)


class _StreamOptions(_Lenient):
    include_usage: bool | None = None


_Tokens = Annotated[int, Field(ge=1, lt=1 << 31)] | None
"""More than any model gives, and few enough that Redis can count what they may cost."""


class _Body(_Lenient):
    model: str
    messages: Annotated[list[_Message], Field(min_length=1)]
    max_tokens: _Tokens = None
    max_completion_tokens: _Tokens = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    user: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request for tokens, in the words of a chat whichever path it came by."""

    body: bytes
    """Of POST /v1/chat/completions."""
    model: str
    is_streamed: bool
    wants_usage: bool
    """A stream is to end with the counts of its tokens."""
    max_tokens: int | None
    """The client's own bound of the answer."""
    prompt_bytes: int
    """Of all messages together."""
    messages: int
    choices: int
    """How many answers, by `n`."""
    user: str = ""
    """Whom the client asks for; empty where it does not say."""
    is_completion: bool = False
    """It was asked at /v1/completions, and is answered in the words of that path."""

    def document(self) -> dict[str, Any]:
        """The body, parsed: a JSON object with `messages`."""
        return from_json(self.body)

    def changed(self, document: dict[str, Any]) -> "Asked":
        """The same request with another body."""
        return replace(self, body=json.dumps(document, ensure_ascii=False).encode())


def parse_chat(body: bytes, *, is_completion: bool = False) -> Asked:
    """What the body of POST /v1/chat/completions asks for.

    Raises:
        RequestInvalid: not a JSON object, or a field that is missing, of the wrong type or out of its range. Its
            message never repeats what the client sent.
    """
    parsed = parse_as(_Body, body)
    options = parsed.stream_options
    return Asked(
        body=body,
        model=parsed.model,
        is_streamed=bool(parsed.stream),
        wants_usage=options is not None and bool(options.include_usage),
        max_tokens=parsed.max_completion_tokens or parsed.max_tokens,
        prompt_bytes=sum(message.size for message in parsed.messages),
        messages=len(parsed.messages),
        choices=parsed.n or 1,
        user=parsed.user or "",
        is_completion=is_completion,
    )


def chat_schema() -> dict[str, Any]:
    """The JSON schema of a chat's body, without references."""
    schema = _Body.model_json_schema()
    definitions: dict[str, Any] = schema.pop("$defs")

    def written_out(part: Any) -> Any:
        match part:
            case {"$ref": str(ref)}:
                return written_out(definitions[ref.rpartition("/")[2]])
            case dict():
                return {
                    name: written_out(one) for name, one in cast("dict[str, Any]", part).items()
                }
            case list():
                return [written_out(one) for one in cast("list[Any]", part)]
            case _:
                return part

    return written_out(schema)


class _Fields(RootModel[dict[str, Any]]):
    pass


def parse_fields(body: bytes) -> dict[str, Any]:
    """The fields of any JSON object.

    Raises:
        RequestInvalid: it is none.
    """
    return parse_as(_Fields, body).root


def parse_as(model: type[M], body: bytes) -> M:
    """The body as this model.

    Raises:
        RequestInvalid: it is none. The message never repeats what the client sent.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False, include_context=False)[0]
        place = [str(part) for part in fault["loc"]]
        rule = fault["msg"]
        if fault["type"] == "extra_forbidden":
            place, rule = place[:-1], "has a field that is not known here"
        if "content" in place:
            place = place[: place.index("content") + 1]
            rule = _CONTENT_RULE
        name = ".".join(place)
        message = f"{name or 'The body'}: {rule}."
        raise RequestInvalid(message, param=name or None) from error
