"""POST /v1/feedback: what a user says of an answer, by the key that asked for it. What it may be is `feedback_body`'s."""

from dataclasses import dataclass

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from deploy_targets.guard.answered import KEPT_S, Answers
from deploy_targets.guard.chat import Admit, bounded_body
from deploy_targets.guard.counters import Counters
from deploy_targets.guard.errors import UnknownAnswer
from deploy_targets.guard.exchange import exchange_of
from deploy_targets.guard.feedback_body import parse_feedback
from deploy_targets.guard.outcome import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """The route."""

    admit: Admit
    answers: Answers
    counters: Counters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One word on one answer. A later one takes its place."""
        request, exchange = Request(scope, receive), exchange_of(scope)
        caller = exchange.caller = self.admit(request)
        try:
            body = parse_feedback(await bounded_body(request))
        except ClientDisconnect:
            exchange.decide(Outcome.CANCELLED)
            return
        said = await self.answers.say(body.name, key=caller.name, verdict=body.verdict)
        if said is None:
            message = (
                f"This API key has had no answer of that id in the last {KEPT_S // 60} minutes. Give the header "
                "x-request-id of an answer, or its id."
            )
            raise UnknownAnswer(message)
        self.counters.said(said.answered.version, body.verdict, before=said.before)
        exchange.decide(Outcome.ANSWERED)
        told = {
            "object": "feedback",
            "request_id": said.answered.request_id,
            "verdict": body.verdict,
        }
        await JSONResponse(told)(scope, receive, send)
