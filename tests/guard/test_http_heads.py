"""Heads of requests that are too large, too many or too slow end their connection, and nothing else."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from deploy_targets.guard import http_heads
from tests.guard.stub import KEY
from tests.guard.world import World


@contextmanager
def connected(world: World) -> Iterator[socket.socket]:
    port = int(world.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        yield connection


def told(connection: socket.socket) -> bytes:
    """Everything until the other side ends the connection; a reset ends it too."""
    said = b""
    with suppress(ConnectionResetError):
        while piece := connection.recv(1 << 16):
            said += piece
    return said


def send(connection: socket.socket, data: bytes) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):
        connection.sendall(data)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v1/models HTTP/1.1\r\nhost: x\r\n" + b"".join(b"h%d: v\r\n" % at for at in range(200)),
        b"GET /v1/models HTTP/1.1\r\nhost: x\r\nbig: " + b"x" * (5 << 20),
        b"GET /" + b"x" * (5 << 20),
    ],
    ids=["many fields", "a large field", "a long path"],
)  # fmt: skip
def test_a_head_that_is_too_large_is_turned_away_at_once(world: World, head: bytes) -> None:
    started = time.process_time()
    with connected(world) as connection:
        send(connection, head + b"\r\n\r\n")
        assert told(connection)[:12] in {b"HTTP/1.1 431", b""}  # empty where the reset overtakes it
    assert time.process_time() - started < 2
    assert world.post().status_code == 200


@pytest.mark.parametrize("behind", [b"0\r\nbig: ", b"5;"], ids=["a trailer", "beside a length"])
def test_what_is_no_body_behind_a_head_is_bounded_too(world: World, behind: bytes) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    with connected(world) as connection:  # without a key: nobody may do this
        send(connection, head + b"3\r\nabc\r\n" + behind + b"x" * (5 << 20))
        assert b"HTTP/1.1 2" not in told(connection)  # which ends, though the client would go on
    assert world.post().status_code == 200


def test_a_head_that_never_ends_is_given_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_heads, "HEAD_S", 0.2)
    for begun in (b"", b"\r\n", b"POST /v1/chat/completions HTTP/1.1\r\nhost"):
        with connected(world) as connection:
            send(connection, begun)
            assert told(connection).startswith(b"HTTP/1.1 408")


def test_a_head_that_comes_byte_by_byte_and_a_large_body_are_taken(world: World) -> None:
    head = f"GET /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n\r\n".encode()
    with connected(world) as connection:
        for byte in head:
            connection.sendall(bytes([byte]))
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
        connection.sendall(head * 3)  # in one piece, on the same connection
        said = b""
        while said.count(b"HTTP/1.1 200") < 3:
            said += connection.recv(1 << 16)
    body = (
        b'{"model": "chat", "messages": [{"role": "user", "content": "' + b"x" * 900_000 + b'"}]}'
    )
    assert world.http.post("/v1/chat/completions", content=body).status_code == 200


def test_an_answer_that_takes_longer_than_a_head_may_is_not_cut_off(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = b'{"model": "chat", "messages": [{"role": "user", "content": "slow"}]}'
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-length: {len(body)}\r\n\r\n"
    with connected(world) as connection:
        connection.sendall(head.encode() + body)
        assert world.stub.begun.acquire(timeout=20)
        monkeypatch.setattr(http_heads, "HEAD_S", 0.2)
        connection.sendall(b"GET /v1/mo")  # the next head, which does not end
        time.sleep(
            0.5
        )  # longer than HEAD_S: the deadline has to pass while the answer is under way
        world.stub.go_on.set()
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")


def test_malformed_http_is_refused_and_harms_nobody_else(world: World) -> None:
    for nonsense in (
        b"\x00\x01\x02\r\n\r\n",
        b"GET\r\n\r\n",
        b"POST / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
    ):
        with connected(world) as connection:
            send(connection, nonsense)
            connection.shutdown(socket.SHUT_WR)
            assert b" 500 " not in told(connection)
    assert world.post().status_code == 200
