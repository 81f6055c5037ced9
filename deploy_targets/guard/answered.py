"""Which answers were given lately, so that a user's word on one finds its version: here, or in Redis for all guards.

Kept is whose key asked, which version answered and what was said of it; no prompt, answer or comment. This process keeps
the last 20,000 answers for at most an hour, some 9 MB, and as many words; Redis keeps each for an hour, and words for two.
"""

import asyncio
import json
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeVar, cast

from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import RedisError

from deploy_targets.guard.errors import AnswersUnavailable
from deploy_targets.guard.events import GuardEvent
from deploy_targets.guard.redis_pause import RedisGone, RedisPause

KEPT_S = 3600
MOST_KEPT = 20_000
_MOST_ID_CHARS = 200
"""Of the id that an engine gives to its answer; a longer one is not kept."""
_PATIENCE_S = 5.0
"""For one answer of Redis. No request for tokens waits for it, and a guard that is busy takes a good Redis for a dead one."""
_CONNECTIONS = 20
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One answer."""

    request_id: str
    key: str
    """The name of the key that asked for it."""
    version: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What became of a user's word."""

    answered: Answered
    before: str | None
    """What was said of this answer until now."""


class Answers(Protocol):
    """The answers of late."""

    def keep(self, answered: Answered, *, answer_id: str) -> None:
        """From now on it is known by its request's id and by its own, which may be empty."""
        ...

    async def say(self, name: str, *, key: str, verdict: str) -> Said | None:
        """The verdict on the answer of that id is this from now on. None: that key has no such answer.

        Raises:
            AnswersUnavailable: that cannot be known.
        """
        ...

    async def said(self, request_ids: Sequence[str]) -> list[str | None]:
        """What was said of each; nothing where that cannot be known."""
        ...

    async def aclose(self) -> None:
        """Lets go."""
        ...


@dataclass(slots=True)
class _Entry:
    answered: Answered
    names: tuple[str, ...]
    until: float


class AnswersHere:
    """In this process alone."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """None yet."""
        self._clock = clock
        self._by_name: dict[str, _Entry] = {}
        self._entries: deque[_Entry] = deque()
        self._words: dict[str, str] = {}
        """By the request's id: what waits for them to be judged may wait for longer than its answer is known here."""

    def keep(self, answered: Answered, *, answer_id: str) -> None:
        """As `Answers` has it. Past the bound the oldest is forgotten."""
        now = self._clock()
        entry = _Entry(answered, _names(answered, answer_id), now + KEPT_S)
        self._by_name |= dict.fromkeys(entry.names, entry)
        self._entries.append(entry)
        while len(self._entries) > MOST_KEPT or self._entries[0].until <= now:
            old = self._entries.popleft()
            for name in old.names:
                if self._by_name.get(name) is old:
                    del self._by_name[name]

    async def say(self, name: str, *, key: str, verdict: str) -> Said | None:
        """As `Answers` has it."""
        entry = self._by_name.get(name)
        if entry is None or entry.until <= self._clock() or entry.answered.key != key:
            return None
        before = self._words.pop(entry.answered.request_id, None)
        self._words[entry.answered.request_id] = verdict
        if len(self._words) > MOST_KEPT:
            del self._words[next(iter(self._words))]
        return Said(answered=entry.answered, before=before)

    async def said(self, request_ids: Sequence[str]) -> list[str | None]:
        """As `Answers` has it."""
        return [self._words.get(one) for one in request_ids]

    async def aclose(self) -> None:
        """Nothing is open."""


class AnswersInRedis:
    """In Redis, so that any guard of the endpoint can be told. While Redis is gone answers are not kept, each counted."""

    def __init__(self, url: str, *, endpoint: str, lost: Callable[[str], None]) -> None:
        """`lost` is told `answers` each time that Redis was needed and did not answer."""
        made: Any = BlockingConnectionPool  # its options are untyped
        pool = made.from_url(
            url,
            max_connections=_CONNECTIONS,
            timeout=_PATIENCE_S,
            socket_timeout=_PATIENCE_S,
            socket_connect_timeout=_PATIENCE_S,
        )
        self._redis: Any = Redis(connection_pool=pool)
        self._prefix = f"shipway:{endpoint}"
        self._lost = lost
        self._pause = RedisPause(GuardEvent.ANSWERS_LOST, failures=(RedisError, OSError))
        self._writes: set[asyncio.Task[None]] = set()

    def keep(self, answered: Answered, *, answer_id: str) -> None:
        """As `Answers` has it. It is written beside the answer, which does not wait for that."""
        write = asyncio.get_running_loop().create_task(self._keep(answered, answer_id))
        self._writes.add(write)
        write.add_done_callback(self._writes.discard)

    async def _keep(self, answered: Answered, answer_id: str) -> None:
        document = json.dumps(asdict(answered))
        pipeline = self._redis.pipeline(transaction=False)
        for name in _names(answered, answer_id):
            pipeline.set(self._answer(name), document, ex=KEPT_S)
        await self._asked(pipeline.execute)

    async def say(self, name: str, *, key: str, verdict: str) -> Said | None:
        """As `Answers` has it."""
        if self._writes:
            await asyncio.wait(self._writes)
        try:
            found = await self._ask(lambda: self._redis.get(self._answer(name)))
            answered = None if found is None else Answered(**json.loads(found))
            if answered is None or answered.key != key:
                return None
            place = self._word(answered.request_id)
            before = await self._ask(
                lambda: self._redis.set(place, verdict, ex=2 * KEPT_S, get=True)
            )
        except RedisGone as error:
            message = "Feedback cannot be taken at present. Try again later."
            raise AnswersUnavailable(message) from error
        return Said(answered=answered, before=None if before is None else before.decode())

    async def said(self, request_ids: Sequence[str]) -> list[str | None]:
        """As `Answers` has it."""
        places = [self._word(one) for one in request_ids]
        found = await self._asked(lambda: self._redis.mget(places))
        told = cast("list[bytes | None]", found or [None] * len(places))
        return [None if one is None else one.decode() for one in told]

    async def aclose(self) -> None:
        """Ends the connections, once what is under way is written."""
        if self._writes:
            await asyncio.wait(self._writes)
        await self._redis.aclose()
        await self._redis.connection_pool.disconnect()

    def _answer(self, name: str) -> str:
        return f"{self._prefix}:answered:{name}"

    def _word(self, request_id: str) -> str:
        return f"{self._prefix}:said:{request_id}"

    async def _asked(self, work: Callable[[], Awaitable[T]]) -> T | None:
        try:
            return await self._ask(work)
        except RedisGone:
            return None

    async def _ask(self, work: Callable[[], Awaitable[T]]) -> T:
        try:
            return await self._pause.asked(work)
        except RedisGone:
            self._lost("answers")
            raise


def answers_of(
    redis_url: str | None, *, endpoint: str, lost: Callable[[str], None]
) -> AnswersHere | AnswersInRedis:
    """Where the answers of late are kept; see `AnswersInRedis`."""
    if redis_url is None:
        return AnswersHere()
    return AnswersInRedis(redis_url, endpoint=endpoint, lost=lost)


def _names(answered: Answered, answer_id: str) -> tuple[str, ...]:
    is_fit = 0 < len(answer_id) <= _MOST_ID_CHARS
    return (answered.request_id, answer_id) if is_fit else (answered.request_id,)
