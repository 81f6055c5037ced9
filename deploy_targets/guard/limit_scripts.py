"""Windows in Redis, each counted and looked at in one round trip where `limits` takes two.

The scripts are its own, put together on the server: what is counted, and under which keys, stays as it has it. A request
with limits of requests and of tokens costs three round trips and not six, and half of the guard's time for them.
"""

import time
from collections.abc import Awaitable
from typing import Any, TypeVar

from limits import RateLimitItem
from limits.aio.storage import RedisStorage
from limits.errors import StorageError
from redis.asyncio import ConnectionPool, Redis
from redis.exceptions import RedisError

from deploy_targets.guard.own_windows import NO_BOUND

T = TypeVar("T")


def _together(hit: bytes, look: bytes, last: str) -> str:
    functions = {"hit": hit.decode(), "look": look.decode()}
    told = (f"local function {name}(KEYS, ARGV)\n{one}\nend\n" for name, one in functions.items())
    return "".join(told) + last


_MOVING = """
local from = ARGV[1] - ARGV[3]
local is_in = hit(KEYS, {ARGV[1], ARGV[2], ARGV[3], 1})
return {is_in and 1 or 0, look(KEYS, {from, ARGV[2]})}
"""
_SLIDING = """
local is_in = hit(KEYS, ARGV)
return {is_in and 1 or 0, look(KEYS, {ARGV[2]})}
"""
_CHANGE = """
local more, expiry = tonumber(ARGV[3]), tonumber(ARGV[2])
if more < 0 then
    local window = look(KEYS, {expiry})
    local age = 2000 * expiry - math.max(tonumber(window[4]), 0)
    if ARGV[4] * 1000 > age + 2 then -- both are rounded to whole milliseconds there
        return 0
    end
    more = -math.min(-more, tonumber(window[3] or 0))
end
if more ~= 0 then
    hit(KEYS, {ARGV[1], expiry, more})
end
return more
"""


class SharedWindows(RedisStorage):
    """The storage of `limits`, and these windows. An error of Redis is a StorageError here too."""

    def __init__(self, pool: ConnectionPool) -> None:
        """Connects with the first call."""
        pooled: Any = pool  # the library's own types name options of single values alone
        super().__init__(
            "async+redis://",
            wrap_exceptions=True,
            implementation="redispy",
            key_prefix="shipway",
            connection_pool=pooled,
        )
        made, redis = self.bridge, Redis(connection_pool=pool)
        moving = (made.SCRIPT_ACQUIRE_MOVING_WINDOW, made.SCRIPT_MOVING_WINDOW)
        sliding = (made.SCRIPT_ACQUIRE_SLIDING_WINDOW, made.SCRIPT_SLIDING_WINDOW)
        self._moving: Any = redis.register_script(_together(*moving, _MOVING))
        self._sliding: Any = redis.register_script(_together(*sliding, _SLIDING))
        self._change: Any = redis.register_script(_together(*sliding, _CHANGE))

    async def hit_requests(self, item: RateLimitItem, *names: str) -> tuple[bool, float, int]:
        """As `OwnWindows`, in a window that moves with each request.

        Raises:
            StorageError: Redis does not answer.
        """
        expiry_s = item.get_expiry()
        is_in, oldest, count = await self.hit_moving(
            item.key_for(*names), item.amount, expiry_s, now=time.time()
        )
        return is_in, oldest + expiry_s, item.amount - count

    async def hit_tokens(
        self, item: RateLimitItem, *names: str, tokens: int
    ) -> tuple[bool, tuple[int, float, int, float]]:
        """As `OwnWindows`.

        Raises:
            StorageError: Redis does not answer.
        """
        key, expiry_s = item.key_for(*names), item.get_expiry()
        return await self.hit_sliding(key, item.amount, expiry_s, tokens)

    async def change_tokens(
        self, item: RateLimitItem, *names: str, more: int, ago_s: float
    ) -> None:
        """As `OwnWindows`.

        Raises:
            StorageError: Redis does not answer.
        """
        if more:
            await self.change_sliding(item.key_for(*names), item.get_expiry(), more, ago_s=ago_s)

    async def hit_moving(
        self, key: str, limit: int, expiry_s: int, *, now: float
    ) -> tuple[bool, float, int]:
        """Whether one more is let in; when the oldest that counts came; how many count.

        Raises:
            StorageError: Redis does not answer.
        """
        keys = [self.bridge.prefixed_key(key)]
        is_in, *window = await _told(self._moving(keys, [now, limit, expiry_s]))
        oldest, count = window[0] if window and window[0] else (now, 0)
        return bool(is_in), float(oldest), int(count)

    async def hit_sliding(
        self, key: str, limit: int, expiry_s: int, amount: int
    ) -> tuple[bool, tuple[int, float, int, float]]:
        """Whether so many are let in, and the window as `get_sliding_window` has it.

        Raises:
            StorageError: Redis does not answer.
        """
        arguments = [limit, expiry_s, amount]
        is_in, window = await _told(self._sliding(self._window_keys(key), arguments))
        previous, previous_ms, current, current_ms = (int(one or 0) for one in window)
        return bool(is_in), (
            previous,
            max(previous_ms, 0) / 1000,
            current,
            max(current_ms, 0) / 1000,
        )

    async def change_sliding(self, key: str, expiry_s: int, amount: int, *, ago_s: float) -> None:
        """Adds to what was counted `ago_s` ago. Of a window that is over nothing is taken away.

        Raises:
            StorageError: Redis does not answer.
        """
        await _told(self._change(self._window_keys(key), [NO_BOUND, expiry_s, amount, ago_s]))

    def _window_keys(self, key: str) -> list[str]:
        names = (self._previous_window_key(key), self._current_window_key(key))
        return [self.bridge.prefixed_key(name) for name in names]


async def _told(answer: Awaitable[T]) -> T:
    try:
        return await answer
    except RedisError as error:
        raise StorageError(error) from error
