"""Cheap signals on an answer: what can be seen of it without understanding it. Pure.

An `AnswerWatch` looks on while an answer passes and holds nothing back; what it says is worked out once the answer has
ended. It keeps an answer's beginning and its end, and all of it only where JSON was asked for.
"""

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from deploy_targets.guard.json_answers import JsonCheck
from deploy_targets.guard.patterns import Bounded, Compiled, compile_bounded, compile_known
from deploy_targets.quality_policy import MAX_LOOP_CHARS, QualityPolicy, Signal

Document = dict[str, Any]
_HEAD_CHARS = 300
"""In which a refusal has to begin."""
_JSON_CHARS = 256_000
"""Of an answer that is held against a schema; a longer one is not."""
_KEY_CHARS = 16
_TRIES = 64
"""Distances at which a loop is looked for: one in which more places look like its end than that is not found."""
_CHOICES = 128
_NEVER = r"(?:cannot|can not|can'?t|won't|will not|am (?:not able|unable) to|'m (?:not able|unable) to|must decline to)"
_DEEDS = (
    r"(?:assist|help|provide|fulfil|comply|answer|respond|create|generate|write|discuss|engage|share|support|continue|"
    r"do that|offer|give|produce|participate)"
)
_SORRY = (
    r"(?:(?:i'm|i am) (?:really |very |so )?(?:sorry|afraid)|sorry|i apologi[sz]e|unfortunately)"
)
_MACHINE = (
    r"(?:ai|artificial intelligence|language model)(?: language)?(?: model| assistant| chatbot)?"
)
_NOT = r"(?:cannot|can not|can'?t|don't|do not|am not|'m not|am unable|'m unable|won't|will not)"
_REFUSALS = (
    rf"^(?:{_SORRY}[,.;:!]? ?(?:but )?)?i ?{_NEVER} {_DEEDS}\b",
    rf"^(?:{_SORRY}[,.;:!]? ?(?:but )?)?as an? {_MACHINE},? i ?{_NOT}\b",
)
"""The usual English ones. They are conservative: what is matched refuses, and much that refuses is not matched."""
_APOSTROPHES = str.maketrans({"\u2019": "'", "\u2018": "'", "\u02bc": "'"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Signs:
    """A policy's thresholds, compiled."""

    min_chars: int
    loop_repeats: int
    loop_chars: int
    loop_shrinks: float
    usual: tuple[Compiled, ...]
    own: tuple[Bounded, ...]

    def refuses(self, head: str) -> bool:
        """Whether an answer that begins so is a refusal. A pattern that does not end in time finds nothing."""
        said = " ".join(head[:_HEAD_CHARS].translate(_APOSTROPHES).split()).lstrip("\"'*_#>- ")
        lowered = said.lower()
        try:
            return any(one.search(lowered, timeout=0.05) for one in self.usual) or any(
                one.search(said, 0, partial=False) for one in self.own
            )
        except TimeoutError:
            return False


def signs_of(policy: QualityPolicy) -> Signs:
    """The signs of this policy.

    Raises:
        PatternInvalid: a pattern cannot be matched.
    """
    return Signs(
        min_chars=policy.min_chars,
        loop_repeats=policy.loop_repeats,
        loop_chars=policy.loop_chars,
        loop_shrinks=policy.loop_shrinks,
        usual=tuple(map(compile_known, _REFUSALS)),
        own=tuple(compile_bounded(one, ignore_case=True) for one in policy.refusal_patterns),
    )


def is_loop(text: str, *, repeats: int, chars: int) -> bool:
    """Whether the text ends by saying the same `repeats` times over, in at least so many characters together.

    The last of them may be cut off, and so may the first. What is looked at is the text's last 4,000 characters.
    """
    tail = text[-MAX_LOOP_CHARS:]
    return _repeats(tail, repeats, chars) or (
        tail[-1:].isspace() and _repeats(tail.rstrip(), repeats, chars)
    )


def is_monotonous(text: str, *, chars: int, shrinks: float) -> bool:
    """Whether the text's last 2 * `chars` characters, of which there must be `chars`, become so many times smaller.

    Source: OpenAI's Whisper takes a text that zlib makes 2.4 times smaller for one that its model repeats.
    """
    tail = text[-min(2 * chars, MAX_LOOP_CHARS) :]
    if len(tail) < chars:
        return False
    spelled = tail.encode(errors="replace")
    return len(spelled) > shrinks * len(zlib.compress(spelled))


def _repeats(text: str, repeats: int, chars: int) -> bool:
    """Whether there is a distance p such that the last max(chars, repeats * p) characters are p apart alike."""
    size = len(text)
    key = text[-_KEY_CHARS:]
    at = size - len(key)
    for _ in range(_TRIES):
        at = text.rfind(key, 0, at + len(key) - 1)
        if at < 0:
            return False
        apart = size - len(key) - at
        length = max(chars, repeats * apart)
        if length > size:
            return False
        if text[size - length : size - apart] == text[size - length + apart :]:
            return True
    return False


@dataclass(slots=True)
class _Choice:
    """One of the answers that are given together."""

    parts: list[str] = field(default_factory=list[str])
    chars: int = 0
    """In `parts`."""
    head: str = ""
    """Set once the beginning has been let go."""
    finish: str | None = None
    has_calls: bool = False
    has_refused: bool = False
    """By the field that OpenAI's API has for it."""

    def add(self, text: str, keeps: int) -> None:
        self.parts.append(text)
        self.chars += len(text)
        if self.chars > 2 * keeps:
            whole = "".join(self.parts)
            self.head = self.head or whole[:_HEAD_CHARS]
            self.parts = [whole[-keeps:]]
            self.chars = keeps


class AnswerWatch:
    """Looks on at one answer."""

    def __init__(
        self, signs: Signs, *, json_check: JsonCheck | None, begun: Callable[[str], None]
    ) -> None:
        """`begun` is told the answer's id, or an empty string, when its first words are there and before they go on."""
        self._signs = signs
        self._json_check = json_check
        self._keeps = MAX_LOOP_CHARS if json_check is None else _JSON_CHARS
        self._begun: Callable[[str], None] | None = begun
        self._choices: dict[int, _Choice] = {}
        self._has_ended = False

    def whole(self, document: Document) -> None:
        """A `chat.completion`."""
        self._see(document, "message")
        self._has_ended = True

    def event(self, event: Document) -> None:
        """A `chat.completion.chunk`, as the version sent it."""
        self._see(event, "delta")

    def end(self) -> None:
        """The version has ended its stream."""
        self._has_ended = True
        self._tell("")

    @property
    def has_ended(self) -> bool:
        """The version has said all that it would. One that was stopped on its way is not judged."""
        choices = self._choices.values()
        return self._has_ended or (bool(choices) and all(one.finish for one in choices))

    def signals(self) -> frozenset[Signal]:
        """What is to be seen, on any of the choices; of an answer without any, that it is empty."""
        choices = self._choices.values() or (_Choice(),)
        return frozenset(signal for one in choices for signal in self._signals_of(one))

    def _see(self, document: Document, part: str) -> None:
        told = document.get("id")
        self._tell(told if isinstance(told, str) else "")
        choices: Sequence[Document] = document.get("choices") or ()
        for choice in choices:
            index: object = choice.get("index")
            at = index if isinstance(index, int) else 0
            one = self._choices.get(at)
            if one is None:
                if len(self._choices) >= _CHOICES:
                    continue
                one = self._choices[at] = _Choice()
            said: Document = choice.get(part) or {}
            if content := said.get("content"):
                one.add(content, self._keeps)
            if said.get("tool_calls") or said.get("function_call"):
                one.has_calls = True
            if said.get("refusal"):
                one.has_refused = True
            if choice.get("finish_reason"):
                one.finish = str(choice["finish_reason"])

    def _tell(self, answer_id: str) -> None:
        if self._begun is not None:
            begun, self._begun = self._begun, None
            begun(answer_id)

    def _signals_of(self, choice: _Choice) -> Iterator[Signal]:
        signs, kept = self._signs, "".join(choice.parts)
        is_cut = choice.finish == "length"
        if is_cut:
            yield Signal.TRUNCATED
        if choice.has_calls:
            return
        if not choice.head and len(kept.strip()) < signs.min_chars and not choice.has_refused:
            yield Signal.EMPTY
        if is_loop(kept, repeats=signs.loop_repeats, chars=signs.loop_chars) or is_monotonous(
            kept, chars=signs.loop_chars, shrinks=signs.loop_shrinks
        ):
            yield Signal.LOOP
        has_refused = choice.has_refused or choice.finish == "content_filter"
        if has_refused or signs.refuses(choice.head or kept):
            yield Signal.REFUSAL
        is_whole = not (is_cut or choice.head)
        if self._json_check is not None and is_whole and not self._json_check.holds(kept):
            yield Signal.INVALID_JSON
