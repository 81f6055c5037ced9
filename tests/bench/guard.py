"""What the guard costs a request, and whether its limits hold over several processes: `python -m tests.bench.guard`.

Guards, the stub engine and Redis are processes of their own; clients are in this one. The times are those of this machine
and of now, so they are printed and not tested. `--seconds` is for each part.
"""

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import aiohttp
import uvicorn

from tests.guard.redis_server import a_redis
from tests.guard.stub import KEY, StubEngine, a_chat, keys_json

_RATE = 200
"""Requests a second, by the clock whatever the answers do."""
_LIMITS = {"requests_per_minute": 1200, "tokens_per_minute": 100_000_000}
_OVER = {"requests_per_minute": 600, "tokens_per_minute": 30_000}


def a_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


@contextmanager
def a_process(*words: str, **environment: str) -> Iterator[None]:
    kept = {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    process = subprocess.Popen(
        [sys.executable, *words], env={**kept, **environment}, stdout=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def a_guard(folder: Path, stub: str, limits: Mapping[str, int], redis: str = "") -> Iterator[str]:
    """Its address."""
    port, admin_port = a_port(), a_port()
    (folder / "keys.json").write_text(keys_json(owner=KEY))
    (folder / "policy.json").write_text(json.dumps({"limits": {"key": limits}}))
    settings = {
        "endpoint": "chat",
        "upstream_url": stub,
        "port": port,
        "admin_port": admin_port,
        "keys_file": folder / "keys.json",
        "policy_file": folder / "policy.json",
        **({"redis_url": redis} if redis else {}),
    }
    environment = {f"SHIPWAY_GUARD_{name.upper()}": str(value) for name, value in settings.items()}
    with a_process("-m", "deploy_targets.guard", **environment):
        yield f"http://127.0.0.1:{port}"


async def until_up(*urls: str) -> None:
    async with aiohttp.ClientSession() as session:
        for url in urls:
            end = time.monotonic() + 60
            while True:
                try:
                    async with session.get(f"{url}/v1/models"):
                        break
                except aiohttp.ClientError:
                    assert time.monotonic() < end
                    await asyncio.sleep(0.05)


async def ask(session: aiohttp.ClientSession, url: str, *, stream: bool = False) -> int:
    headers = {"Authorization": f"Bearer {KEY}"}
    body = a_chat(stream=stream)
    async with session.post(f"{url}/v1/chat/completions", json=body, headers=headers) as answer:
        await answer.read()
        return answer.status


async def latencies_ms(url: str, *, seconds: float) -> list[float]:
    """Of requests that begin by the clock."""
    taken: list[float] = []

    async def one(session: aiohttp.ClientSession) -> None:
        begun = time.perf_counter()
        status = await ask(session, url)
        taken.append((time.perf_counter() - begun) * 1000)
        assert status == 200, status

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        begun, tasks = time.perf_counter(), list[asyncio.Task[None]]()
        for number in range(int(seconds * _RATE)):
            await asyncio.sleep(max(begun + number / _RATE - time.perf_counter(), 0))
            tasks.append(asyncio.create_task(one(session)))
        await asyncio.gather(*tasks)
    return taken


async def let_through(urls: list[str], *, seconds: float, clients: int) -> Counter[int]:
    """Statuses that so many clients get who ask without a pause."""
    seen: Counter[int] = Counter()
    end = time.monotonic() + seconds

    async def client(number: int) -> None:
        url = urls[number % len(urls)]
        while time.monotonic() < end:
            status = await ask(session, url)
            seen[status] += 1
            if status != 200:
                await asyncio.sleep(0.05)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*map(client, range(clients)))
    return seen


def told(name: str, taken: list[float]) -> str:
    cuts = statistics.quantiles(taken, n=100)
    return f"{name:34} p50 {cuts[49]:7.2f} ms   p99 {cuts[98]:7.2f} ms   ({len(taken)} requests)"


def serve_stub(port: int) -> None:
    uvicorn.run(StubEngine().app, port=port, http="httptools", loop="uvloop", log_level="error")


def main() -> None:
    """Print a line for each way, and one for the limits."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--stub", type=int)
    options = parser.parse_args()
    if options.stub:
        serve_stub(options.stub)
        return
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port = a_port()
        stub = f"http://127.0.0.1:{port}"
        stack.enter_context(a_process("-m", "tests.bench.guard", "--stub", str(port)))
        redis = stack.enter_context(a_redis())
        no_limit = dict.fromkeys(_LIMITS, 100_000_000)
        for name, url in (("memory", ""), ("Redis", redis.url)):
            with a_guard(folder, stub, no_limit, url) as guard:
                asyncio.run(until_up(stub, guard))
                for way, address in (("the stub alone", stub), (f"the guard, {name}", guard)):
                    asyncio.run(latencies_ms(address, seconds=2))
                    taken = asyncio.run(latencies_ms(address, seconds=options.seconds / 4))
                    print(told(way, taken), flush=True)
        guards = [stack.enter_context(a_guard(folder, stub, _OVER, redis.url)) for _ in range(4)]
        asyncio.run(until_up(*guards))
        seen = asyncio.run(let_through(guards, seconds=min(options.seconds, 59), clients=50))
        print(f"limits {_OVER}: 4 processes, 50 clients: {dict(seen)}")


if __name__ == "__main__":
    main()
