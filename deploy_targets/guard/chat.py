"""POST /v1/chat/completions and /v1/completions: one request, step by step.

admit, read, parse, check (the policy's checks), reserve (what limits and budgets may take), look up, forward, filter (the
policy's filters), settle. Both ends are watched on the way: a client that leaves ends the work behind it, and a version that fails
gives a clear error, even in the middle of a stream.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from deploy_targets.guard import errors
from deploy_targets.guard.access_control import Caller
from deploy_targets.guard.answer_cache import AnswerCache
from deploy_targets.guard.completions import CompletionWords, parse_completion
from deploy_targets.guard.counters import Counters
from deploy_targets.guard.errors import (
    ModelRefused,
    RequestRefused,
    UpstreamBroken,
    UpstreamFailed,
    VersionDied,
)
from deploy_targets.guard.exchange import Exchange, exchange_of
from deploy_targets.guard.judging import Judging
from deploy_targets.guard.outcome import Outcome
from deploy_targets.guard.protocol import Call, ProtocolName, call_for
from deploy_targets.guard.relay import error_event, relay_stream, relay_whole
from deploy_targets.guard.second_try import SecondTries, living
from deploy_targets.guard.steps import AnswerFilter, Steps
from deploy_targets.guard.sticky import Sticky
from deploy_targets.guard.upstream import Answer, Upstream
from deploy_targets.guard.wire import Asked, parse_chat
from deploy_targets.metrics import AGAIN_ROUTE, CHAT_ROUTE, PINNED_ROUTE
from deploy_targets.routing.traffic import VERSION_HEADER

_MAX_BODY_BYTES = 1 << 20
_BODY_S = 30.0
"""For a client to send its whole request: a megabyte at slow mobile speed."""
Admit = Callable[[Request], Caller]


class Limiter(Protocol):
    """Reserves before a request is sent on what it may take, and settles what it took afterwards."""

    def reserved(self, asked: Asked, exchange: Exchange) -> AbstractAsyncContextManager[None]:
        """For the time of one request. Entering it raises a GuardError where there is nothing left."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """Both ways to ask for tokens."""

    endpoint: str
    admit: Admit
    steps: Steps
    limiter: Limiter
    upstream: Upstream
    second_tries: SecondTries
    protocol: ProtocolName
    counters: Counters
    judging: Judging
    cache: AnswerCache | None = None
    sticky: Sticky | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request. What is refused, or fails before its first byte, is raised as a GuardError."""
        request, exchange = Request(scope, receive), exchange_of(scope)
        caller = exchange.caller = self.admit(request)
        pin = request.headers.get(VERSION_HEADER)
        if pin and not caller.may_pin:
            message = (
                f"This API key may not choose a version. Leave the header {VERSION_HEADER} out."
            )
            raise errors.NotPermitted(message)
        self.counters.let_in()
        try:
            body = await bounded_body(request)
            asked = self._parse(scope["path"], body)
            exchange.is_streamed = asked.is_streamed
            for check in self.steps.checks:
                asked = await check(asked, exchange)
            call = call_for(
                self.protocol, asked, endpoint=self.endpoint, request_id=exchange.request_id
            )
            async with self.limiter.reserved(asked, exchange):
                exchange.route = PINNED_ROUTE if pin else CHAT_ROUTE
                if self.sticky is not None and not pin:
                    exchange.user = self.sticky.user_of(asked, request, caller)
                forward = partial(self._forward, exchange, asked, call, pin)
                if self.cache is None:
                    work = forward(send)
                else:
                    work = self.cache.answer(asked, exchange, forward, send, is_pinned=bool(pin))
                await _while_client_waits(work, receive)
        except ClientDisconnect:
            exchange.decide(Outcome.CANCELLED)
        finally:
            self.judging.ended(exchange)
            self.counters.let_in(is_over=True)

    def _parse(self, path: str, body: bytes) -> Asked:
        asked = parse_completion(body) if path == "/v1/completions" else parse_chat(body)
        if asked.model != self.endpoint:
            message = (
                f"There is no such model here. The only one is {self.endpoint!r}: name that one."
            )
            raise errors.NoSuchModel(message, param="model")
        return asked

    async def _forward(
        self, exchange: Exchange, asked: Asked, call: Call, pin: str | None, send: Send
    ) -> None:
        """Passes the request on and its answer back.

        Raises:
            UpstreamFailed, RequestRefused: and nothing was sent yet, so that it can become a status.
            ClientDisconnect: the client did not take its answer in time.
        """
        of_prompt = len(exchange.redactions)
        try:
            try:
                await self._pass_on(exchange, asked, call, pin, send)
            except (UpstreamBroken, VersionDied) as failure:
                other = self.second_tries.other(exchange)
                if other is None:
                    raise
                self.second_tries.begin(exchange, failure, of_prompt=of_prompt)
                await self._pass_on(exchange, asked, call, other, send, failure)
            self.second_tries.keep(exchange)
        except ModelRefused as error:
            exchange.decide(Outcome.ANSWERED, error=error.code)
            raise
        except RequestRefused as error:
            exchange.decide(Outcome.ANSWERED, error=error.code)
            exchange.refused_by(error)
            if exchange.status is None:
                raise
            await send({"type": "http.response.body", "body": error_event(error)})
        except UpstreamFailed as error:
            if exchange.is_sending:
                raise ClientDisconnect from error
            exchange.decide(Outcome.FAILED, error=error.code)
            if exchange.status is None:
                raise
            told = b"" if exchange.outcome is Outcome.ANSWERED else error_event(error)
            await send({"type": "http.response.body", "body": told})

    async def _pass_on(
        self,
        exchange: Exchange,
        asked: Asked,
        call: Call,
        pin: str | None,
        send: Send,
        failure: UpstreamFailed | None = None,
    ) -> None:
        """One try; the second one after the `failure` of the first, which stands where nobody is there for it."""
        exchange.watch = self.judging.watch(asked, exchange)
        async with self.upstream.ask(
            call.path,
            call.body,
            pin=pin,
            request_id=exchange.request_id,
            bucket=exchange.bucket,
            timeout_s=None if failure is None else self.second_tries.left_s(exchange),
        ) as begun:
            self._attribute(exchange, begun)
            # Who names no version has not shared it out, and says nothing of the split.
            is_drawn = failure is None and begun.version is not None
            if self.sticky is not None and exchange.user is not None and is_drawn:
                is_first = await self.sticky.seen.is_first(begun.split, exchange.user)
                exchange.route = CHAT_ROUTE if is_first else AGAIN_ROUTE
            answer = await call.read(begun)
            self._attribute(exchange, answer)
            if failure is not None and exchange.version is None:
                raise failure
            if self.second_tries.other(exchange) is not None:
                answer = await living(answer)
            filters = self._filters(asked, exchange)
            if asked.is_streamed and answer.is_stream:
                await relay_stream(answer, exchange, filters, send, asked=asked)
            else:
                await relay_whole(answer, exchange, filters, send)

    def _filters(self, asked: Asked, exchange: Exchange) -> tuple[AnswerFilter, ...]:
        """The policy's, and last the one that finds the words of /v1/completions."""
        given = (make(asked, exchange) for make in self.steps.filters)
        made = tuple(one for one in given if one is not None)
        return (*made, CompletionWords()) if asked.is_completion else made

    def _attribute(self, exchange: Exchange, answer: Answer) -> None:
        exchange.version, exchange.digest = answer.version, answer.digest
        self.counters.appear(answer.version)


async def bounded_body(request: Request) -> bytes:
    """The whole body.

    Raises:
        RequestTooLarge, RequestTooSlow: past the limits above.
        ClientDisconnect: the client left.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_S):
            async for piece in request.stream():
                body += piece
                if len(body) > _MAX_BODY_BYTES:
                    message = f"The request is larger than {_MAX_BODY_BYTES} bytes. Shorten it."
                    raise errors.RequestTooLarge(message)
    except TimeoutError as error:
        message = f"The request did not arrive within {_BODY_S:g} s. Send it again."
        raise errors.RequestTooSlow(message) from error
    return bytes(body)


async def _while_client_waits(work: Coroutine[Any, Any, None], receive: Receive) -> None:
    """Does `work` to its end, or cancels it when the client hangs up; either way it has ended on return.

    Raises:
        ClientDisconnect: the client hung up first.
    """

    async def until_gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    task, watch = asyncio.create_task(work), asyncio.create_task(until_gone())
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        watch.cancel()
        task.cancel()
        await asyncio.wait({task})
    if task.cancelled():
        raise ClientDisconnect
    task.result()
