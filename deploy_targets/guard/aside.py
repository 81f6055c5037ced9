"""What is done with an answer aside from the request that it answers: the answer as it is told, and the work's own tasks.

A `Watch` is the filter of an answer that changes nothing and tells the whole text once it is there. An `Aside` does the
work, and ends what is left of it with the process. Nobody waits for either.
"""

import asyncio
import random
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Self

import structlog

from deploy_targets.guard.answer_filter import JSON_RULE
from deploy_targets.guard.events import GuardEvent
from deploy_targets.guard.exchange import Exchange
from deploy_targets.guard.outcome import Outcome
from deploy_targets.guard.wire import Asked
from deploy_targets.metrics import PINNED_ROUTE

MAX_TEXT_CHARS = 64_000
"""Of an answer that is told; about 16,000 tokens. Longer ones are left out, so that what is kept in memory is bounded."""
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One answer, well given."""

    asked: Asked
    """As it went on to the version."""
    text: str
    version: str
    route: str
    request_id: str
    seconds: float
    """From the request's arrival to the answer's end."""


class Watch:
    """A filter that lets everything through, and tells what it saw."""

    is_over = False

    def __init__(self, asked: Asked, exchange: Exchange, tell: Callable[[Seen], None]) -> None:
        """`tell` is called once, for an answer that is not too long.

        Not for one that failed, that a rule has cut or that calls tools: its text is not all that it says.
        """
        self._asked = asked
        self._exchange = exchange
        self._tell = tell
        self._parts: list[str] = []
        self._left = MAX_TEXT_CHARS

    def whole(self, document: dict[str, Any]) -> dict[str, Any]:
        """The same."""
        self._see(document, "message")
        self._finish()
        return document

    def event(self, event: dict[str, Any]) -> tuple[dict[str, Any]]:
        """The same."""
        self._see(event, "delta")
        return (event,)

    def end(self) -> tuple[()]:
        """Nothing was held back."""
        self._finish()
        return ()

    def _see(self, document: dict[str, Any], part: str) -> None:
        text = text_of_choices(document, part)
        is_unfit = bool(document.get("error")) or _calls(document, part)
        self._left = -1 if is_unfit else self._left - len(text)
        if self._left < 0:
            self._parts.clear()
        else:
            self._parts.append(text)

    def _finish(self) -> None:
        exchange = self._exchange
        is_failed = exchange.outcome not in {None, Outcome.ANSWERED}
        is_cut = exchange.rule not in {"", JSON_RULE}
        if self._left < 0 or is_failed or is_cut or exchange.version is None:
            return
        self._tell(
            Seen(
                asked=self._asked,
                text="".join(self._parts),
                version=exchange.version,
                route=exchange.route,
                request_id=exchange.request_id,
                seconds=time.perf_counter() - exchange.started,
            )
        )


def is_sampled(asked: Asked, exchange: Exchange, *, share: float) -> bool:
    """Whether this answer belongs to a sample; never one of several, and none that a version was pinned for."""
    is_fit = exchange.route != PINNED_ROUTE and asked.choices <= 1
    return is_fit and random.random() < share  # noqa: S311 - a sample, no secret


def text_of_choices(document: dict[str, Any], part: str) -> str:
    """What an answer (`message`) or an event of one (`delta`) says; nothing where it is none."""
    choices: Any = document.get("choices") or ()
    try:
        said: list[Any] = [choice.get(part) or {} for choice in choices]
        return "".join(one.get("content") or "" for one in said)
    except (TypeError, AttributeError):
        return ""


def _calls(document: dict[str, Any], part: str) -> bool:
    """Whether the answer, or the event of one, calls a tool."""
    choices: Any = document.get("choices") or ()
    try:
        said: list[Any] = [choice.get(part) or {} for choice in choices]
        return any(one.get("tool_calls") or one.get("function_call") for one in said)
    except (TypeError, AttributeError):
        return False


class Aside:
    """Tasks that nobody waits for. They end, or are cancelled, before the block does."""

    def __init__(self) -> None:
        """None yet. How many there may be is for those to say who begin them."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """Itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Cancels what is left."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Does `work`. An error of it is a bug of ours: it is logged, and touches no request."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error(GuardEvent.ASIDE_FAILED, exc_info=error)
