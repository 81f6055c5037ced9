"""HTTP/1.1 on loopback: requests in, answers and watches out, connections that can be cut on demand.

A thread for each connection. Nothing is decided here; what is answered is `server`'s.
"""

import json
import socket
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any, Protocol, cast
from urllib.parse import parse_qsl, urlsplit

from tests.kubernetes_api import status
from tests.kubernetes_api.addresses import Address, Request, find_address, find_verb
from tests.kubernetes_api.api import Answer
from tests.kubernetes_api.faults import Faults, Planned
from tests.kubernetes_api.rbac import User
from tests.kubernetes_api.resources import Catalogue
from tests.kubernetes_api.watches import Watch

_POLL_S = 0.02
"""How long the end of a server may take to be noticed."""


class Answers(Protocol):
    """What knows the answers."""

    catalogue: Catalogue
    faults: Faults
    errors: list[str]
    changed: threading.Condition

    def user_of(self, authorization: str) -> User: ...
    def answer(self, request: Request, user: User) -> Answer | Watch: ...
    def events(self, watch: Watch, is_cut: Callable[[], bool]) -> Iterator[Mapping[str, Any]]: ...


class Http(ThreadingHTTPServer):
    """The listening socket, and the connections that it has open."""

    daemon_threads = False
    request_queue_size = 128

    def __init__(self, stand_in: Answers, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.stand_in = stand_in
        self.is_gone = threading.Event()
        self.cut_watches = 0
        self._open: set[socket.socket] = set()
        self._watching: set[socket.socket] = set()
        self._loop = threading.Thread(target=self.serve_forever, args=(_POLL_S,))

    def server_bind(self) -> None:
        """Without asking a name server what loopback is called."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]

    def start(self) -> None:
        self._loop.start()

    def end(self, changed: threading.Condition) -> None:
        self.is_gone.set()
        self.shutdown()
        self._loop.join()
        with changed:
            _cut(self._open)
            changed.notify_all()
        self.server_close()

    def drop_watches(self, changed: threading.Condition) -> None:
        with changed:
            self.cut_watches += 1
            _cut(self._watching)
            changed.notify_all()

    def opened(self, connection: socket.socket) -> None:
        with self.stand_in.changed:
            self._open.add(connection)
            if self.is_gone.is_set():  # it came while the others were cut
                _cut({connection})

    def watches(self, connection: socket.socket) -> Callable[[], bool]:
        """Mark the connection as a watch's; what is returned says whether it was cut since."""
        with self.stand_in.changed:
            self._watching.add(connection)
            before = self.cut_watches
        return lambda: self.is_gone.is_set() or self.cut_watches != before

    def closed(self, connection: socket.socket) -> None:
        with self.stand_in.changed:
            self._open.discard(connection)
            self._watching.discard(connection)


def _cut(connections: set[socket.socket]) -> None:
    for one in connections:
        try:
            one.shutdown(socket.SHUT_RDWR)
        except OSError:  # the other side was faster
            continue


class _Handler(BaseHTTPRequestHandler):
    """One connection, request after request."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self._http.opened(self.connection)

    def finish(self) -> None:
        self._http.closed(self.connection)
        try:
            super().finish()
        except OSError:
            return

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:  # cut, by the other side or on demand
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing: what matters is in the answers."""

    @property
    def _http(self) -> Http:
        return cast("Http", self.server)

    def _answer(self) -> None:
        stand_in = self._http.stand_in
        request = self._request()
        try:
            self._fail_as_planned(stand_in, request)
            user = stand_in.user_of(self.headers.get("Authorization", ""))
            found = stand_in.answer(request, user)
        except status.Refusal as refusal:
            self._refuse(refusal)
        except NotImplementedError as error:
            self._refuse(status.not_built(str(error)))
        except Exception as error:  # noqa: BLE001
            stand_in.errors.append(traceback.format_exc())
            message = f"the stand-in failed: {error!r}"
            self._refuse(status.Refusal(status.failure(500, "InternalError", message)))
        else:
            if isinstance(found, Watch):
                self._stream(found)
            else:
                self._send(found.code, found.body)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815

    def _request(self) -> Request:
        parts = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        return Request(
            method=self.command,
            path=parts.path,
            query=dict(parse_qsl(parts.query, keep_blank_values=True)),
            content_type=self.headers.get("Content-Type", "application/json").partition(";")[0],
            user_agent=self.headers.get("User-Agent", ""),
            body=self.rfile.read(length),
        )

    def _fail_as_planned(self, stand_in: Answers, request: Request) -> None:
        faults = stand_in.faults
        if faults.latency_s:
            self._http.is_gone.wait(faults.latency_s)
        address = find_address(stand_in.catalogue, request.path)
        if address is None:
            return
        planned = faults.take(find_verb(request, address), address.resource.plural)
        if planned is not None:
            raise _refusal(planned, address)

    def _refuse(self, refusal: status.Refusal) -> None:
        code = refusal.status["code"]
        if refusal.status.get("kind") != "Status":
            self._send_text(code, refusal.status["message"])
            return
        headers = {}
        if refusal.retry_after_s is not None:
            headers["Retry-After"] = str(refusal.retry_after_s)
        self._send(code, refusal.status, headers)

    def _send(
        self, code: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> None:
        self._send_bytes(
            code, json.dumps(body).encode(), {"Content-Type": "application/json", **(headers or {})}
        )

    def _send_text(self, code: int, text: str) -> None:
        self._send_bytes(code, f"{text}\n".encode(), {"Content-Type": "text/plain; charset=utf-8"})

    def _send_bytes(self, code: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, watch: Watch) -> None:
        is_cut = self._http.watches(self.connection)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in self._http.stand_in.events(watch, is_cut):
            self._chunk(json.dumps(event).encode() + b"\n")
        if is_cut():
            self.close_connection = True
        else:
            self._chunk(b"")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")


_PLANNED = {
    400: ("BadRequest", "the object is refused"),
    403: ("Forbidden", "it is forbidden"),
    404: ("NotFound", "it is not there"),
    410: ("Expired", "The resourceVersion for the provided watch is too old."),
    422: ("Invalid", "the object is invalid"),
    429: ("TooManyRequests", "Too many requests, please try again later."),
    500: ("InternalError", "an error on the server, on demand"),
    503: ("ServiceUnavailable", "the server is currently unable to handle the request"),
    504: ("Timeout", "the server did not answer in time"),
}
"""The reason and the usual message of each answer that can be planned, a conflict aside."""


def _refusal(planned: Planned, address: Address) -> status.Refusal:
    if planned.code == 409:
        return status.modified(address.resource, address.name, planned.message or None)
    reason, usual = _PLANNED[planned.code]
    is_later = planned.code == 429
    details = {"retryAfterSeconds": planned.retry_after_s} if is_later else None
    body = status.failure(planned.code, reason, planned.message or usual, details)
    return status.Refusal(body, retry_after_s=planned.retry_after_s if is_later else None)
