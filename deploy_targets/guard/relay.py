"""An answer on its way back to the client: as a stream of events, or whole; through the filters either way."""

import json
import time
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from starlette.types import Send

from deploy_targets.guard import errors
from deploy_targets.guard.errors import GuardError, RequestRefused
from deploy_targets.guard.exchange import Exchange
from deploy_targets.guard.outcome import (
    Outcome,
    StreamScan,
    is_envelope,
    read_object,
    read_usage,
    whole_outcome,
)
from deploy_targets.guard.queue_full import QUEUE_FULL, is_queue_full, retry_after
from deploy_targets.guard.steps import AnswerFilter
from deploy_targets.guard.upstream import Answer
from deploy_targets.guard.wire import Asked


async def relay_stream(
    answer: Answer,
    exchange: Exchange,
    filters: Sequence[AnswerFilter],
    send: Send,
    *,
    asked: Asked,
) -> None:
    """Events as they come. The head waits for the first, so that a stream that fails at once is still a status.

    Raises:
        UpstreamBroken: it broke off, or is none.
        RequestRefused: a filter withholds the rest.
    """
    scan = StreamScan(keeps_usage=asked.wants_usage, filters=filters, watch=exchange.watch)

    def keep_counts() -> None:
        exchange.saw_text(scan.texts, now=time.perf_counter())
        exchange.usage = scan.usage

    async def send_on(lines: bytes) -> None:
        keep_counts()
        if scan.outcome is not None:
            exchange.decide(scan.outcome, error="error_in_stream" if scan.has_error else "")
        if not lines:
            return
        if exchange.status is None:
            await send(_head(HTTPStatus.OK, "text/event-stream; charset=utf-8"))
        await send({"type": "http.response.body", "body": lines, "more_body": True})

    try:
        async for piece in answer.body:
            await send_on(scan.feed(piece))
            if scan.is_over and scan.outcome is None:
                await send_on(scan.cut())
                break
        await send_on(scan.end())
    except RequestRefused:
        keep_counts()  # of what came with the piece that was refused
        raise
    if scan.outcome is None:
        message = "The model's answer broke off. Try again."
        raise errors.UpstreamBroken(message)
    await send({"type": "http.response.body", "body": b""})


async def relay_whole(
    answer: Answer, exchange: Exchange, filters: Sequence[AnswerFilter], send: Send
) -> None:
    """An answer in one piece. One that is no completion becomes an error, whatever its status said.

    Raises:
        RequestRefused: a filter withholds it.
    """
    body = await answer.whole()
    outcome = whole_outcome(answer.status, body, is_streamed=exchange.is_streamed)
    status, error = _speakable(answer.status), ""
    if outcome is Outcome.FAILED:
        error = (
            f"upstream_{answer.status}" if status >= HTTPStatus.BAD_REQUEST else "error_in_answer"
        )
        error = QUEUE_FULL if is_queue_full(status, body) else error
        status = max(status, HTTPStatus.BAD_GATEWAY) if status < HTTPStatus.BAD_REQUEST else status
    exchange.decide(outcome, error=error)
    if status >= HTTPStatus.BAD_REQUEST:
        if error == QUEUE_FULL or not is_envelope(body):
            message = f"The model did not answer this request (status {status})."
            if error == QUEUE_FULL:
                message = "Too many requests wait for the model already. Try again later."
            kind = "server_error" if outcome is Outcome.FAILED else "invalid_request_error"
            body = json.dumps(errors.envelope(message, kind=kind, code=error or None)).encode()
    else:
        body = _filtered(body, exchange, filters)
    later = retry_after(status, answer.retry_after)
    await send(_head(status, "application/json", length=len(body), later=later))
    await send({"type": "http.response.body", "body": body})


def _speakable(status: int) -> int:
    """The status, or the general one of its kind where HTTP knows no such: uvicorn has no words for those."""
    try:
        return HTTPStatus(status)
    except ValueError:
        is_request = HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR
        return HTTPStatus.BAD_REQUEST if is_request else HTTPStatus.BAD_GATEWAY


def _filtered(body: bytes, exchange: Exchange, filters: Sequence[AnswerFilter]) -> bytes:
    """The answer's own bytes, or what the filters make of it."""
    document = given = read_object(body)
    exchange.usage = read_usage(document)
    if exchange.watch is not None:
        exchange.watch.whole(document)
    for one in filters:
        given = one.whole(given)
    return body if given is document else json.dumps(given, ensure_ascii=False).encode()


def _head(
    status: int, content_type: str, *, length: int | None = None, later: str | None = None
) -> dict[str, Any]:
    headers = {"content-type": content_type, "cache-control": "no-store"}
    if length is not None:
        headers["content-length"] = str(length)
    if later is not None:
        headers["retry-after"] = later
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    return {"type": "http.response.start", "status": status, "headers": raw}


def error_event(error: GuardError) -> bytes:
    """OpenAI's clients raise on it; without it a stream broken off would look like a short answer.

    The empty line first ends an event whose own end was lost.
    """
    return b"\ndata: " + json.dumps(error.envelope()).encode() + b"\n\n"
