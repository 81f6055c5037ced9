"""Rules on one answer of a chat, whole or event by event. Pure.

A choice in which a rule refuses ends there, with the finish reason `content_filter`, as OpenAI's own API ends it, and
with the rule's name in `content_filter_rule`. Filtered is all text that an answer says or thinks; calls of tools pass
as they are. Log probabilities spell the text once more and are taken out.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from deploy_targets.filter_policy import Action
from deploy_targets.guard.filtering import Rule, StreamFilter
from deploy_targets.guard.json_answers import JsonCheck

Document = dict[str, Any]
_TEXTS = ("content", "reasoning_content", "reasoning", "refusal")
JSON_RULE = "json_answers"


@dataclass(slots=True)
class _Choice:
    """One of the answers that are streamed together."""

    filters: dict[str, StreamFilter] = field(default_factory=dict[str, StreamFilter])
    said: list[str] = field(default_factory=list[str])
    """Its content, as far as it went out; kept for a check of JSON alone."""
    has_finished: bool = False

    @property
    def refused_by(self) -> str | None:
        """The rule that has refused it; None where it goes on."""
        return next((one.refusal.rule for one in self.filters.values() if one.refusal), None)


class Findings(Protocol):
    """Who hears of what is done."""

    def redacted(self, rule: str) -> None:
        """A finding of this rule was replaced."""
        ...

    def refused(self, rule: str) -> None:
        """A choice ends because of this rule."""
        ...

    def unfit(self) -> None:
        """A choice is not the JSON that was asked for. May raise, to withhold the answer's rest."""
        ...


class AnswerFilter:
    """One answer on its way back."""

    def __init__(
        self,
        rules: Sequence[Rule],
        *,
        json_check: JsonCheck | None,
        to: Findings,
        choices: int = 1,
    ) -> None:
        """Nothing has come yet. So many choices were asked for."""
        self.is_over = False
        """A rule has refused, and no choice goes on."""
        self._asked = choices
        self._rules = rules
        self._redacting = {rule.name for rule in rules if rule.action is Action.REDACT}
        self._json_check = json_check
        self._to = to
        self._choices: dict[int, _Choice] = {}
        self._last: Document = {}

    def whole(self, document: Document) -> Document:
        """The `chat.completion` to give; the same object where nothing is changed."""
        return self._through(document, "message")

    def event(self, event: Document) -> Iterable[Document]:
        """The `chat.completion.chunk`s to give in place of this one."""
        if not event.get("choices"):
            # Counts of tokens. What is held back belongs before them, though a finish reason should have freed it.
            return [*self._rest(), event]
        self._last = event
        given = self._through(event, "delta")
        return [given] if given["choices"] else []

    def end(self) -> Iterable[Document]:
        """What was held back, before the end mark."""
        return self._rest()

    def _through(self, document: Document, part: str) -> Document:
        choices: list[Document] = document["choices"]
        given = [told for choice in choices if (told := self._choice(choice, part)) is not None]
        is_same = len(given) == len(choices) and all(
            a is b for a, b in zip(given, choices, strict=True)
        )
        return document if is_same else {**document, "choices": given}

    def _choice(self, choice: Document, part: str) -> Document | None:
        """The choice to give; None where nothing of it is left to say."""
        index: object = choice.get("index")
        state = self._choices.setdefault(index if isinstance(index, int) else 0, _Choice())
        if state.has_finished:
            return None
        said: Document = choice.get(part) or {}
        is_last = part == "message" or choice.get("finish_reason") is not None
        names = [name for name in _TEXTS if isinstance(said.get(name), str)]
        if is_last:
            names += [name for name in state.filters if name not in names]
        texts = {name: self._text(state, name, said.get(name) or "", is_last) for name in names}
        rule = state.refused_by
        changed = {name: text for name, text in texts.items() if text != (said.get(name) or "")}
        finish: Document = {}
        if rule is not None:
            finish = self._refuse(state, rule)
        elif is_last:
            state.has_finished = True
            finish = self._check_json(state, choice.get("finish_reason"))
        is_held = bool(changed) and not any(texts.values()) and said.keys() <= changed.keys()
        if is_held and not is_last and rule is None:
            return None
        if choice.get("logprobs") is not None:
            finish = {**finish, "logprobs": None}
        if not changed and not finish:
            return choice
        return {**choice, **finish, part: {**said, **changed}}

    def _text(self, state: _Choice, name: str, text: str, is_last: bool) -> str:  # noqa: FBT001
        one = state.filters.setdefault(name, StreamFilter(self._rules))
        before = one.found.copy()
        given = one.feed(text) if text else ""
        if is_last:
            given += one.end()
        for rule, times in (one.found - before).items():
            for _ in range(times if rule in self._redacting else 0):
                self._to.redacted(rule)
        if name == "content" and self._json_check is not None:
            state.said.append(given)
        return given

    def _refuse(self, state: _Choice, rule: str) -> Document:
        """How a refused choice ends."""
        state.has_finished = True
        self._to.refused(rule)
        finished = sum(one.has_finished for one in self._choices.values())
        self.is_over = finished >= self._asked
        return {"finish_reason": "content_filter", "content_filter_rule": rule}

    def _check_json(self, state: _Choice, reason: object) -> Document:
        """What a finished choice says of it. One that was cut off by its number of tokens is not judged."""
        if self._json_check is None or reason == "length":
            return {}
        if self._json_check.holds("".join(state.said)):
            return {}
        self._to.unfit()
        return {"content_filter_rule": JSON_RULE}

    def _rest(self) -> Iterator[Document]:
        """What is held back of choices that never said that they are finished."""
        for index, state in self._choices.items():
            if state.has_finished:
                continue
            choice: Document = {"index": index, "delta": {}, "finish_reason": None}
            texts = {name: self._text(state, name, "", True) for name in state.filters}
            given = {name: text for name, text in texts.items() if text}
            rule = state.refused_by
            state.has_finished = True
            if rule is not None:
                choice |= self._refuse(state, rule)
            if given or rule is not None:
                yield {**self._last, "choices": [{**choice, "delta": given}]}
