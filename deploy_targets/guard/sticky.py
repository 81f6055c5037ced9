"""Whose request is it, and does it count in a comparison of versions?

A user's requests hang together: whoever asks what no version can answer asks it of the same one each time. So of each user
one request is compared, the first that a version begins to answer, or fails, since the present split began; none where its
client leaves that one. The others are counted on a route of their own. Who was counted is kept as hashes, in memory and,
where there are several guards, in Redis: what cannot be known is not compared.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from starlette.requests import Request

from deploy_targets.guard.access_control import Caller
from deploy_targets.guard.events import GuardEvent
from deploy_targets.guard.redis_pause import RedisGone, RedisPause
from deploy_targets.guard.wire import Asked
from deploy_targets.guard_policy import StickyPolicy
from deploy_targets.routing.buckets import digest_of

USER_HEADER = "x-shipway-user"
_MAX_USERS = 200_000
"""That are remembered at once: about 20 MB. Beyond it nobody new is compared."""
_PATIENCE_S = 1.0
"""For an answer of Redis."""
_KEPT_S = 30 * 86_400
"""In Redis, after the last user who was new; a split that ends is forgotten at once."""


class SeenUsers:
    """Those who were counted since the present split began."""

    def __init__(
        self,
        *,
        endpoint: str,
        redis_url: str | None,
        lost: Callable[[str], None],
        limit: int = _MAX_USERS,
    ) -> None:
        """Nothing is contacted before the first user. `lost` is told "users" whenever Redis was needed and not there."""
        self._endpoint = endpoint
        self._redis = None if redis_url is None else _client(redis_url)
        self._lost = lost
        self._limit = limit
        self._pause = RedisPause(GuardEvent.USERS_LOST)
        self._split = ""
        self._seen: set[bytes] = set()

    async def aclose(self) -> None:
        """Ends the connections to Redis."""
        if self._redis is not None:
            await self._redis.aclose()

    async def is_first(self, split: str, user: bytes) -> bool:
        """Whether a request that was shared out among `split` is the first of that user; it is taken for counted then.

        Without a split nothing is compared, and everybody starts anew.
        """
        if split != self._split:
            over, self._split, self._seen = self._split, split, set()
            if over:
                await self._asked(lambda redis: redis.delete(self._key(over)))
        if not split:
            return True
        if user in self._seen or len(self._seen) >= self._limit:
            return False
        self._seen.add(user)
        if self._redis is None:
            return True
        key = self._key(split)
        is_new = await self._asked(lambda redis: redis.sadd(key, user)) == 1
        if is_new:
            await self._asked(lambda redis: redis.expire(key, _KEPT_S))
        return is_new

    def _key(self, split: str) -> str:
        return f"shipway:users:{self._endpoint}:{split}"

    async def _asked(self, work: Callable[[Any], Awaitable[Any]]) -> Any:
        """What Redis says; None where there is none, or it does not answer."""
        redis = self._redis
        if redis is None:
            return None
        try:
            return await self._pause.asked(lambda: work(redis))
        except RedisGone:
            self._lost("users")
            return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sticky:
    """What an endpoint with sticky users knows of them."""

    policy: StickyPolicy
    endpoint: str
    seen: SeenUsers

    def user_of(self, asked: Asked, request: Request, caller: Caller) -> bytes | None:
        """The digest that stands for the user; None where nobody is named."""
        named = asked.user or request.headers.get(USER_HEADER, "")
        name = caller.name if self.policy.by == "key" else named
        return digest_of(name, endpoint=self.endpoint, salt=self.policy.salt) if name else None


def _client(url: str) -> Redis:
    made: Any = Redis  # its options are untyped
    return made.from_url(url, socket_timeout=_PATIENCE_S, socket_connect_timeout=_PATIENCE_S)
