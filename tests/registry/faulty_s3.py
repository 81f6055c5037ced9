"""A proxy in front of a real S3: it counts what is sent, and refuses, damages, holds up or cuts off what it is told to."""

import http.client
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request, as it came."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes

    @property
    def is_data(self) -> bool:
        """A large file's bytes, or a part's: neither a copy nor the small ones, which may lie there from another test."""
        return (
            self.method == "PUT"
            and "X-Amz-Copy-Source" not in self.headers
            and not self.path.endswith((".json", ".jinja"))
        )

    @property
    def is_copy(self) -> bool:
        return "X-Amz-Copy-Source" in self.headers

    @property
    def is_fetch(self) -> bool:
        """A piece of a file's bytes is asked for."""
        return self.method == "GET" and "Range" in self.headers


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """What S3 would say instead."""

    status: int
    code: str

    @property
    def body(self) -> bytes:
        return (
            f"<Error><Code>{self.code}</Code><Message>so the proxy says</Message></Error>".encode()
        )


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The connection is closed after so many bytes of what S3 answers."""

    after_bytes: int


@dataclass(frozen=True, kw_only=True)
class Damage:
    """The first byte of what S3 answers is another one."""


Fault = Callable[[Asked], Refusal | Cut | Damage | bytes | None]
"""What is done to a request: it is refused, its answer is spoilt, it goes on with another body, or as it came."""


@dataclass
class FaultyS3:
    """What the proxy does and has seen; changed by tests while it runs."""

    upstream: tuple[str, int]
    fault: Fault = lambda _: None
    asked: list[Asked] = field(default_factory=list)
    given: list[int] = field(default_factory=list)
    """Bytes of files that were handed out, one number for each piece."""
    url: str = ""

    def sent(self) -> int:
        """Bytes of files that S3 took."""
        return sum(len(one.body) for one in self.asked if one.is_data)

    def copies(self) -> int:
        return sum(one.is_copy for one in self.asked)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def handle_expect_100(self) -> bool:
        self.send_response_only(100)
        self.end_headers()
        return True

    def _serve(self) -> None:
        proxy: FaultyS3 = self.server.proxy
        split = urlsplit(self.path)
        asked = Asked(
            method=self.command,
            path=split.path,
            query=parse_qs(split.query, keep_blank_values=True),
            headers={name.title(): value for name, value in self.headers.items()},
            body=self.rfile.read(int(self.headers.get("Content-Length", 0))),
        )
        answer = proxy.fault(asked)
        if isinstance(answer, Refusal):
            self._answer(answer.status, {"Content-Type": "application/xml"}, answer.body)
            return
        body = answer if isinstance(answer, bytes) else asked.body
        upstream = http.client.HTTPConnection(*proxy.upstream, timeout=120)
        headers = {name: value for name, value in self.headers.items() if name != "Expect"}
        upstream.request(self.command, self.path, body=body or None, headers=headers)
        response = upstream.getresponse()
        content = response.read()
        upstream.close()
        if response.status < 300:
            proxy.asked.append(asked)
        kept = {
            name: value
            for name, value in response.getheaders()
            if name.lower() not in {"transfer-encoding", "connection"}
        }
        limit = answer.after_bytes if isinstance(answer, Cut) else len(content)
        if isinstance(answer, Damage):
            content = bytes([content[0] ^ 1]) + content[1:]
        if response.status < 300 and asked.is_fetch:
            proxy.given.append(min(limit, len(content)))
        self._answer(response.status, kept, content, limit)

    def _answer(
        self, status: int, headers: dict[str, str], body: bytes, limit: int | None = None
    ) -> None:
        self.send_response_only(status)
        if self.command != "HEAD":
            headers = {name: one for name, one in headers.items() if name != "Content-Length"}
            headers["Content-Length"] = str(len(body))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:limit])
        self.close_connection |= limit is not None and limit < len(body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815 - the library's names

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Says nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is no news."""


@contextmanager
def faulty_s3(url: str) -> Generator[FaultyS3]:
    """A proxy in front of the S3 at `url`; ended with the block."""
    split = urlsplit(url)
    proxy = FaultyS3(upstream=(str(split.hostname), int(split.port or 80)))
    server = _Server(("127.0.0.1", 0), _Handler)
    server.proxy = proxy  # type: ignore[attr-defined]
    proxy.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
