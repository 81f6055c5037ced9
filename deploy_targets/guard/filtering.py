"""Rules on a text, whole or as it comes: what may go out, and which rule said what. Pure.

The first finding from the left counts, of several at one place the first rule's; what it covers is looked at no more.
Whether a rule finds something at a place depends on a bounded piece of text around that place and on nothing else, so a
text in pieces gives what the whole gives: `filter_text` is `StreamFilter` fed once. Which kinds of findings there are
is `recognisers`' matter.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from deploy_targets.filter_policy import Action
from deploy_targets.guard.patterns import Bounded
from deploy_targets.guard.text_views import Seen, View, see


@dataclass(frozen=True, slots=True)
class Look:
    """What a recogniser sees from a place on."""

    start: int
    """Where its first finding begins. Without one: no finding begins before this place, whatever follows."""
    end: int | None = None
    """Where the finding ends; None without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recogniser:
    """A pattern, and what is checked of each match."""

    pattern: Bounded
    view: View = View.VISIBLE
    check: Callable[[str], int] | None = None
    """How many characters of a match are a finding: 0 for none."""

    def look(self, seen: Seen, at: int, *, is_whole: bool) -> Look:
        """The first finding from `at` on, in places of the view; `is_whole` says that no more text follows.

        Raises:
            TimeoutError: the pattern takes too long.
        """
        text, pattern = seen.text, self.pattern
        ripe = len(text) if is_whole else len(text) - pattern.reach.reach
        """The last place of which all is known that counts."""
        partial = pattern.reach.tells_partial and not is_whole
        while (match := pattern.search(text, at, partial=partial)) is not None:
            start = match.start()
            if match.partial:
                return Look(start)
            if start > ripe and start >= (decided := pattern.decided_before(text, at)):
                return Look(decided)
            found = self.check(text[start : match.end()]) if self.check else match.end() - start
            if found:
                return Look(start, start + found)
            at = start + 1
        return Look(len(text) if is_whole or partial else pattern.decided_before(text, at))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What to do with the findings of one recogniser."""

    name: str
    action: Action
    recogniser: Recogniser
    replacement: str
    """Of what is redacted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a text does not go on."""

    rule: str
    reason: Literal["found", "too_slow"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Filtered:
    """A text behind the rules."""

    text: str
    """Up to what was refused, where something was."""
    found: Mapping[str, int]
    """Findings by their rule."""
    refusal: Refusal | None


class StreamFilter:
    """One text as it comes. What may still be the beginning of a finding is held back."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        """`rules` in their order."""
        self.found: Counter[str] = Counter()
        self.refusal: Refusal | None = None
        """Once it is there, nothing more goes out."""
        self._rules = rules
        self._behind = {
            view: max(
                (
                    rule.recogniser.pattern.reach.behind
                    for rule in rules
                    if rule.recogniser.view is view
                ),
                default=0,
            )
            for view in View
        }
        self._text = ""
        """What is held back, and before it what rules may look behind at."""
        self._at = 0
        """Where what is held back begins."""

    def feed(self, text: str) -> str:
        """What may go out now that `text` has come as well."""
        self._text += text
        return self._advance(is_whole=False)

    def end(self) -> str:
        """What is left, now that no more comes."""
        return self._advance(is_whole=True)

    def _advance(self, *, is_whole: bool) -> str:
        if self.refusal is not None:
            return ""
        text = self._text
        seen = {view: see(text, view) for view, behind in self._behind.items() if behind}
        looks: list[tuple[int, int | None]] = [(-1, None)] * len(self._rules)
        out: list[str] = []
        while True:
            first: Rule | None = None
            start, end = len(text), None
            for number, rule in enumerate(self._rules):
                if looks[number][0] < self._at:
                    try:
                        looks[number] = self._look(rule, seen, is_whole=is_whole)
                    except TimeoutError:
                        self.refusal = Refusal(rule=rule.name, reason="too_slow")
                        return "".join(out)
                if looks[number][0] < start:
                    first, (start, end) = rule, looks[number]
            out.append(text[self._at : start])
            self._at = start
            if first is None or end is None:
                break
            self.found[first.name] += 1
            if first.action is Action.REFUSE:
                self.refusal = Refusal(rule=first.name, reason="found")
                return "".join(out)
            out.append(first.replacement if first.action is Action.REDACT else text[start:end])
            self._at = end
        self._forget(seen)
        return "".join(out)

    def _look(
        self, rule: Rule, seen: Mapping[View, Seen], *, is_whole: bool
    ) -> tuple[int, int | None]:
        """A recogniser's look from where we are, in places as written."""
        view = seen[rule.recogniser.view]
        look = rule.recogniser.look(view, view.index_of(self._at), is_whole=is_whole)
        start = max(view.written_at(look.start), self._at)
        return start, None if look.end is None else view.written_behind(look.end)

    def _forget(self, seen: Mapping[View, Seen]) -> None:
        """Drops what no rule looks behind at any more."""
        cut = self._at
        for view, there in seen.items():
            cut = min(cut, there.written_at(max(0, there.index_of(self._at) - self._behind[view])))
        self._text, self._at = self._text[cut:], self._at - cut


def filter_text(rules: Sequence[Rule], text: str) -> Filtered:
    """A whole text behind the rules."""
    stream = StreamFilter(rules)
    # In one step, for nothing is held back when no more comes.
    stream._text = text  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    out = stream.end()
    return Filtered(text=out, found=stream.found, refusal=stream.refusal)
