"""Triton's generate stream: what is asked, and the pieces of the answer. Pure. `chat.Frame` makes OpenAI's answer of them.

Who has the connection is elsewhere: the guard for clients, the smoke test for the rollout. It is always the stream that
is asked, for its events are the same for streamed and whole models; and no version is named, for each Triton serves one
and the split chooses. Triton says some failures with status 200, and its model's with 400: all of them are `AnswerFailed`.
"""

import json
from collections.abc import Iterator
from typing import Any

from deploy_targets.engine.chat import ChatRequest, Piece
from deploy_targets.engine.tensors import AnswerFailed, decode_piece, encode_request

_DATA = b"data:"
_MAX_EVENT_BYTES = 1 << 20


def generate_path(model: str) -> str:
    """Where the model of that name is asked."""
    return f"/v2/models/{model}/generate_stream"


def generate_body(asked: ChatRequest, *, draw: str) -> bytes:
    """What is posted there; `draw` as for `encode_request`."""
    return json.dumps(encode_request(asked, draw=draw)).encode()


class PieceReader:
    """Reads one answer's events as its bytes come in."""

    def __init__(self) -> None:
        """Nothing has been read yet."""
        self.version: str | None = None
        """The version of the model that answers, once one is told. An error tells none."""
        self._tail = b""
        self._is_finished = False

    def feed(self, data: bytes) -> Iterator[Piece]:
        """The pieces that are whole by now.

        Raises:
            AnswerFailed: Triton says so, in whichever of its ways, or sends no event of our model's.
            BadRequest: the model refuses the request.
        """
        *lines, self._tail = (self._tail + data).split(b"\n")
        if len(self._tail) > _MAX_EVENT_BYTES:
            message = f"Triton sent an event of more than {_MAX_EVENT_BYTES} bytes."
            raise AnswerFailed(message)
        for line in lines:
            if line.startswith(_DATA):
                piece = self._decode(line.removeprefix(_DATA))
                self._is_finished = bool(piece.finish)
                yield piece

    def end(self) -> Iterator[Piece]:
        """What is left when no more bytes come.

        Raises:
            AnswerFailed, BadRequest: as `feed`, or the answer was not finished.
        """
        yield from self.feed(b"\n")
        if not self._is_finished:
            message = "Triton ended the answer before it was finished."
            raise AnswerFailed(message)

    def _decode(self, text: bytes) -> Piece:
        try:
            event: dict[str, Any] = json.loads(text)
            if version := event.get("model_version"):
                self.version = str(version)
            return decode_piece(event)
        except (
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            OverflowError,
            RecursionError,
        ) as error:
            message = f"Triton sent an event that is none of our model's ({type(error).__name__})."
            raise AnswerFailed(message) from error


def read_pieces(body: bytes) -> tuple[list[Piece], str | None]:
    """All pieces of a whole body, and the version that its events name.

    Raises:
        AnswerFailed, BadRequest: as `PieceReader`.
    """
    reader = PieceReader()
    pieces = [*reader.feed(body), *reader.end()]
    return pieces, reader.version


def error_of(body: bytes) -> str | None:
    """What Triton says in an answer with an error's status; None where it is not Triton's own, but the split's, say."""
    try:
        told = json.loads(body.strip().removeprefix(_DATA))["error"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return told if isinstance(told, str) else None
