"""Where answers are kept: bounded in bytes and in time, in memory and in a real Redis."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing
from typing import Any

import pytest
import redis

from deploy_targets.guard.cache_store import MemoryStore, RedisStore, StoreLost
from deploy_targets.guard.redis_pause import PAUSE_S
from tests.guard.redis_server import RedisServer, a_redis

MIB = 1 << 20


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with a_redis() as running:
        yield running


def a_redis_store(server: RedisServer, **bounds: int) -> RedisStore:
    chosen: dict[str, int] = {"max_bytes": MIB, "lifetime_s": 60, **bounds}
    return RedisStore(server.url, endpoint="chat", **chosen)


def a_client(server: RedisServer) -> Any:
    made: Any = redis.Redis  # its options are untyped
    return made.from_url(server.url)


def in_redis(
    server: RedisServer, work: Callable[[RedisStore], Any], **bounds: int
) -> dict[bytes, int]:
    """Does `work`, and returns what is there then: bytes by key."""

    async def run() -> None:
        async with aclosing(a_redis_store(server, **bounds)) as store:
            await work(store)

    client = a_client(server)
    client.flushall()
    asyncio.run(run())
    return {
        key: client.strlen(key)
        for key in client.keys("shipway:cache:chat:*")
        if client.type(key) == b"string" and not key.endswith(b"bytes")
    }


async def settled(store: RedisStore) -> None:
    while store._under_way:  # pyright: ignore[reportPrivateUsage]
        await asyncio.sleep(0)


def test_memory_gives_back_what_was_put_until_its_time_is_over() -> None:
    now = 0.0
    store = MemoryStore(max_bytes=MIB, lifetime_s=10, clock=lambda: now)
    store.put("a", b"1")
    assert asyncio.run(store.get("a")) == b"1"
    assert asyncio.run(store.get("b")) is None
    now = 10
    assert asyncio.run(store.get("a")) is None


def test_memory_forgets_what_was_not_used_for_longest() -> None:
    store = MemoryStore(max_bytes=3000, lifetime_s=10)
    store.put("a", b"x" * 1000)
    store.put("b", b"x" * 1000)
    assert asyncio.run(store.get("a"))
    store.put("c", b"x" * 1000)
    found = {key: asyncio.run(store.get(key)) is not None for key in "abc"}
    assert found == {"a": True, "b": False, "c": True}


def test_memory_counts_an_answer_that_is_put_again_once() -> None:
    store = MemoryStore(max_bytes=3000, lifetime_s=10)
    store.put("a", b"x" * 1000)
    for _ in range(10):
        store.put("b", b"x" * 1000)
    assert asyncio.run(store.get("a"))


def test_redis_gives_back_what_was_put_and_lets_it_go_in_time(server: RedisServer) -> None:
    async def work(store: RedisStore) -> None:
        store.put("a", b"\x00\xff")
        await settled(store)
        assert await store.get("a") == b"\x00\xff"
        assert await store.get("b") is None

    kept = in_redis(server, work)
    assert kept == {b"shipway:cache:chat:a": 2}
    client = a_client(server)
    for key in client.keys("*"):
        assert 0 < client.pttl(key) <= 60_000


def test_redis_keeps_no_more_than_its_bound_and_forgets_the_oldest(server: RedisServer) -> None:
    async def work(store: RedisStore) -> None:
        for number in range(40):
            store.put(f"{number}", b"x" * 50_000)
            await settled(store)
        store.put("39", b"x" * 50_000)
        await settled(store)

    kept = in_redis(server, work)
    assert len(kept) == MIB // 50_400
    assert b"shipway:cache:chat:39" in kept
    assert b"shipway:cache:chat:0" not in kept
    client = a_client(server)
    assert int(client.get("shipway:cache:chat:bytes")) == len(kept) * 50_400


def test_a_redis_that_lost_its_books_keeps_answers_all_the_same(server: RedisServer) -> None:
    async def work(store: RedisStore) -> None:
        store.put("a", b"x" * 500_000)
        await settled(store)
        client = a_client(server)
        client.delete("shipway:cache:chat:order")
        for number in range(3):
            store.put(f"{number}", b"x" * 500_000)
            await settled(store)

    assert b"shipway:cache:chat:2" in in_redis(server, work)


@pytest.mark.promise("answers go out without the cache")
def test_a_redis_that_is_gone_delays_one_lookup_a_second_and_no_more() -> None:
    asked: list[str] = []

    async def run(server: RedisServer) -> float:
        async with aclosing(a_redis_store(server)) as store:
            server.stop()
            ask = store._redis.get  # pyright: ignore[reportPrivateUsage]

            def note(key: str) -> Any:
                asked.append(key)
                return ask(key)

            store._redis.get = note  # pyright: ignore[reportPrivateUsage]
            began = time.monotonic()
            for _ in range(100):
                store.put("a", b"1")
                with pytest.raises(StoreLost):
                    await store.get("a")
            return time.monotonic() - began

    with a_redis() as server:
        took_s = asyncio.run(run(server))
    assert 1 <= len(asked) <= 1 + took_s / PAUSE_S
