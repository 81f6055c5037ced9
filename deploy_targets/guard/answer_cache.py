"""Answers that are given again: to the same request, byte for byte, while the version that gave them serves alone.

A request is looked up after everything that could refuse it, limits included, and what is kept is what the client got,
filters included. When it may be given is `sightings`' to say, and docs/decisions/0012 why. A hit counts for the cache and
for no version, and its client is charged nothing.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from http import HTTPStatus
from typing import Any

from starlette.responses import Response
from starlette.types import Message, Send

from deploy_targets import metrics
from deploy_targets.cache_policy import CachePolicy
from deploy_targets.guard.cache_store import CacheStore, MemoryStore, RedisStore, StoreLost
from deploy_targets.guard.counters import NO_TOKENS
from deploy_targets.guard.errors import PolicyUnusable
from deploy_targets.guard.exchange import Exchange
from deploy_targets.guard.outcome import Outcome
from deploy_targets.guard.sightings import Server, Sightings
from deploy_targets.guard.wire import Asked

CACHE_HEADER = "x-shipway-cache"
MAX_ANSWER_BYTES = 256 << 10
"""Of one answer that is kept; far more than any of the engines here gives."""
Forward = Callable[[Send], Coroutine[Any, Any, None]]


def is_repeatable(asked: Asked) -> bool:
    """Whether a request asks for the one answer that it would get again: greedy, or drawn from a seed that it names.

    Not every engine keeps to a seed. Who names one asks for the same answer each time, and here gets it.
    """
    if asked.choices != 1:
        return False
    if b'"temperature"' not in asked.body and b'"seed"' not in asked.body:
        return False
    document = asked.document()
    seed = document.get("seed")
    return document.get("temperature") == 0 or (
        isinstance(seed, int) and not isinstance(seed, bool)
    )


@dataclass(frozen=True, slots=True)
class _Kept:
    """An answer and whose it is."""

    server: Server
    body: bytes


@dataclass(slots=True, kw_only=True)
class _Flight:
    """A request whose answer others wait for."""

    began: float
    is_over: asyncio.Event = field(default_factory=asyncio.Event)
    kept: _Kept | None = None

    def end(self, kept: _Kept | None) -> None:
        """What has become of it; the first word counts."""
        if not self.is_over.is_set():
            self.kept = kept
            self.is_over.set()


class AnswerCache:
    """The answers of one endpoint."""

    def __init__(
        self,
        policy: CachePolicy,
        store: CacheStore,
        *,
        endpoint: str,
        whole_policy: str,
        told: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        """`whole_policy` is the endpoint's, of which `policy` is a part; `told` hears what was made of each request."""
        self._is_for_all = policy.scope == "endpoint"
        self._fresh_s = policy.recheck_s
        self._sightings = Sightings(believed_s=policy.recheck_s)
        self._base = [endpoint, sha256(whole_policy.encode()).hexdigest()]
        self._store = store
        self._told = told
        self._clock = clock
        self._flights: dict[str, _Flight] = {}
        self._is_renewing = False

    async def answer(
        self, asked: Asked, exchange: Exchange, forward: Forward, send: Send, *, is_pinned: bool
    ) -> None:
        """Gives the answer that is kept, or has `forward` give one. Raises what `forward` raises.

        A pinned request, whoever has pinned it, is neither answered from here nor seen: it does not show what the split
        would have chosen.
        """
        if is_pinned:
            self._tell(exchange, metrics.SKIPPED)
            return await forward(send)
        watch = _Watch(send, exchange, self._sightings, clock=self._clock)
        if not is_repeatable(asked):
            self._tell(exchange, metrics.SKIPPED)
            with watch:
                return await forward(watch)
        key = self._key(asked, exchange)
        if self._sightings.is_mixed(self._clock()):
            self._tell(exchange, metrics.PAUSED)
            await self._forward(key, watch, forward)
            return None
        flight = self._flights.get(key)
        if flight is None or self._clock() - flight.began >= self._fresh_s:
            return await self._lead(key, asked, watch, forward)
        kept = await self._followed(flight, exchange)
        if kept is not None:
            return await self._give(kept, asked, exchange, send)
        self._tell(exchange, metrics.MISS)
        await self._forward(key, watch, forward)
        return None

    def _key(self, asked: Asked, exchange: Exchange) -> str:
        """Says who asks whom for what, under which policy; the body is the client's own, as far as the policy leaves it."""
        caller = exchange.caller
        whose = "" if self._is_for_all or caller is None else caller.name
        head = json.dumps([*self._base, whose, asked.is_completion]).encode()
        return sha256(head + b"\0" + asked.body).hexdigest()

    async def _lead(self, key: str, asked: Asked, watch: "_Watch", forward: Forward) -> None:
        """Looks up the answer, or asks for it, for all who ask the same meanwhile."""
        flight = self._flights[key] = _Flight(began=self._clock())
        exchange = watch.exchange
        try:
            result, kept = await self._found(key)
            if kept is not None:
                flight.end(kept)
                if self._is_renewing or not self._sightings.is_due(self._clock()):
                    await self._give(kept, asked, exchange, watch.send)
                    return
                async with self._renewing():
                    self._tell(exchange, metrics.MISS)
                    await self._forward(key, watch, forward)
                return
            self._tell(exchange, result)
            await self._forward(key, watch, forward, flight)
        finally:
            flight.end(None)
            if self._flights.get(key) is flight:
                del self._flights[key]

    async def _found(self, key: str) -> tuple[str, _Kept | None]:
        server = self._sightings.serving(self._clock())
        if server is None:
            return metrics.MISS, None
        try:
            body = await self._store.get(_name(server, key))
        except StoreLost:
            return metrics.LOOKUP_LOST, None
        # Another version may have been seen while Redis was asked.
        if body is None or self._sightings.serving(self._clock()) != server:
            return metrics.MISS, None
        return metrics.HIT, _Kept(server, body)

    async def _followed(self, flight: _Flight, exchange: Exchange) -> _Kept | None:
        """What the flight brings; None where it fails or is late, and whoever waits goes on by itself.

        Who leaves meanwhile has asked nobody for anything, and is charged nothing.
        """
        left_s = flight.began + self._fresh_s - self._clock()
        route, exchange.route, exchange.usage = exchange.route, "", NO_TOKENS
        try:
            async with asyncio.timeout(left_s):
                await flight.is_over.wait()
        except TimeoutError:
            exchange.route, exchange.usage = route, None
            return None
        exchange.route, exchange.usage = route, None
        kept = flight.kept
        # It was chosen for the flight, and no other since.
        is_serving = kept is not None and kept.server == self._sightings.serving(self._clock())
        return kept if is_serving else None

    async def _forward(
        self, key: str, watch: "_Watch", forward: Forward, flight: _Flight | None = None
    ) -> None:
        """Sends the request on and keeps the answer, one whose client hung up after its last byte included."""
        try:
            with watch:
                await forward(watch)
        finally:
            kept = watch.kept()
            if kept is not None:
                self._store.put(_name(kept.server, key), kept.body)
            if flight is not None:
                flight.end(kept)

    @asynccontextmanager
    async def _renewing(self) -> AsyncGenerator[None]:
        """While one request finds out who serves, the others need not."""
        self._is_renewing = True
        try:
            yield
        finally:
            self._is_renewing = False

    async def _give(self, kept: _Kept, asked: Asked, exchange: Exchange, send: Send) -> None:
        self._tell(exchange, metrics.HIT)
        exchange.route = ""  # it is sent on to no version, and counts for none
        exchange.version = kept.server.version
        exchange.usage = NO_TOKENS
        kind = "text/event-stream" if asked.is_streamed else "application/json"
        response = Response(kept.body, media_type=kind, headers={"cache-control": "no-store"})
        head = {"status": HTTPStatus.OK, "headers": response.raw_headers}
        await send({"type": "http.response.start", **head})
        exchange.decide(Outcome.ANSWERED)
        await send({"type": "http.response.body", "body": kept.body})

    def _tell(self, exchange: Exchange, result: str) -> None:
        exchange.cache = result
        if result != metrics.SKIPPED:
            told = metrics.HIT if result == metrics.HIT else metrics.MISS
            exchange.headers[CACHE_HEADER] = told
        self._told(result)


