"""How a part fails: it is gone, hung, slow, or something else sits on its port that answers errors or nonsense.

A hung process is stopped; a slow one is stopped nine tenths of the time, so that it answers right, and late. What sits on
the port in its place is `Rude`, which can also stand before a part and pass on what is asked until it is told to be rude.
"""

import itertools
import re
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Literal

import httpx2
import psutil

Way = Literal["killed", "hung", "slow", "errors", "nonsense"]
AWAY_S = 10
"""How long a part is away before it is started again, or goes on."""
_STOPPED_S, _RUNS_S = 1.8, 0.2
_PASSED_ON = {"authorization", "content-type"}


def _http(status: str, body: bytes, *, kind: str = "text/html", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {size}\r\nConnection: close"
    )
    return f"{head}\r\n\r\n".encode() + body


ERRORS = (
    _http("500 Internal Server Error", b"<html>something went wrong</html>"),
    _http("502 Bad Gateway", b"<html>bad gateway</html>"),
    _http("503 Service Unavailable", b"", kind="text/plain"),
)
NONSENSE = (
    _http("200 OK", b"<html>Please sign in</html>"),
    _http("200 OK", b"{}", kind="application/json"),
    _http("404 Not Found", b"default backend - 404", kind="text/plain"),
    _http("200 OK", b""),
    b"\x00\xff\x17SSH-2.0-OpenSSH_9.2\r\n",
    _http("200 OK", b"null", kind="application/json"),
    _http("200 OK", b'{"registered_model": {"na', kind="application/json", length=5_000),
)
"""Of a proxy that has lost what is behind it, of another service on that port, of one that broke off."""
_RUDE = {"errors": ERRORS, "nonsense": NONSENSE}


class Rude(socketserver.ThreadingTCPServer):
    """Says its `answers` in turn, one to each connection, whatever it is asked."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 50

    def __init__(self, port: int = 0, *, before: str = "") -> None:
        """`before` is the address of a part; without answers what is asked is passed on to it."""
        super().__init__(("127.0.0.1", port), _Connection)
        self.port: int = self.server_address[1]
        self.before = before
        self.answers: Iterator[bytes] | None = None
        self.waits_s = 0.0
        """Before each answer."""

    def answer_to(self, asked: bytes) -> bytes:
        time.sleep(self.waits_s)
        if self.answers is not None:
            return next(self.answers)
        head, _, body = asked.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ")
        headers = dict(line.split(": ", 1) for line in lines)
        kept = {name: text for name, text in headers.items() if name.lower() in _PASSED_ON}
        url = self.before + path
        found = httpx2.request(method, url, headers=kept, content=body, timeout=30)
        kind = found.headers.get("content-type", "text/plain")
        return _http(f"{found.status_code} as it came", found.content, kind=kind)


class _Connection(socketserver.BaseRequestHandler):
    server: Rude
    request: socket.socket

    def handle(self) -> None:
        with suppress(OSError):  # whoever asked waits no longer
            self.request.settimeout(5)
            asked = self.request.recv(1 << 16)
            while self.server.before and not _is_whole(asked):
                asked += self.request.recv(1 << 16)
            if asked:
                self.request.sendall(self.server.answer_to(asked))
                self.request.shutdown(socket.SHUT_WR)
                # Closed with bytes unread the answer would be lost to a reset.
                while self.request.recv(1 << 16):
                    pass


def _is_whole(asked: bytes) -> bool:
    """Or nothing, when its sender has gone."""
    head, end, body = asked.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    return not asked or (bool(end) and len(body) >= int(length[1] if length else 0))


@contextmanager
def served(rude: Rude) -> Generator[Rude]:
    """Listening until the end of the block."""
    thread = threading.Thread(target=rude.serve_forever, daemon=True)
    thread.start()
    try:
        yield rude
    finally:
        rude.shutdown()
        rude.server_close()
        thread.join()


def in_turn(answers: Sequence[bytes]) -> Iterator[bytes]:
    """For ever."""
    return itertools.cycle(answers)


def fail(
    processes: Sequence[psutil.Process], way: Way, *, port: int, start: Callable[[], object]
) -> None:
    """They fail for `AWAY_S`, and all is back when this returns: `start` starts them again on their port."""
    if way == "hung":
        _stop(processes, AWAY_S)
        return
    if way == "slow":
        end = time.monotonic() + AWAY_S
        while time.monotonic() < end:
            _stop(processes, _STOPPED_S)
            time.sleep(_RUNS_S)
        return
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=10)
    if way == "killed":
        time.sleep(AWAY_S)
    else:
        with served(Rude(port)) as rude:
            rude.answers = in_turn(_RUDE[way])
            time.sleep(AWAY_S)
    start()


def _stop(processes: Sequence[psutil.Process], seconds: float) -> None:
    """Of a version that is retired meanwhile there is nothing to stop."""
    try:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        time.sleep(seconds)
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()
