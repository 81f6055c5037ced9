"""A Redis that does not answer is left alone for a moment, so that a dead one delays one request a second and not all."""

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
from redis.exceptions import RedisError

from deploy_targets.guard.events import GuardEvent

T = TypeVar("T")

PAUSE_S = 1.0
_log = structlog.get_logger()


class RedisGone(Exception):
    """Redis does not answer, or did not a moment ago."""


class RedisPause:
    """What is asked of one Redis goes through here."""

    def __init__(
        self,
        event: GuardEvent,
        *,
        failures: tuple[type[Exception], ...] = (RedisError,),
        reason: Callable[[Exception], str] = str,
    ) -> None:
        """`failures` are what says that it did not answer; each is logged as `event`, with its `reason`."""
        self._event = event
        self._failures = failures
        self._reason = reason
        self._asks_from = 0.0

    @property
    def is_on(self) -> bool:
        """It is not asked at present."""
        return time.monotonic() < self._asks_from

    async def asked(self, work: Callable[[], Awaitable[T]]) -> T:
        """What `work` brings.

        Raises:
            RedisGone: it did not answer, or was not asked because it did not a moment ago.
        """
        if self.is_on:
            raise RedisGone
        try:
            return await work()
        except self._failures as error:
            self._asks_from = time.monotonic() + PAUSE_S
            _log.warning(self._event, reason=self._reason(error))
            raise RedisGone from error
