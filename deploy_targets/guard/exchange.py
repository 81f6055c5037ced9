"""One request from arrival to its last byte: its record, its counters, its one log line.

`Recorded` is the outermost layer around the app. It gives every answer its request id, and the version where one is
known. No prompt, answer or key is in a record.
"""

import asyncio
import re
import time
import uuid
from dataclasses import dataclass, field
from typing import cast

import structlog
from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deploy_targets import metrics
from deploy_targets.engine.chat import Usage
from deploy_targets.guard.access_control import Caller
from deploy_targets.guard.counters import NO_TOKENS, Counters, Finished
from deploy_targets.guard.errors import GuardError, ShuttingDown
from deploy_targets.guard.events import GuardEvent
from deploy_targets.guard.outcome import Outcome
from deploy_targets.guard.quality import AnswerWatch
from deploy_targets.guard.queue_full import QUEUE_FULL
from deploy_targets.guard.upstream import REQUEST_ID_HEADER
from deploy_targets.routing.buckets import bucket_of, bucket_text
from deploy_targets.routing.traffic import VERSION_HEADER

_log = structlog.get_logger()
_KEY = re.compile(r"sk-[\w-]{8,}")
"""A key that somebody put into the address, where it would be written into the log."""


@dataclass(slots=True, kw_only=True)
class Exchange:
    """What is known of one request so far."""

    request_id: str
    route: str = ""
    """The route label, once the request is passed on or about to be; only then can it count."""
    caller: Caller | None = None
    """Once the key is known to be good."""
    user: bytes | None = None
    """What stands for a sticky user; None where there is none, or the version is pinned."""
    is_streamed: bool = False
    version: str | None = None
    digest: str = ""
    """Of the model's files, where the engine says it."""
    cache: str = ""
    """What the cache made of it, where there is one."""
    failed_first: str | None = None
    """Of a request that has got a second try: the version of the first."""
    failed_with: str = ""
    """The code of that failure."""
    status: int | None = None
    """Of the answer's head; None while none was sent."""
    is_sending: bool = False
    """The client has not taken yet what was last sent to it."""
    outcome: Outcome | None = None
    error: str = ""
    """The code of what went wrong."""
    rule: str = ""
    """The rule that refused the request or withheld its answer."""
    redactions: list[str] = field(default_factory=list[str])
    """The rules that changed something, once for each change."""
    usage: Usage | None = None
    """The tokens that the version says the request took."""
    watch: AnswerWatch | None = None
    """What looks on at the answer; None for a request that was not sent on."""
    texts: int = 0
    """Events of a stream that brought text; for engines that send token by token, its tokens so far."""
    first_text_at: float | None = None
    last_text_at: float | None = None
    """By the clock of `started`; of streams alone."""
    started: float = field(default_factory=time.perf_counter)
    charged: Usage | None = None
    """The tokens that limits and budgets were charged for; None for a request that was not sent on."""
    cost_micros: int = 0
    headers: dict[str, str] = field(default_factory=dict[str, str])
    """For the answer's head, whatever it will be."""

    @property
    def bucket(self) -> str | None:
        """The user's, as its header has it."""
        return None if self.user is None else bucket_text(bucket_of(self.user))

    def decide(self, outcome: Outcome, *, error: str = "") -> None:
        """Settles the outcome. The first word counts: a client that hangs up after the end mark has its answer."""
        if self.outcome is None:
            self.outcome, self.error = outcome, error or self.error

    def refused_by(self, error: GuardError) -> None:
        """Keeps what is to be told of a refusal."""
        self.error = self.error or error.code
        self.rule = error.rule or error.code

    def saw_text(self, texts: int, *, now: float) -> None:
        """So many events of the stream have brought text by now."""
        if texts > self.texts:
            self.texts, self.last_text_at = texts, now
            if self.first_text_at is None:
                self.first_text_at = now

    def tell_limit(self, what: str, *, limit: int, remaining: int, reset_s: float) -> None:
        """Has the client told about a limit, as OpenAI's API does; of several the first, which is its own."""
        if f"x-ratelimit-limit-{what}" not in self.headers:
            self.headers |= {
                f"x-ratelimit-limit-{what}": str(limit),
                f"x-ratelimit-remaining-{what}": str(remaining),
                f"x-ratelimit-reset-{what}": f"{max(reset_s, 0):.3f}s",
            }

    def finished(self, *, seconds: float) -> Finished:
        """What is counted of it for its version."""
        usage, first, last = self.usage, self.first_text_at, self.last_text_at
        gaps = 0 if usage is None else usage.completion - 1
        per_token_s = None
        if first is not None and last is not None and gaps > 0 and self.texts > 1:
            per_token_s = (last - first) / gaps
        return Finished(
            seconds=seconds,
            is_error=self.outcome is Outcome.FAILED,
            is_queue_full=self.error == QUEUE_FULL,
            usage=usage or NO_TOKENS,
            cost_micros=self.cost_micros,
            first_token_s=None if first is None else first - self.started,
            per_token_s=per_token_s,
        )

    def redacted_by(self, rule: str) -> None:
        """The rule of that name has changed the request or the answer."""
        self.redactions.append(rule)


