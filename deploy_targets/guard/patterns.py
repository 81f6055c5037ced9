"""Compiled patterns of a known reach, and what a text that goes on may still change about their matches. Pure.

The module `regex` matches, for it can stop at a deadline and knows partial matches; it is imported here alone.
"""

from dataclasses import dataclass
from typing import Protocol, cast

import regex

from deploy_targets.pattern_reach import PatternInvalid, Reach, measure_pattern

_SEARCH_S = 0.05
"""For one search; a pattern that takes longer backtracks without end."""


class Match(Protocol):
    """As far as it is used here."""

    @property
    def partial(self) -> bool:
        """The text ended before it was clear whether this is a match."""
        ...

    def start(self) -> int:
        """Where it begins."""
        ...

    def end(self) -> int:
        """Where it ends."""
        ...


class Compiled(Protocol):
    """A compiled pattern."""

    def search(
        self,
        text: str,
        at: int = 0,
        before: int | None = None,
        *,
        partial: bool = False,
        timeout: float | None = None,
    ) -> Match | None:
        """The first match between `at` and `before`; lookbehinds see what stands before.

        Raises:
            TimeoutError: after so many seconds.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounded:
    """A pattern and how far it looks."""

    compiled: Compiled
    reach: Reach
    stop: Compiled | None
    """Finds the last character that no match holds; None where a match may hold any."""

    def search(self, text: str, at: int, *, partial: bool) -> Match | None:
        """As `Compiled` has it, with a deadline."""
        return self.compiled.search(text, at, partial=partial, timeout=_SEARCH_S)

    def decided_before(self, text: str, at: int) -> int:
        """The place, `at` or later, from which on a match may still begin, or end elsewhere, when the text goes on."""
        by_reach = max(at, len(text) - self.reach.reach + 1)
        if self.stop is None:
            return by_reach
        known = min(len(text), len(text) - self.reach.ahead + 1)
        stop = self.stop.search(text, by_reach, known) if by_reach < known else None
        return by_reach if stop is None else stop.end()


def compile_known(pattern: str) -> Compiled:
    """A pattern of our own, in the syntax of `regex`, of which no bound is asked."""
    return cast("Compiled", regex.compile(pattern))


def compile_bounded(pattern: str, *, ignore_case: bool = False) -> Bounded:
    """A pattern in the syntax of `re`.

    Raises:
        PatternInvalid: as `measure_pattern`; or `regex` does not know it.
    """
    reach = measure_pattern(pattern)
    try:
        compiled = regex.compile(pattern, regex.IGNORECASE if ignore_case else 0)
    except regex.error as error:
        message = f"it is no regular expression: {error}"
        raise PatternInvalid(message) from error
    characters = reach.characters
    return Bounded(
        compiled=cast("Compiled", compiled),
        reach=reach,
        stop=None if characters is None else compile_known(f"(?ri)[^{characters}]"),
    )
