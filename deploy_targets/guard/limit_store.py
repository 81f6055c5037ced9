"""Where limits are counted: in Redis for all processes together, or in this process alone.

While Redis is gone rates are counted here, each process for itself, and budgets are not counted at all: whoever has one is
not let through. Each time is counted. `limits` and its errors are met here, in both kinds of windows and in `rate_limit` only.
"""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import structlog
from limits.errors import StorageError
from redis.asyncio import ConnectionPool

from deploy_targets.guard.errors import BudgetUnknown
from deploy_targets.guard.events import GuardEvent
from deploy_targets.guard.limit_scripts import SharedWindows
from deploy_targets.guard.own_windows import OwnWindows
from deploy_targets.guard.redis_pause import RedisGone, RedisPause

Store = SharedWindows | OwnWindows
T = TypeVar("T")

_PATIENCE_S = 1.0
"""For one answer of Redis. Less, and a guard that is busy itself would take a good Redis for a dead one: with 0.25 s on a
box with ten times more to do than it can, a third more requests came through than the limit allowed."""
_log = structlog.get_logger()


class LimitStore:
    """The counters of all limits."""

    def __init__(self, redis_url: str | None, *, lost: Callable[[str], None]) -> None:
        """`lost` is told `rates`, `budgets` or `settlements` each time that Redis was needed and did not answer."""
        self._memory = OwnWindows()
        self._pool = None if redis_url is None else _pool(redis_url)
        self._redis = None if self._pool is None else SharedWindows(self._pool)
        self._lost = lost
        self._pause = RedisPause(
            GuardEvent.LIMIT_STORE_LOST, failures=(StorageError,), reason=_reason
        )

    async def aclose(self) -> None:
        """Ends the connections to Redis."""
        if self._pool is not None:
            await self._pool.aclose()

    async def rate(self, work: Callable[[Store], Awaitable[T]]) -> T:
        """What `work` makes of the shared counters, or of this process's own."""
        try:
            return await self._shared(work)
        except RedisGone:
            self._lost("rates")
            return await work(self._memory)

    async def budget(self, work: Callable[[Store], Awaitable[T]]) -> T:
        """What `work` makes of the shared counters.

        Raises:
            BudgetUnknown: they cannot be reached.
        """
        try:
            return await self._shared(work)
        except RedisGone as error:
            self._lost("budgets")
            message = "The budget of this API key cannot be checked at present. Try again later."
            raise BudgetUnknown(message) from error

    async def settled(self, work: Awaitable[object]) -> None:
        """Waits until what was reserved is settled. Where that fails, the reservation stands."""
        try:
            await work
        except StorageError as error:
            self._lost("settlements")
            _log.warning(GuardEvent.LIMIT_STORE_LOST, reason=_reason(error))

    async def _shared(self, work: Callable[[Store], Awaitable[T]]) -> T:
        redis = self._redis
        if redis is None:
            return await work(self._memory)
        return await self._pause.asked(lambda: work(redis))


def _reason(error: Exception) -> str:
    return str(error.storage_error) if isinstance(error, StorageError) else str(error)


def _pool(url: str) -> ConnectionPool:
    made: Any = ConnectionPool  # its options are untyped
    return made.from_url(url, socket_timeout=_PATIENCE_S, socket_connect_timeout=_PATIENCE_S)