class Recorded:
    """Around the app: records each request, counts it, writes its line."""

    def __init__(self, app: ASGIApp, counters: Counters, *, endpoint: str) -> None:
        """`counters` get what was answered or failed."""
        self._app = app
        self._counters = counters
        self._log = _log.bind(endpoint=endpoint)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request. Lets an error of the guard's own making through when its line is written."""
        exchange = Exchange(request_id=uuid.uuid4().hex)
        scope.setdefault("state", {})["exchange"] = exchange

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID_HEADER] = exchange.request_id
                headers.update(exchange.headers)
                if exchange.version:
                    headers[VERSION_HEADER] = exchange.version
            exchange.is_sending = True
            await send(message)
            exchange.is_sending = False

        try:
            await self._app(scope, receive, send_marked)
        except asyncio.CancelledError:
            exchange.decide(Outcome.CANCELLED, error=ShuttingDown.code)
            if exchange.status is None:
                error = ShuttingDown("The guard is shutting down. Try again.")
                await error_response(error)(scope, receive, send_marked)
            raise
        finally:
            self._finish(scope, exchange, seconds=time.perf_counter() - exchange.started)

    def _finish(self, scope: Scope, exchange: Exchange, *, seconds: float) -> None:
        exchange.decide(Outcome.REFUSED)
        if exchange.route and exchange.outcome in {Outcome.ANSWERED, Outcome.FAILED}:
            finished = exchange.finished(seconds=seconds)
            self._counters.count(exchange.version, route=exchange.route, finished=finished)
        # Without a route it was not sent on, and is nothing that a key is charged for.
        if exchange.route and exchange.charged is not None and exchange.caller is not None:
            self._counters.charge(
                exchange.version,
                key=exchange.caller.name,
                usage=exchange.charged,
                cost_micros=exchange.cost_micros,
            )
        if exchange.rule:
            self._counters.acted(exchange.rule, metrics.REFUSED, code=exchange.error)
        for rule in exchange.redactions:
            self._counters.acted(rule, metrics.REDACTED)
        self._log.info(
            GuardEvent.REQUEST_SERVED,
            request_id=exchange.request_id,
            method=scope["method"],
            path=_KEY.sub("[key]", scope["path"])[:100],
            route=exchange.route,
            caller="" if exchange.caller is None else exchange.caller.name,
            version=exchange.version,
            cache=exchange.cache,
            failed_first=exchange.failed_first,
            failed_with=exchange.failed_with,
            status=exchange.status,
            is_streamed=exchange.is_streamed,
            outcome=exchange.outcome,
            error=exchange.error,
            rule=exchange.rule,
            redactions=len(exchange.redactions),
            prompt_tokens=None if exchange.usage is None else exchange.usage.prompt,
            completion_tokens=None if exchange.usage is None else exchange.usage.completion,
            cost_micros=exchange.cost_micros,
            duration_ms=round(seconds * 1000, 2),
        )


def exchange_of(scope: Scope) -> Exchange:
    """The record of the request that this scope belongs to."""
    return cast("Exchange", scope["state"]["exchange"])


def error_response(error: GuardError) -> JSONResponse:
    """The answer that says what went wrong, in OpenAI's envelope."""
    return JSONResponse(error.envelope(), status_code=error.status)
