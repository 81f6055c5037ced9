"""What counts as an error of a version: the one place that says so. Pure.

Failed: 5xx, timeouts, streams broken off, and an answer that is none (an error in a 200, rubbish). Answered: everything
else that the version sent, its 4xx and 429 included, for those are about the request. Neither, and so left out of
requests as well as errors: what the guard itself refused, and what the client cancelled before the outcome was known.
"""

import json
from collections.abc import Iterable, Sequence
from enum import StrEnum
from http import HTTPStatus
from typing import Any, Protocol, cast

from pydantic_core import from_json

from deploy_targets.engine.chat import Usage
from deploy_targets.guard.errors import UpstreamBroken

_MAX_LINE_BYTES = 1 << 20
_MOST_TOKENS = 1 << 31
"""Of one answer. Whoever says more is not believed, and what counts tokens need not hold any number there is."""
_DATA = b"data:"
_DONE = b"[DONE]"


class Outcome(StrEnum):
    """How a request ended."""

    ANSWERED = "answered"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REFUSED = "refused"


def whole_outcome(status: int, body: bytes, *, is_streamed: bool) -> Outcome:
    """How a request ended that was answered at once; `is_streamed` says that a stream was asked for instead."""
    if HTTPStatus(400) <= status < HTTPStatus(500):
        return Outcome.ANSWERED
    is_completion = status == HTTPStatus.OK and _has_choices(read_object(body), "message")
    return Outcome.ANSWERED if is_completion and not is_streamed else Outcome.FAILED


def is_envelope(body: bytes) -> bool:
    """Whether a client of OpenAI's protocol can read this error."""
    error: object = read_object(body).get("error")
    return isinstance(error, dict) and "message" in error


class Filter(Protocol):
    """What may change the events of a stream; `steps.AnswerFilter` says more."""

    is_over: bool

    def event(self, event: dict[str, Any]) -> Iterable[dict[str, Any]]:
        """Those to give in its place."""
        ...

    def end(self) -> Iterable[dict[str, Any]]:
        """Those that were held back."""
        ...


class Watch(Protocol):
    """What looks on; `quality.AnswerWatch` says more."""

    def event(self, event: dict[str, Any]) -> None:
        """The next event with choices."""
        ...

    def end(self) -> None:
        """The version's own end mark."""
        ...


