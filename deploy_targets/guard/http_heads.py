"""Bounds on the heads of requests, of which uvicorn has none.

Without them it takes fields by the thousand, fields of 50 MB and clients that never come to the end of a head; a path of
20 MB keeps the whole process busy for 19 s (measured). A head that is too large gets a 431, one that takes too long a
408; either way the connection ends. What else is no body has the same bound: fields behind a body in chunks, and what
stands beside a chunk's length.
"""

import asyncio
from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 32 << 10
MAX_FIELDS = 100
HEAD_S = 30.0


class _HeadTooLarge(Exception):
    """Ends the parser's work; uvicorn's protocol then answers by `send_400_response`."""


class BoundedHeads(HttpToolsProtocol):
    """uvicorn's protocol on httptools, with those bounds."""

    _head_bytes = 0
    _is_in_head = True
    _is_too_large = False
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(  # pyright: ignore[reportIncompatibleMethodOverride] as in uvicorn
        self, transport: asyncio.Transport
    ) -> None:
        """The first head may begin."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """No head is waited for any more."""
        self._end_wait()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Counts what comes before it is parsed, as long as it brings no body; a piece is cut where the bound would be passed."""
        if self._is_in_head and self._deadline is None:
            self._await_head()
        while data and not self.transport.is_closing():
            room = MAX_HEAD_BYTES - self._head_bytes
            if room <= 0:
                self._is_too_large = True
                self.send_400_response("")
                return
            piece, data = data[:room], data[room:]
            self._head_bytes += len(piece)
            super().data_received(piece)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One more field."""
        super().on_header(name, value)
        if len(self.headers) > MAX_FIELDS:
            self._is_too_large = True
            raise _HeadTooLarge

    def on_headers_complete(self) -> None:
        """The head is complete."""
        self._is_in_head, self._head_bytes = False, 0
        self._end_wait()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """What comes next is a head again."""
        self._is_in_head, self._head_bytes = True, 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """What is no head at all gets uvicorn's own 400."""
        if self._is_too_large:
            self._turn_away(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        else:
            super().send_400_response(msg)

    def _await_head(self) -> None:
        self._deadline = self.loop.call_later(HEAD_S, self._give_up)

    def _end_wait(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        # There is no cycle before the first head is complete.
        if self.cycle and not self.cycle.response_complete:
            self._await_head()  # the next head has begun while this answer is under way
        else:
            self._turn_away(HTTPStatus.REQUEST_TIMEOUT)

    def _turn_away(self, status: HTTPStatus) -> None:
        head = f"HTTP/1.1 {status.value} {status.phrase}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        self.transport.write(head.encode())
        self.transport.close()
