"""An engine of fixed speed that costs next to nothing: `python -m tests.bench.fast_engine PORT --latency-ms 20`.

It knows as much of HTTP as its callers here speak. Each piece of a stream says when it was sent, by the clock that all
processes of a machine share, so that a reader knows how long it was under way.
"""

import argparse
import asyncio
import json
import time

import uvloop

from tests.guard.stub import COMPLETION, DONE, event

_HEAD = b"HTTP/1.1 200 OK\r\nx-shipway-version: 7\r\ncontent-type: "
_USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


_LETTERS = str.maketrans("0123456789", "abcdefghij")
"""For digits, which the guard takes for somebody's card."""


def sent_now() -> bytes:
    """An event whose text is the time."""
    delta = {"content": f"{str(time.monotonic_ns()).translate(_LETTERS)} "}
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    return event({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]})  # fmt: skip


def time_of(word: str) -> int:
    """In nanoseconds."""
    return int(word.translate({letter: digit for digit, letter in _LETTERS.items()}))


def _chunked(piece: bytes) -> bytes:
    return f"{len(piece):x}\r\n".encode() + piece + b"\r\n"


class Engine(asyncio.Protocol):
    """One connection."""

    latency_s = 0.02
    chunks = 50
    gap_s = 0.02
    _whole = json.dumps(COMPLETION).encode()

    def connection_made(  # pyright: ignore[reportIncompatibleMethodOverride] as uvloop calls it
        self, transport: asyncio.Transport
    ) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._read = b""

    def data_received(self, data: bytes) -> None:
        self._read += data
        head, mark, body = self._read.partition(b"\r\n\r\n")
        if not mark:
            return
        fields = (line.partition(b":") for line in head.lower().split(b"\r\n")[1:])
        length = next((int(value) for name, _, value in fields if name == b"content-length"), 0)
        if len(body) < length:
            return
        self._read = body[length:]
        is_streamed = b'"stream": true' in body or b'"stream":true' in body
        self._loop.call_later(self.latency_s, self._begin if is_streamed else self._answer)

    def _answer(self) -> None:
        length = f"application/json\r\ncontent-length: {len(self._whole)}\r\n\r\n".encode()
        self._transport.write(_HEAD + length + self._whole)

    def _begin(self) -> None:
        self._transport.write(_HEAD + b"text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        self._go_on(self.chunks, self._loop.time())

    def _go_on(self, left: int, due: float) -> None:
        """By the clock, so that late pieces do not delay later ones."""
        if self._transport.is_closing():
            return
        if left:
            self._transport.write(_chunked(sent_now()))
            due += self.gap_s
            self._loop.call_at(due, self._go_on, left - 1, due)
            return
        usage = {**_USAGE, "completion_tokens": self.chunks}
        end = {"index": 0, "delta": {}, "finish_reason": "stop"}
        last = event({"id": "c", "choices": [end]}) + event(
            {"id": "c", "choices": [], "usage": usage}
        )
        self._transport.write(_chunked(last + DONE) + b"0\r\n\r\n")


async def _serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Engine, "127.0.0.1", port, backlog=8192)
    async with server:
        await server.serve_forever()


def main() -> None:
    """Serves until it is killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--latency-ms", type=float, default=20)
    parser.add_argument("--chunks", type=int, default=50)
    parser.add_argument("--gap-ms", type=float, default=20)
    options = parser.parse_args()
    Engine.latency_s = options.latency_ms / 1000
    Engine.chunks, Engine.gap_s = options.chunks, options.gap_ms / 1000
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(options.port))


if __name__ == "__main__":
    main()
