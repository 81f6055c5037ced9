"""Limits of each key and of the endpoint: reserved before a request is sent on, settled when it is over.

In Redis requests are counted one by one in a moving window, which is exact. Tokens, which are amounts, are counted in a
sliding window of two counters: under steady pressure it lets through no more than the limit, while a client that saves up
its tokens for the end of a window can have up to twice as many in the 60 s around it. So are requests in this process's own
memory, where `limits` has each hit of a moving window wait for a thread. Requests under way have a counter
for each stretch of time that outlasts every request, so that what a killed process left behind is forgotten. Money has a
counter for each day. A refused request has counted against its limit of requests, and against nothing else.
"""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from math import ceil

from limits import RateLimitItemPerMinute

from deploy_targets.engine.chat import Usage
from deploy_targets.guard.access_control import Caller
from deploy_targets.guard.cost import cost_micros, expected_usage
from deploy_targets.guard.counters import NO_TOKENS
from deploy_targets.guard.errors import BudgetSpent, BudgetUnknown, RateLimited
from deploy_targets.guard.exchange import Exchange
from deploy_targets.guard.limit_store import LimitStore, Store
from deploy_targets.guard.wire import Asked
from deploy_targets.guard_policy import GuardPolicy, Limits

_MINUTE_S = 60
_DAY_S = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scope:
    """Whose limits."""

    name: str
    limits: Limits
    told: str
    """In a refusal."""


@dataclass(slots=True)
class _Held:
    """What a request has reserved, as the ways to give it back or settle it: each takes the tokens and the micros."""

    settle: list[Callable[[int, int], Awaitable[object]]] = field(
        default_factory=list[Callable[[int, int], Awaitable[object]]]
    )


