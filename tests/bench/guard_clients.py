"""Clients that measure: by the clock, as fast as they can, or by the thousand; and what a process behind them has cost."""

import asyncio
import contextlib
import json
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus

import aiohttp
import psutil

from tests.bench.fast_engine import time_of
from tests.guard.stub import KEY, a_chat

RATE = 200
"""Requests a second."""
_HEADERS = {"Authorization": f"Bearer {KEY}"}


@dataclass
class Measured:
    """Of one way."""

    name: str
    times_ms: list[float] = field(default_factory=list[float])
    cpu_ms: float = 0.0
    """Of the process that is measured, for each request or piece."""
    failures: Counter[str] = field(default_factory=Counter[str])
    """Streams that did not come to their end."""

    def percentile(self, percent: int) -> float:
        return statistics.quantiles(self.times_ms, n=100)[percent - 1]

    def line(self, bare: "Measured | None" = None) -> str:
        """With what it adds to `bare` at the same percentiles."""
        p50, p99 = self.percentile(50), self.percentile(99)
        told = f"{self.name:32} p50 {p50:8.2f} ms  p99 {p99:8.2f} ms"
        if bare is not None:
            more = (p50 - bare.percentile(50), p99 - bare.percentile(99))
            told += f"   adds {more[0]:7.2f} and {more[1]:7.2f} ms"
        if self.cpu_ms:
            told += f"   CPU {self.cpu_ms:6.3f} ms each"
        return f"{told}   ({len(self.times_ms)})"


@contextlib.contextmanager
def cpu_counted(process: psutil.Process | None, measured: Measured) -> Iterator[None]:
    """What the process and its children have spent on each time that was measured in the block."""
    before, had = _cpu_s(process), len(measured.times_ms)
    yield
    measured.cpu_ms = 1000 * (_cpu_s(process) - before) / max(len(measured.times_ms) - had, 1)


def _cpu_s(process: psutil.Process | None) -> float:
    if process is None:
        return 0.0
    family = (process, *process.children(recursive=True))
    return sum(one.cpu_times().user + one.cpu_times().system for one in family)


def session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), auto_decompress=False)


async def until_up(*urls: str, patience_s: float = 60) -> None:
    async with session() as http:
        for url in urls:
            end = time.monotonic() + patience_s
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    async with http.get(f"{url}/v1/models", headers=_HEADERS) as answer:
                        if answer.status == HTTPStatus.OK:
                            break
                assert time.monotonic() < end, url
                await asyncio.sleep(0.1)


async def ask(http: aiohttp.ClientSession, url: str, number: int = 0) -> int:
    """The status of an answer to a question that only this number has."""
    async with http.post(
        f"{url}/v1/chat/completions",
        json=a_chat(f"What is {number} and one, in words?", temperature=0),
        headers=_HEADERS,
    ) as answer:
        await answer.read()
        return answer.status


async def by_the_clock(
    measured: Measured,
    url: str,
    *,
    seconds: float,
    process: psutil.Process | None,
    rate: int = RATE,
) -> Measured:
    """So many requests a second, whatever the answers do."""

    async def one(http: aiohttp.ClientSession, number: int) -> None:
        begun = time.perf_counter()
        status = await ask(http, url, number)
        measured.times_ms.append((time.perf_counter() - begun) * 1000)
        assert status == 200, status

    async with session() as http:
        await asyncio.gather(*(one(http, number) for number in range(20)))
        measured.times_ms.clear()
        begun, tasks = time.perf_counter(), list[asyncio.Task[None]]()
        with cpu_counted(process, measured):
            for number in range(int(seconds * rate)):
                await asyncio.sleep(max(begun + number / rate - time.perf_counter(), 0))
                tasks.append(asyncio.create_task(one(http, number)))
            await asyncio.gather(*tasks)
    return measured


async def as_fast_as_they_can(url: str, *, seconds: float, clients: int = 32) -> float:
    """Requests a second."""
    done = 0
    end = time.perf_counter() + seconds

    async def client(number: int) -> None:
        nonlocal done
        while time.perf_counter() < end:
            assert await ask(http, url, number) == 200
            done += 1

    async with session() as http:
        begun = time.perf_counter()
        await asyncio.gather(*map(client, range(clients)))
        return done / (time.perf_counter() - begun)


async def pieces(
    measured: Measured,
    url: str,
    *,
    streams: int,
    process: psutil.Process | None,
    gather_s: float = 0.0,
) -> tuple[Measured, float]:
    """How long each piece of so many streams was under way, and the pieces a second. They begin over `gather_s`."""

    async def one(number: int) -> None:
        await asyncio.sleep(gather_s * number / streams)
        try:
            fault = await whole()
        except aiohttp.ClientError as error:
            fault = repr(error)
        if fault:
            measured.failures[fault[:200]] += 1

    async def whole() -> str:
        async with http.post(
            f"{url}/v1/chat/completions",
            json=a_chat("tell me more", stream=True),
            headers=_HEADERS,
            timeout=aiohttp.ClientTimeout(total=None),
        ) as answer:
            if answer.status != HTTPStatus.OK:
                return await answer.text()
            is_ended = False
            async for line in answer.content:
                now = time.monotonic_ns()
                if line.startswith(b"data: [DONE]"):
                    is_ended = True
                elif line.startswith(b"data:"):
                    choices = json.loads(line[5:]).get("choices")
                    if choices and (text := choices[0]["delta"].get("content")):
                        measured.times_ms += [(now - time_of(sent)) / 1e6 for sent in text.split()]
            return "" if is_ended else "without an end"

    async with session() as http:
        begun = time.perf_counter()
        with cpu_counted(process, measured):
            await asyncio.gather(*map(one, range(streams)))
        return measured, len(measured.times_ms) / (time.perf_counter() - begun)


async def let_through(urls: Sequence[str], *, seconds: float, clients: int) -> Mapping[int, int]:
    """Statuses that so many clients get who ask without a pause."""
    seen: Counter[int] = Counter()
    end = time.monotonic() + seconds

    async def client(number: int) -> None:
        while time.monotonic() < end:
            status = await ask(http, urls[number % len(urls)])
            seen[status] += 1
            if status != 200:
                await asyncio.sleep(0.05)

    async with session() as http:
        await asyncio.gather(*map(client, range(clients)))
    return seen
