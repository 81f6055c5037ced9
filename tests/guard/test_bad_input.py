"""Whatever clients and engines send: no error of our own, no hang, nothing left over, and each engine's fault counted.

Heads are in test_http_heads, streams that break off in test_app, what the API's own document allows in test_fuzz.
"""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx2
import pytest

from deploy_targets.guard import chat
from deploy_targets.guard.steps import steps_of
from tests.guard.stub import KEY, a_chat
from tests.guard.test_fuzz import POLICY
from tests.guard.world import World

DEEP = 100_000
HOSTILE = {
    "nothing": b"",
    "blank": b" \n",
    "a bomb of lists": b"[" * DEEP,
    "a bomb of objects": b'{"a":' * DEEP,
    "a closed bomb": b'{"model":"chat","messages":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "a bomb beside a good chat": json.dumps(a_chat()).encode()[:-1]
    + b',"x":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "a number of a hundred thousand digits": json.dumps(a_chat()).encode()[:-1]
    + b',"seed":' + b"9" * DEEP + b"}",
    "no UTF-8": json.dumps(a_chat()).encode().replace(b"ok", b"\xff\xfe\x80"),
    "half a surrogate": json.dumps(a_chat("\ud800")).encode(),
    "UTF-16": json.dumps(a_chat()).encode("utf-16"),
    "NULs": b"\0" * 1000,
    "an empty key a hundred thousand times": b"{" + b'"":1,' * DEEP + b'"":1}',
    "compressed": b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
}  # fmt: skip


@pytest.mark.parametrize("is_policed", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_hostile_body_is_answered_or_refused_at_once(
    start_world: Callable[..., World], path: str, *, is_policed: bool
) -> None:
    world = start_world(**({"steps": steps_of(POLICY)} if is_policed else {}))

    for name, body in HOSTILE.items():
        began = time.monotonic()
        response = world.http.post(path, content=body)
        assert response.status_code in {200, 400, 422}, (name, response.text)
        assert time.monotonic() - began < 5, name

    world.stub.bodies.clear()
    assert world.post().status_code == 200
    assert in_flight(world) == 0


def in_flight(world: World) -> float:
    (line,) = [
        line
        for line in httpx2.get(f"{world.admin_url}/metrics").text.splitlines()
        if line.startswith("llm_inference_in_flight{")
    ]
    return float(line.rpartition(" ")[2])


@contextmanager
def begun(world: World, *, says_bytes: int, sends: bytes) -> Iterator[socket.socket]:
    """A request whose body is not whole."""
    host, port = world.url.removeprefix("http://").split(":")
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Length: {says_bytes}\r\n\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=20) as client:
        client.sendall(head.encode() + sends)
        yield client


def test_a_body_that_does_not_come_is_given_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat, "_BODY_S", 0.2)

    with begun(world, says_bytes=1000, sends=b'{"model"') as client:
        told = client.recv(65536)

    assert told.startswith(b"HTTP/1.1 408 ")
    line = world.line()
    assert (line["outcome"], line["error"]) == ("refused", "request_timeout")
    assert in_flight(world) == 0


def test_clients_that_vanish_in_mid_request_leave_nothing_behind(world: World) -> None:
    for _ in range(50):
        with begun(world, says_bytes=1000, sends=b'{"model"'):
            world.sent()

    assert world.counted("unattributed") == (0, 0)
    assert in_flight(world) == 0
    assert not world.stub.bodies


ANSWER = b"HTTP/1.1 200 OK\r\nx-shipway-version: 7\r\ncontent-type: application/json\r\n"
STREAM = (
    b"HTTP/1.1 200 OK\r\nx-shipway-version: 7\r\ncontent-type: text/event-stream\r\n"
    b"connection: close\r\n\r\n"
)
RUBBISH = {
    "no HTTP at all": (b"SSH-2.0-OpenSSH_9.6\r\n", "unattributed"),
    "nothing": (b"", "unattributed"),
    "half a head": (b"HTTP/1.1 200 OK\r\nx-shipway-version: 7\r\n", "unattributed"),
    "a head of a megabyte": (b"HTTP/1.1 200 OK\r\nx: " + b"x" * (1 << 20), "unattributed"),
    "fields by the thousand": (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 50_000, "unattributed"),
    "less than it says": (ANSWER + b"content-length: 1000\r\n\r\n{", "7"),
    "a chunk of no size": (ANSWER + b"transfer-encoding: chunked\r\n\r\nzz\r\n", "unattributed"),
    "no UTF-8": (ANSWER + b"content-length: 4\r\n\r\n\xff\xfe\x80\x81", "7"),
    "a bomb": (ANSWER + b"content-length: 100000\r\n\r\n" + b"[" * 100_000, "7"),
    "an empty answer": (ANSWER + b"content-length: 0\r\n\r\n", "7"),
    "compressed though nobody asked": (
        ANSWER + b"content-encoding: gzip\r\ncontent-length: 4\r\n\r\nabcd",
        "7",
    ),
    "a status beyond all": (
        b"HTTP/1.1 799 What\r\nx-shipway-version: 7\r\ncontent-length: 0\r\n\r\n",
        "7",
    ),
    "a stream of rubbish": (STREAM + b"\xff\xfe\0" * 1000, "7"),
    "a stream of one endless line": (STREAM + b"data: " + b"x" * (2 << 20), "7"),
    "a stream of bombs": (STREAM + b"data: " + b"[" * 100_000 + b"\n\n", "7"),
}


@pytest.mark.parametrize("is_policed", [False, True])
@pytest.mark.parametrize("what", RUBBISH)
def test_rubbish_is_an_error_of_the_version_that_sent_it(
    start_world: Callable[..., World], what: str, *, is_policed: bool
) -> None:
    sends, version = RUBBISH[what]
    with an_engine(sends) as url:
        steps = {"steps": steps_of(POLICY)} if is_policed else {}
        world = start_world(upstream_url=url, **steps)

        response = world.post(a_chat(stream="stream" in what))

    if response.status_code == 200:
        assert "stream" in what
        assert "[DONE]" not in response.text
        assert (
            '"error"' in response.text or "bombs" in what
        )  # which no client can take for an answer
    else:
        assert 500 < response.status_code < 600
        assert response.json()["error"]["code"] != "internal_error"
    assert world.line()["outcome"] == "failed"
    assert world.counted(version) == (1, 1)
    assert in_flight(world) == 0


@contextmanager
def an_engine(sends: bytes) -> Iterator[str]:
    """Its address; it answers one request with these bytes and hangs up."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            try:
                connection.sendall(sends)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass
            except OSError:
                pass  # the guard had enough of it

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join(20)
        assert not thread.is_alive()
