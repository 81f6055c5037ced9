"""What counts as an error of a version: the one place that says so. Pure.

Failed: 5xx, timeouts, streams broken off, and an answer that is none (an error in a 200, rubbish). Answered: everything
else that the version sent, its 4xx and 429 included, for those are about the request. Neither, and so left out of
requests as well as errors: what the guard itself refused, and what the client cancelled before the outcome was known.
"""

from enum import StrEnum
from http import HTTPStatus
from typing import Any, cast

from pydantic_core import from_json

from deploy_targets.guard.errors import UpstreamBroken

_MAX_LINE_BYTES = 1 << 20
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
    is_completion = status == HTTPStatus.OK and bool(_read_object(body).get("choices"))
    return Outcome.ANSWERED if is_completion and not is_streamed else Outcome.FAILED


def is_envelope(body: bytes) -> bool:
    """Whether a client of OpenAI's protocol can read this error."""
    error: object = _read_object(body).get("error")
    return isinstance(error, dict) and "message" in error


class StreamScan:
    """Reads a stream of server-sent events as it passes. Each `data:` line holds one JSON object, or the end mark."""

    def __init__(self) -> None:
        """Nothing has been seen yet."""
        self.is_done = False
        self.has_error = False
        self._tail = b""

    @property
    def outcome(self) -> Outcome | None:
        """How the request ended; None while it may still go either way."""
        if self.has_error:
            return Outcome.FAILED
        return Outcome.ANSWERED if self.is_done else None

    def feed(self, piece: bytes) -> bytes:
        """The whole lines that may be passed on. A begun line is held back, so that a broken one is never sent.

        Raises:
            UpstreamBroken: a line without an end.
        """
        held = self._tail + piece
        cut = held.rfind(b"\n") + 1
        lines, self._tail = held[:cut], held[cut:]
        if len(self._tail) > _MAX_LINE_BYTES:
            message = f"The stream sent a line of more than {_MAX_LINE_BYTES} bytes."
            raise UpstreamBroken(message)
        for line in lines.splitlines():
            self._look(line)
        return lines

    def end(self) -> bytes:
        """What is left when the stream has ended: nothing, or the end mark without a line end."""
        rest, self._tail = self._tail, b""
        if rest.strip() != _DATA + b" " + _DONE:
            return b""
        self.is_done = True
        return rest

    def _look(self, line: bytes) -> None:
        if not line.startswith(_DATA):
            return
        payload = line.removeprefix(_DATA).strip()
        if payload == _DONE:
            self.is_done = True
            return
        event = _read_object(payload)
        if not event or (event.get("error") and not event.get("choices")):
            self.has_error = True


def _read_object(text: bytes) -> dict[str, Any]:
    """The JSON object that `text` spells; an empty one when it spells none."""
    try:
        document: object = from_json(text)
    except ValueError:
        return {}
    return cast("dict[str, Any]", document) if isinstance(document, dict) else {}
