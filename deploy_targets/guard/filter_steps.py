"""A policy's `input` and `output` as steps of a request: what `prompt_filter` and `answer_filter` say becomes deeds."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from deploy_targets.filter_policy import InputPolicy, OutputPolicy
from deploy_targets.guard.answer_filter import JSON_RULE, AnswerFilter
from deploy_targets.guard.context_length import Count, check_context, tokenizer_count
from deploy_targets.guard.errors import AnswerUnfit, ContentRefused, PolicyUnusable
from deploy_targets.guard.exchange import Exchange
from deploy_targets.guard.filtering import Action, Rule
from deploy_targets.guard.json_answers import JsonCheck, json_check
from deploy_targets.guard.prompt_filter import PromptFiltered, filter_prompt, text_of
from deploy_targets.guard.request_limits import check_limits
from deploy_targets.guard.rules import rules_of
from deploy_targets.guard.strict_json import read_strictly
from deploy_targets.guard.wire import Asked
from deploy_targets.guard_policy import GuardPolicy
from deploy_targets.pattern_reach import PatternInvalid

_LONG_BYTES = 32_000
"""Beyond, rules take some milliseconds, for which other requests should not wait: a thread looks through the prompt."""


def rule_names(policy: GuardPolicy) -> tuple[str, ...]:
    """Of all rules that may refuse or redact."""
    names = [
        rule.name
        for part in (policy.input, policy.output)
        if part is not None
        for rule in part.rules
        if rule.action is not Action.ALLOW
    ]
    if policy.output is not None and policy.output.json_answers != "off":
        names.append(JSON_RULE)
    return tuple(dict.fromkeys(names))


def input_check(policy: InputPolicy) -> Callable[[Asked, Exchange], Awaitable[Asked]]:
    """Refuses or redacts what is asked.

    Raises:
        PolicyUnusable: its tokenizer cannot be read, or a pattern cannot be matched.
    """
    rules, count = _rules(policy), _count(policy)

    async def check(asked: Asked, exchange: Exchange) -> Asked:
        document = read_strictly(asked.body)
        if policy.limits is not None:
            check_limits(document, policy.limits)
        if policy.context is not None and count is not None:
            check_context(
                [text_of(message) for message in document["messages"]],
                answer_tokens=asked.max_tokens or 1,
                tokens=policy.context.tokens,
                count=count,
            )
        if not rules:
            return asked
        if len(asked.body) > _LONG_BYTES:
            done = await asyncio.to_thread(filter_prompt, rules, document)
        else:
            done = filter_prompt(rules, document)
        _tell(done, rules, exchange)
        return asked if done.document is document else asked.changed(done.document)

    return check


def _tell(done: PromptFiltered, rules: tuple[Rule, ...], exchange: Exchange) -> None:
    if done.refusal is not None:
        what = "does not pass" if done.refusal.reason == "found" else "cannot be checked in time by"
        message = (
            f"messages: the prompt {what} the rule {done.refusal.rule!r} of this endpoint. "
            "Take out what it is about, and send the request again."
        )
        raise ContentRefused(message, param="messages", rule=done.refusal.rule)
    redacting = {rule.name for rule in rules if rule.action is Action.REDACT}
    for name, times in done.found.items():
        for _ in range(times if name in redacting else 0):
            exchange.redacted_by(name)


def output_filter(policy: OutputPolicy) -> Callable[[Asked, Exchange], AnswerFilter]:
    """Refuses or redacts what is answered.

    Raises:
        PolicyUnusable: a pattern cannot be matched.
    """
    rules = _rules(policy)

    def make(asked: Asked, exchange: Exchange) -> AnswerFilter:
        return AnswerFilter(
            rules,
            json_check=_json_asked(policy, asked),
            to=_Told(policy, exchange),
            choices=asked.choices,
        )

    return make


def json_form_check(policy: OutputPolicy) -> Callable[[Asked, Exchange], Awaitable[Asked]]:
    """Refuses a response_format that answers cannot be held against, before anything is sent on."""

    async def check(asked: Asked, exchange: Exchange) -> Asked:  # noqa: ARG001
        _json_asked(policy, asked)
        return asked

    return check


def _json_asked(policy: OutputPolicy, asked: Asked) -> JsonCheck | None:
    if policy.json_answers == "off" or b"response_format" not in asked.body:
        return None
    return json_check(asked.document())


class _Told:
    """Where an answer's filter says what it has found."""

    def __init__(self, policy: OutputPolicy, exchange: Exchange) -> None:
        self._policy = policy
        self._exchange = exchange

    def redacted(self, rule: str) -> None:
        self._exchange.redacted_by(rule)

    def refused(self, rule: str) -> None:
        self._exchange.rule = rule

    def unfit(self) -> None:
        self._exchange.rule = JSON_RULE
        if self._policy.json_answers == "refuse":
            message = "The model's answer is not the JSON that response_format asks for. Try again."
            raise AnswerUnfit(message, rule=JSON_RULE)


def _rules(policy: InputPolicy | OutputPolicy) -> tuple[Rule, ...]:
    try:
        return rules_of(policy.rules)
    except PatternInvalid as error:
        raise PolicyUnusable(str(error)) from error


def _count(policy: InputPolicy) -> Count | None:
    if policy.context is None:
        return None
    try:
        return tokenizer_count(Path(policy.context.tokenizer))
    except (OSError, ValueError) as error:
        message = f"guard.input.context.tokenizer: {error}"
        raise PolicyUnusable(message) from error