class StreamScan:
    """Reads a stream of server-sent events as it passes. Each `data:` line holds one JSON object, or the end mark.

    Lines that no filter changes stay what they are, byte for byte.
    """

    def __init__(
        self,
        *,
        keeps_usage: bool = True,
        filters: Sequence[Filter] = (),
        watch: Watch | None = None,
    ) -> None:
        """Nothing has been seen yet. `keeps_usage`: the client has asked for the event that only counts tokens.

        `watch` sees the events that the version sent, each before any filter does.
        """
        self.is_done = False
        self.has_error = False
        self.usage: Usage | None = None
        self.texts = 0
        """Events that brought text, as the version sent them."""
        self._keeps_usage = keeps_usage
        self._filters = filters
        self._watch = watch
        self._tail = b""
        self._drops_blank = False

    @property
    def is_over(self) -> bool:
        """A filter gives nothing of this stream any more."""
        return any(one.is_over for one in self._filters)

    @property
    def outcome(self) -> Outcome | None:
        """How the request ended; None while it may still go either way."""
        if self.has_error:
            return Outcome.FAILED
        return Outcome.ANSWERED if self.is_done else None

    def feed(self, piece: bytes) -> bytes:
        """The whole lines that may be passed on. A begun line is held back, so that a broken one is never sent.

        Raises:
            UpstreamBroken: a line without an end; or, where there are filters, one that they cannot read.
            RequestRefused: by a filter.
        """
        held = self._tail + piece
        cut = held.rfind(b"\n") + 1
        lines, self._tail = held[:cut], held[cut:]
        if len(self._tail) > _MAX_LINE_BYTES:
            message = f"The stream sent a line of more than {_MAX_LINE_BYTES} bytes."
            raise UpstreamBroken(message)
        return b"".join(map(self._pass, lines.splitlines(keepends=True)))

    def cut(self) -> bytes:
        """The end mark of a stream that is over before the version has ended it."""
        self._tail = b""
        return self._close(_DATA + b" " + _DONE + b"\n\n")

    def end(self) -> bytes:
        """What is left when the stream has ended: nothing, or the end mark without a line end."""
        rest, self._tail = self._tail, b""
        if rest.strip() != _DATA + b" " + _DONE:
            return b""
        return self._pass(rest)

    def _pass(self, line: bytes) -> bytes:
        """What is passed on for this line."""
        if not line.startswith(_DATA):
            drops, self._drops_blank = self._drops_blank and not line.strip(), False
            return b"" if drops else line
        payload = line.removeprefix(_DATA).strip()
        if payload == _DONE:
            if self._watch is not None:
                self._watch.end()
            return self._close(line)
        event = read_object(payload)
        choices = event.get("choices")
        if not event or ((choices or event.get("error")) and not _has_choices(event, "delta")):
            self.has_error = True
            if self._filters and (choices or not event):
                # It may hold text that no filter could see.
                message = "The model sent what is no event of an answer. Try again."
                raise UpstreamBroken(message)
            return line
        self.usage = read_usage(event) or self.usage
        self.texts += brings_text(event)
        if choices and self._watch is not None:
            self._watch.event(event)
        given = [event] if choices or self._keeps_usage or not self.usage else []
        for one in self._filters:
            given = [changed for event in given for changed in one.event(event)]
        if len(given) == 1 and given[0] is event:
            return line
        self._drops_blank = not given
        return b"\n".join(map(_event, given))

    def _close(self, line: bytes) -> bytes:
        """The end mark, and before it what was held back."""
        held = b"" if self.is_done else b"".join(_event(one) + b"\n" for one in self._held())
        self.is_done = True
        return held + line

    def _held(self) -> list[dict[str, Any]]:
        """What each filter has held back, seen by those after it."""
        given: list[dict[str, Any]] = []
        for one in self._filters:
            given = [changed for event in given for changed in one.event(event)]
            given += one.end()
        return given


def read_usage(document: dict[str, Any]) -> Usage | None:
    """The tokens that an answer, or an event of one, says that it took; None where it does not, or cannot be right."""
    usage: object = document.get("usage")
    if not isinstance(usage, dict):
        return None
    told = cast("dict[str, Any]", usage)
    prompt, completion = told.get("prompt_tokens"), told.get("completion_tokens", 0)
    if not (isinstance(prompt, int) and isinstance(completion, int)):
        return None
    if max(prompt, completion) > _MOST_TOKENS:
        return None
    return Usage(prompt=max(prompt, 0), completion=max(completion, 0))


def brings_text(event: dict[str, Any]) -> bool:
    """Whether an event of a chat has something to read."""
    choices: Any = event.get("choices")
    try:
        return any(choice["delta"].get("content") for choice in choices)
    except (TypeError, KeyError, AttributeError):
        return False


def _has_choices(document: dict[str, Any], part: str) -> bool:
    """Whether there are any, each of them an object in which `part` is one whose content is text."""
    choices: object = document.get("choices")
    if not isinstance(choices, list):
        return False

    def is_choice(one: object) -> bool:
        if not isinstance(one, dict):
            return False
        said: object = cast("dict[str, Any]", one).get(part) or {}
        return isinstance(said, dict) and isinstance(
            cast("dict[str, Any]", said).get("content") or "", str
        )

    told = cast("list[object]", choices)
    return bool(told) and all(map(is_choice, told))


def _event(document: dict[str, Any]) -> bytes:
    return _DATA + b" " + json.dumps(document, ensure_ascii=False).encode() + b"\n"


def read_object(text: bytes) -> dict[str, Any]:
    """The JSON object that `text` spells; an empty one when it spells none."""
    try:
        document: object = from_json(text)
    except ValueError:
        return {}
    return cast("dict[str, Any]", document) if isinstance(document, dict) else {}