class _Watch:
    """A `send` that tells whom the split has chosen as soon as that is known, and remembers the answer."""

    def __init__(
        self,
        send: Send,
        exchange: Exchange,
        sightings: Sightings,
        *,
        clock: Callable[[], float],
    ) -> None:
        self.send = send
        self.exchange = exchange
        self._sightings = sightings
        self._clock = clock
        self._sent_at = clock()
        self._pieces: list[bytes] = []
        self._room = MAX_ANSWER_BYTES
        self._is_complete = False

    def __enter__(self) -> None:
        """The request is about to be sent on."""
        self._sent_at = self._clock()

    def __exit__(self, *_: object) -> None:
        """A version that failed was chosen all the same."""
        self._see()

    async def __call__(self, message: Message) -> None:
        """Passes a message on."""
        if message["type"] == "http.response.start":
            self._see()
        else:
            self._remember(message.get("body", b""))
        await self.send(message)
        self._is_complete = message["type"] == "http.response.body" and not message.get("more_body")

    def kept(self) -> _Kept | None:
        """The whole answer, where it is one that may be given again: nothing that failed, was refused or cut off."""
        exchange = self.exchange
        is_good = exchange.outcome is Outcome.ANSWERED and not exchange.error and not exchange.rule
        is_whole = self._is_complete and exchange.status == HTTPStatus.OK and self._room >= 0
        if not (is_good and is_whole and exchange.version):
            return None
        return _Kept(Server(exchange.version, exchange.digest), b"".join(self._pieces))

    def _remember(self, body: bytes) -> None:
        self._room -= len(body)
        if self._room >= 0:
            self._pieces.append(body)
        else:
            self._pieces.clear()

    def _see(self) -> None:
        """A second try is pinned: the split has chosen who failed first."""
        exchange = self.exchange
        if exchange.failed_first:
            self._sightings.saw(Server(exchange.failed_first, ""), sent_at=self._sent_at)
        elif exchange.version:
            server = Server(exchange.version, exchange.digest)
            self._sightings.saw(server, sent_at=self._sent_at)


def _name(server: Server, key: str) -> str:
    return f"{server.version}:{server.digest}:{key}"


def store_of(
    policy: CachePolicy | None, *, endpoint: str, redis_url: str | None
) -> CacheStore | None:
    """Where the policy wants answers to be kept, if it does.

    Raises:
        PolicyUnusable: it wants Redis, and there is none.
    """
    if policy is None:
        return None
    if policy.store == "memory":
        return MemoryStore(max_bytes=policy.max_bytes, lifetime_s=policy.lifetime_s)
    if redis_url is None:
        message = "guard.cache.store is redis, but SHIPWAY_GUARD_REDIS_URL is not set. Set it, or let memory be the store."
        raise PolicyUnusable(message)
    return RedisStore(
        redis_url, endpoint=endpoint, max_bytes=policy.max_bytes, lifetime_s=policy.lifetime_s
    )
