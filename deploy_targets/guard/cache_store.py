"""Where answers are kept: in this process's memory, or in Redis for all processes together. Both are bounded in bytes.

What is kept is an answer's bytes under a key that says nothing to who reads it. Redis gone means that nothing is found
and nothing kept: it never delays an answer by more than `_PATIENCE_S`, and one request a second by that.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from deploy_targets.guard.events import GuardEvent
from deploy_targets.guard.redis_pause import RedisGone, RedisPause

_BESIDE_BYTES = 400
"""What an entry takes besides its answer: its key, its objects. Measured: 366 in CPython 3.11, with a digest in the key."""
_PATIENCE_S = 0.25
_MAX_UNDER_WAY = 100
"""Answers on their way to Redis; while so many are, others are not kept."""


class StoreLost(Exception):
    """It cannot be looked up whether there is an answer."""


class CacheStore(Protocol):
    """Answers by key."""

    async def get(self, key: str) -> bytes | None:
        """The answer, where it is there and not too old.

        Raises:
            StoreLost: that is not known.
        """
        ...

    def put(self, key: str, body: bytes) -> None:
        """Keeps an answer if it can; never waits, never fails."""
        ...

    async def aclose(self) -> None:
        """Ends what is under way."""
        ...


class MemoryStore:
    """The answers used last, up to so many bytes."""

    def __init__(
        self, *, max_bytes: int, lifetime_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Empty."""
        self._left = max_bytes
        self._lifetime_s = lifetime_s
        self._clock = clock
        self._kept: OrderedDict[str, tuple[bytes, float]] = OrderedDict()

    async def get(self, key: str) -> bytes | None:
        """As `CacheStore`."""
        found = self._kept.get(key)
        if found is None:
            return None
        body, ends_at = found
        if self._clock() >= ends_at:
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return body

    def put(self, key: str, body: bytes) -> None:
        """As `CacheStore`."""
        if key in self._kept:
            self._drop(key)
        self._kept[key] = (body, self._clock() + self._lifetime_s)
        self._left -= len(body) + _BESIDE_BYTES
        while self._left < 0:
            self._drop(next(iter(self._kept)))

    async def aclose(self) -> None:
        """Nothing is under way."""

    def _drop(self, key: str) -> None:
        body, _ = self._kept.pop(key)
        self._left += len(body) + _BESIDE_BYTES


_PUT = """
local order, total, entry = KEYS[1], KEYS[2], KEYS[3]
local body, now, lifetime_ms, max_bytes = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local function forget(member)
  redis.call('ZREM', order, member)
  redis.call('DECRBY', total, tonumber(string.match(member, '^%d+')))
  redis.call('DEL', (string.gsub(member, '^%d+:', '')))
end
for _, member in ipairs(redis.call('ZRANGEBYSCORE', order, '-inf', now - lifetime_ms)) do forget(member) end
local size = #body + tonumber(ARGV[5])
if redis.call('ZADD', order, now, size .. ':' .. entry) == 1 then redis.call('INCRBY', total, size) end
redis.call('SET', entry, body, 'PX', lifetime_ms)
while tonumber(redis.call('GET', total)) > max_bytes do
  local oldest = redis.call('ZRANGE', order, 0, 0)[1]
  if not oldest then redis.call('SET', total, 0) break end
  forget(oldest)
end
redis.call('PEXPIRE', order, lifetime_ms)
redis.call('PEXPIRE', total, lifetime_ms)
"""
"""Keeps one answer, and forgets the oldest for it where there is no room. The order holds `<bytes>:<key>` by time."""


class RedisStore:
    """The answers put last, up to so many bytes for the endpoint."""

    def __init__(self, url: str, *, endpoint: str, max_bytes: int, lifetime_s: int) -> None:
        """Connects with the first answer."""
        made: Any = Redis  # its options are untyped
        self._redis: Any = made.from_url(
            url,
            socket_timeout=_PATIENCE_S,
            socket_connect_timeout=_PATIENCE_S,
            retry=Retry(NoBackoff(), 0),
        )
        self._put: Any = self._redis.register_script(_PUT)
        self._prefix = f"shipway:cache:{endpoint}:"
        self._max_bytes = max_bytes
        self._lifetime_ms = lifetime_s * 1000
        self._pause = RedisPause(
            GuardEvent.CACHE_STORE_LOST, reason=lambda error: type(error).__name__
        )
        self._under_way: set[asyncio.Task[None]] = set()

    async def get(self, key: str) -> bytes | None:
        """As `CacheStore`."""
        try:
            return await self._pause.asked(lambda: self._redis.get(self._prefix + key))
        except RedisGone as error:
            raise StoreLost from error

    def put(self, key: str, body: bytes) -> None:
        """As `CacheStore`."""
        if len(self._under_way) >= _MAX_UNDER_WAY or self._pause.is_on:
            return
        task = asyncio.create_task(self._keep(key, body))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def aclose(self) -> None:
        """Waits for what is under way, which is short."""
        if self._under_way:
            await asyncio.wait(self._under_way)
        await self._redis.aclose()

    async def _keep(self, key: str, body: bytes) -> None:
        now_ms = int(time.time() * 1000)
        keys = [self._prefix + "order", self._prefix + "bytes", self._prefix + key]
        arguments = [body, now_ms, self._lifetime_ms, self._max_bytes, _BESIDE_BYTES]
        with suppress(RedisGone):
            await self._pause.asked(lambda: self._put(keys=keys, args=arguments))
