"""A real Redis on a port of its own; skips the test where it is not installed."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from deploy_targets.local.process import free_port

_LIMIT_S = 60


class RedisServer:
    """One process."""

    def __init__(self) -> None:
        path = shutil.which("redis-server")
        if path is None:
            pytest.skip("redis-server is not installed: `apt-get install redis-server` brings it")
        self._path = path
        self.port = free_port(0, set())
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it answers; one that was killed is forgotten. Nothing is kept on disk."""
        self.stop()
        command = [self._path, "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        self._process = subprocess.Popen(
            [*command, "--appendonly", "no"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        end = time.monotonic() + _LIMIT_S
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1) as client:
                    client.sendall(b"PING\r\n")
                    if client.recv(16).startswith(b"+PONG"):
                        return
            except OSError:
                assert time.monotonic() < end, "redis-server did not come up"
                time.sleep(0.02)

    @property
    def processes(self) -> list[psutil.Process]:
        """Itself; none where it was ended."""
        return [] if self._process is None else [psutil.Process(self._process.pid)]

    def set(self, option: str, value: str) -> None:
        """Changes its configuration while it runs."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as client:
            client.sendall(f"CONFIG SET {option} {value}\r\n".encode())
            answer = client.recv(100)
        assert answer == b"+OK\r\n", answer

    def stop(self) -> None:
        """Ends it; start may follow."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def a_redis() -> Iterator[RedisServer]:
    """Running until the end of the block."""
    server = RedisServer()
    server.start()
    try:
        yield server
    finally:
        server.stop()
