"""OpenAI's chat protocol at the engine: a body in, a request for tokens out; text in, a whole answer or its events out. Pure.

Validation for people is the guard's work; here only what generation needs is read, and refused when it cannot work.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

_DEFAULT_MAX_TOKENS = 256
_HALF = "\ufffd"
"""What a tokenizer writes for bytes that are no whole character yet."""


class BadRequest(Exception):
    """The client asked for something that cannot be answered; becomes a 400 in OpenAI's envelope."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        """`param` names the field at fault."""
        super().__init__(message)
        self.param = param


class _Part(BaseModel):
    type: Literal["text"]
    text: str


class _Message(BaseModel):
    role: str
    content: str | list[_Part]

    def plain(self) -> dict[str, str]:
        content = self.content
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        return {"role": self.role, "content": text}


class _StreamOptions(BaseModel):
    include_usage: bool = False


_Stop = Annotated[str, Field(min_length=1)]


class _Body(BaseModel):
    messages: Annotated[list[_Message], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    stop: _Stop | list[_Stop] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """What one client wants."""

    messages: tuple[dict[str, str], ...]
    max_tokens: int
    temperature: float
    """0 is greedy."""
    top_p: float
    stop: tuple[str, ...]
    stream: bool
    include_usage: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one answer."""

    prompt: int
    completion: int

    def body(self) -> dict[str, int]:
        """OpenAI's `usage` object."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
        }


def parse_chat(body: bytes) -> ChatRequest:
    """The request that a body spells.

    Raises:
        BadRequest: no JSON object, or a field out of its range.
    """
    try:
        parsed = _Body.model_validate_json(body)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"]))
        raise BadRequest(f"{place or 'body'}: {fault['msg']}", param=place or None) from error
    stop = parsed.stop or ()
    return ChatRequest(
        messages=tuple(message.plain() for message in parsed.messages),
        max_tokens=parsed.max_completion_tokens or parsed.max_tokens or _DEFAULT_MAX_TOKENS,
        temperature=1.0 if parsed.temperature is None else parsed.temperature,
        top_p=1.0 if parsed.top_p is None else parsed.top_p,
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        stream=bool(parsed.stream),
        include_usage=parsed.stream_options is not None and parsed.stream_options.include_usage,
    )


def event(document: dict[str, Any]) -> bytes:
    """A server-sent event that holds `document`."""
    return f"data: {json.dumps(document, ensure_ascii=False)}\n\n".encode()


DONE = b"data: [DONE]\n\n"


def envelope(message: str, *, kind: str, param: str | None = None) -> dict[str, Any]:
    """OpenAI's error object."""
    return {"error": {"message": message, "type": kind, "param": param, "code": None}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A piece of an answer's text; of a whole answer it is the only one."""

    text: str
    finish: str
    """Why the answer ends here; empty for every piece but the last."""
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What is said around the pieces of one answer."""

    request_id: str
    created: int
    """Seconds since the epoch."""
    model: str
    include_usage: bool
    """Whether a stream ends with its usage; a whole answer always has it."""

    def opening(self) -> bytes:
        """The first event of a stream."""
        return self._chunk({"role": "assistant", "content": ""})

    def events(self, piece: Piece) -> bytes:
        """A piece as events of a stream; the last one brings the end with it."""
        told = self._chunk({"content": piece.text}) if piece.text else b""
        if not piece.finish:
            return told
        told += self._chunk({}, finish=piece.finish)
        if self.include_usage:
            told += event({**self._head("chat.completion.chunk", ()), "usage": piece.usage.body()})
        return told + DONE

    def whole(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        """All pieces, of which there is at least one, as one `chat.completion`."""
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": "".join(piece.text for piece in pieces)},
            "finish_reason": pieces[-1].finish,
        }
        return {**self._head("chat.completion", (choice,)), "usage": pieces[-1].usage.body()}

    def _chunk(self, delta: dict[str, str], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return event(self._head("chat.completion.chunk", (choice,)))

    def _head(self, kind: str, choices: tuple[dict[str, Any], ...]) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{self.request_id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": list(choices),
        }


@dataclass(slots=True, kw_only=True)
class AnswerText:
    """The text of one answer as its tokens come in."""

    stop: tuple[str, ...]
    text: str = ""
    sent: int = 0
    """Characters that have been given out."""
    finish: str | None = None

    def grow(self, text: str, *, is_last: bool) -> str:
        """What may be given out now that the whole text so far is `text`.

        Holds back a half character (the replacement mark at the end) and the beginning of a stop string, until it is
        clear what they are. The first stop string ends the answer and is never given out; neither is a character whose
        other half does not come.
        """
        self.text = text
        found = [at for at in map(text.find, self.stop) if at >= 0]
        if found:
            self.text, self.finish = text[: min(found)], "stop"
        elif is_last:
            self.text = text.rstrip(_HALF)
        ready = len(self.text) if found or is_last else len(self.text) - self._held()
        out = self.text[self.sent : max(ready, self.sent)]
        self.sent = max(ready, self.sent)
        return out

    def _held(self) -> int:
        broken = len(self.text) - len(self.text.rstrip(_HALF))
        begun = (
            length
            for stop in self.stop
            for length in range(min(len(stop) - 1, len(self.text)), 0, -1)
            if self.text.endswith(stop[:length])
        )
        return max([broken, *begun])