class RateLimiter:
    """The limits of one endpoint."""

    def __init__(
        self, policy: GuardPolicy, store: LimitStore, *, endpoint: str, longest_s: float
    ) -> None:
        """`longest_s` is longer than any request takes."""
        self._policy = policy
        self._store = store
        self._endpoint = endpoint
        self._stretch_s = ceil(longest_s) + 1

    @asynccontextmanager
    async def reserved(self, asked: Asked, exchange: Exchange) -> AsyncGenerator[None]:
        """For the time of one request.

        Raises:
            RateLimited, BudgetSpent: there is not enough left.
            BudgetUnknown: that cannot be known.
        """
        expected = expected_usage(asked, answer_tokens=self._policy.limits.answer_tokens)
        micros = max(cost_micros(expected, self._policy.prices, seconds=0), 1)
        held = _Held()
        try:
            for scope in self._scopes(exchange.caller):
                await self._hold(
                    held, scope, expected.prompt + expected.completion, micros, exchange
                )
        except BaseException:  # one that is ended while it reserves among them
            await self._settle(held, 0, 0)
            raise
        try:
            yield
        finally:
            used = exchange.charged = self._used(asked, exchange, expected)
            if used.prompt + used.completion:
                seconds = time.perf_counter() - exchange.started
                exchange.cost_micros = cost_micros(used, self._policy.prices, seconds=seconds)
            await self._settle(held, used.prompt + used.completion, exchange.cost_micros)

    def _scopes(self, caller: Caller | None) -> Iterator[_Scope]:
        limits = self._policy.limits
        if caller is not None:
            own = caller.limits.over(limits.key)
            yield _Scope(name=f"key:{caller.name}", limits=own, told="this API key")
        yield _Scope(name="endpoint", limits=limits.endpoint, told="this endpoint")

    async def _hold(
        self, held: _Held, scope: _Scope, tokens: int, micros: int, exchange: Exchange
    ) -> None:
        limits = scope.limits
        if limits.concurrent_requests is not None:
            await self._hold_place(held, scope, limits.concurrent_requests)
        if limits.requests_per_minute is not None:
            await self._hold_request(scope, limits.requests_per_minute, exchange)
        if limits.tokens_per_minute is not None:
            await self._hold_tokens(held, scope, limits.tokens_per_minute, tokens, exchange)
        if limits.micros_per_day is not None:
            await self._hold_money(held, scope, limits.micros_per_day, micros)

    async def _hold_place(self, held: _Held, scope: _Scope, limit: int) -> None:
        stretch = int(time.time() // self._stretch_s)
        # What began in the stretch before may still be under way; what is older is not.
        own, before = (self._key(scope, f"at-once:{number}") for number in (stretch, stretch - 1))

        async def take(store: Store) -> tuple[Store, int]:
            count = await store.incr(own, 3 * self._stretch_s)
            return store, count + await store.get(before)

        store, count = await self._store.rate(take)

        async def settle(_: int, __: int) -> None:
            await store.incr(own, 3 * self._stretch_s, amount=-1)

        held.settle.append(settle)
        if count > limit:
            raise _limited(scope, "concurrent_requests", f"{limit} requests at once", wait_s=1)

    async def _hold_request(self, scope: _Scope, limit: int, exchange: Exchange) -> None:
        item = RateLimitItemPerMinute(limit, namespace="requests")

        async def take(store: Store) -> tuple[bool, float, int]:
            return await store.hit_requests(item, self._endpoint, scope.name)

        is_in, reset_at, remaining = await self._store.rate(take)
        wait_s = max(reset_at - time.time(), 0)
        exchange.tell_limit("requests", limit=limit, remaining=remaining, reset_s=wait_s)
        if not is_in:
            told = f"{limit} requests a minute"
            raise _limited(scope, "requests_per_minute", told, wait_s=wait_s)

    async def _hold_tokens(
        self, held: _Held, scope: _Scope, limit: int, tokens: int, exchange: Exchange
    ) -> None:
        item = RateLimitItemPerMinute(limit, namespace="tokens")
        names = (self._endpoint, scope.name)

        async def take(store: Store) -> tuple[Store, bool, _Window]:
            is_in, window = await store.hit_tokens(item, *names, tokens=tokens)
            return store, is_in, _Window(*window)

        store, is_in, window = await self._store.rate(take)
        remaining = max(limit - ceil(window.weighted), 0)
        exchange.tell_limit("tokens", limit=limit, remaining=remaining, reset_s=window.ends_in_s)
        if not is_in:
            told = f"{limit} tokens a minute, and this request may take {tokens}"
            wait_s = window.wait_s(limit - tokens)
            raise _limited(scope, "tokens_per_minute", told, wait_s=wait_s)
        reserved_at = time.time()

        async def settle(used: int, _: int) -> None:
            ago_s = time.time() - reserved_at
            await store.change_tokens(item, *names, more=used - tokens, ago_s=ago_s)

        held.settle.append(settle)

    async def _hold_money(self, held: _Held, scope: _Scope, limit: int, micros: int) -> None:
        if not self._policy.prices.are_set:
            message = "This API key has a budget, but this endpoint has no prices. Ask its operator to declare them."
            raise BudgetUnknown(message)
        now = time.time()
        key = self._key(scope, f"micros:{int(now // _DAY_S)}")

        async def take(store: Store) -> tuple[Store, int]:
            return store, await store.incr(key, 2 * _DAY_S, amount=micros)

        store, spent = await self._store.budget(take)

        async def settle(_: int, cost: int) -> None:
            if cost != micros:
                await store.incr(key, 2 * _DAY_S, amount=cost - micros)

        held.settle.append(settle)
        if spent > limit:
            message = (
                f"The budget of {scope.told}, {limit} micros a day, is spent or does not suffice for this request. It "
                "begins anew at midnight UTC."
            )
            raise BudgetSpent(message, rule="micros_per_day", retry_after_s=_DAY_S - now % _DAY_S)

    async def _settle(self, held: _Held, tokens: int, micros: int) -> None:
        for settle in reversed(held.settle):
            await self._store.settled(settle(tokens, micros))

    def _used(self, asked: Asked, exchange: Exchange, expected: Usage) -> Usage:
        """What the version says, where it does; what failed before any text costs nothing.

        A stream that ended early costs what came of it, whether its client left, a filter cut it off or its time was over:
        whoever asks for more than can be given in time would pay nothing else. Who left before a whole answer pays for all
        that was reserved: what a version did for an answer that nobody heard, nobody knows.
        """
        if exchange.usage is not None:
            return exchange.usage
        is_left = exchange.outcome is None
        if exchange.texts or (is_left and asked.is_streamed):
            return Usage(prompt=expected.prompt, completion=exchange.texts)
        return expected if is_left else NO_TOKENS

    def _key(self, scope: _Scope, what: str) -> str:
        return f"{self._endpoint}:{scope.name}:{what}"


@dataclass(frozen=True, slots=True)
class _Window:
    """A sliding window as `limits` gives it: two counts, and in how many seconds each is forgotten."""

    previous: int
    previous_ends_in_s: float
    current: int
    current_forgotten_in_s: float

    @property
    def weighted(self) -> float:
        """What counts by now."""
        return self.previous * self.previous_ends_in_s / _MINUTE_S + self.current

    @property
    def ends_in_s(self) -> float:
        """Until the current count becomes the previous one."""
        return max(self.current_forgotten_in_s - _MINUTE_S, 0)

    def wait_s(self, room: int) -> float:
        """Until no more than `room` counts, if nothing else comes."""
        if room < 0:
            return _MINUTE_S
        if self.current <= room:
            left = self.previous_ends_in_s - (room - self.current) * _MINUTE_S / max(
                self.previous, 1
            )
            return max(left, 0)
        return self.ends_in_s + _MINUTE_S * (1 - room / self.current)


def _limited(scope: _Scope, rule: str, told: str, *, wait_s: float) -> RateLimited:
    message = (
        f"The limit of {scope.told} is reached: {told}. Try again in {max(ceil(wait_s), 1)} s."
    )
    return RateLimited(message, rule=rule, retry_after_s=wait_s)
