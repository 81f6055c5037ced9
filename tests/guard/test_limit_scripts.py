"""What the scripts count is what `limits` counts, under the same keys; and they answer, which a fallback would hide."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import pytest
from limits.errors import StorageError
from redis.asyncio import ConnectionPool

from deploy_targets.guard.limit_scripts import SharedWindows
from tests.guard.redis_server import RedisServer, a_redis

MINUTE_S = 60
T = TypeVar("T")


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with a_redis() as server:
        yield server


def run(url: str, work: Callable[[SharedWindows], Awaitable[T]]) -> T:
    async def whole() -> T:
        pool: ConnectionPool = ConnectionPool.from_url(url)
        try:
            return await work(SharedWindows(pool))
        finally:
            await pool.aclose()

    return asyncio.run(whole())


def test_a_moving_window_lets_in_as_many_as_its_limit_and_says_when_the_first_came(
    server: RedisServer,
) -> None:
    now = time.time()

    async def work(shared: SharedWindows):
        told = [await shared.hit_moving("m", 3, MINUTE_S, now=now + second) for second in range(5)]
        same = await shared.get_moving_window("m", 3, MINUTE_S)
        return told, same, await shared.hit_moving("m", 3, MINUTE_S, now=now + MINUTE_S + 1)

    told, same, later = run(server.url, work)

    assert [(is_in, count) for is_in, _, count in told] == [
        (True, 1),
        (True, 2),
        (True, 3),
        (False, 3),
        (False, 3),
    ]
    assert all(oldest == pytest.approx(now, abs=1e-3) for _, oldest, _ in told)
    assert same[1] == 3
    assert later[0]


def test_a_sliding_window_counts_amounts_and_takes_back_no_more_than_it_holds(
    server: RedisServer,
) -> None:
    async def work(shared: SharedWindows):
        first = await shared.hit_sliding("s", 100, MINUTE_S, 60)
        too_much = await shared.hit_sliding("s", 100, MINUTE_S, 41)
        same = await shared.get_sliding_window("s", MINUTE_S)
        counts: list[int] = []
        for amount, ago_s in ((-20, 0.0), (5, 0.0), (-10, 1000.0), (-500, 0.0), (7, 0.0)):
            await shared.change_sliding("s", MINUTE_S, amount, ago_s=ago_s)
            counts.append((await shared.get_sliding_window("s", MINUTE_S))[2])
        return first, too_much, same, counts

    first, too_much, same, counts = run(server.url, work)

    assert (first[0], too_much[0]) == (True, False)
    assert first[1][0] == 0
    assert first[1][2] == too_much[1][2] == same[2] == 60
    assert 2 * MINUTE_S - 5 < first[1][3] <= 2 * MINUTE_S
    assert counts == [40, 45, 45, 0, 7]


def test_what_opened_a_window_can_be_taken_back_however_soon(server: RedisServer) -> None:
    """Redis rounds to milliseconds, so that a window may seem younger than what was counted in it."""

    async def work(shared: SharedWindows):
        left: list[int] = []
        for number in range(300):
            await shared.hit_sliding(f"w{number}", 100, MINUTE_S, 17)
            counted = time.time()
            await asyncio.sleep(number % 10 / 2000)
            ago_s = time.time() - counted
            await shared.change_sliding(f"w{number}", MINUTE_S, -12, ago_s=ago_s)
            left.append((await shared.get_sliding_window(f"w{number}", MINUTE_S))[2])
        return left

    assert run(server.url, work) == [5] * 300


def test_a_redis_that_is_gone_is_told_as_limits_tells_it() -> None:
    with a_redis() as server:
        url = server.url

    with pytest.raises(StorageError):
        run(url, lambda shared: shared.hit_moving("m", 3, MINUTE_S, now=time.time()))
