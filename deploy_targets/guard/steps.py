"""The steps that a policy puts on a request's way: checks of what is asked, filters of what is answered.

A check runs before anything is reserved or sent on; it returns the request as it may go on, or raises RequestRefused. A
filter is made for each answer and sees it in the words of a chat, whole or event by event, whichever engine answers and
whichever path was asked. What either does under a rule's name is told to the exchange, which counts it.
"""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from deploy_targets.guard.exchange import Exchange
from deploy_targets.guard.filter_steps import (
    input_check,
    json_form_check,
    output_filter,
    rule_names,
)
from deploy_targets.guard.judging import signs_for
from deploy_targets.guard.quality import Signs
from deploy_targets.guard.wire import Asked
from deploy_targets.guard_policy import GuardPolicy

Document = dict[str, Any]
Check = Callable[[Asked, Exchange], Awaitable[Asked]]
"""To change a request: `asked.changed(document)`. To say that a rule changed it: `exchange.redacted_by(rule)`."""


class AnswerFilter(Protocol):
    """One answer on its way back.

    `is_over`: nothing of this stream will be given any more, so that the version need not go on with it.

    Each method may raise RequestRefused, with the rule's name, to withhold the rest: before the first byte it becomes a
    status, in mid-stream an error event. Either way the version has answered.
    """

    is_over: bool

    def whole(self, document: Document) -> Document:
        """The `chat.completion` to give; the same object where nothing is changed."""
        ...

    def event(self, event: Document) -> Iterable[Document]:
        """The `chat.completion.chunk`s to give in place of this one; the same object where nothing is changed."""
        ...

    def end(self) -> Iterable[Document]:
        """What was held back, before the end mark. Not called for a stream that breaks off."""
        ...


FilterMaker = Callable[[Asked, Exchange], AnswerFilter | None]
"""None where this answer needs none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """What a policy asks for, in the order in which it is done."""

    checks: tuple[Check, ...] = ()
    filters: tuple[FilterMaker, ...] = ()
    rules: tuple[str, ...] = ()
    """The names of all rules that may refuse or redact: their series exist from the start."""
    signs: Signs = field(default_factory=lambda: signs_for(None))
    """What is looked for in answers, once they have been given."""


def steps_of(policy: GuardPolicy) -> Steps:
    """The steps of this policy.

    Raises:
        PolicyUnusable: it names a file that cannot be read, or a pattern that cannot be matched.
    """
    checks: list[Check] = []
    filters: list[FilterMaker] = []
    if policy.input is not None:
        checks.append(input_check(policy.input))
    if policy.output is not None:
        checks.append(json_form_check(policy.output))
        filters.append(output_filter(policy.output))
    return Steps(
        checks=tuple(checks),
        filters=tuple(filters),
        rules=rule_names(policy),
        signs=signs_for(policy.quality),
    )
