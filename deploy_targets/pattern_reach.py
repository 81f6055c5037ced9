"""How far a regular expression looks, so that a stream is never held back for longer. Pure; nothing is compiled here.

A pattern has to be in the syntax of `re`, whose parser measures it, and must not match text of any length.
"""

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

# Neither has a public name, nor types.
op: Any = import_module("re._constants")
parser: Any = import_module("re._parser")

MAX_REACH = 8192
_NO_REPEAT = re.compile(r"(?<!\\)(?:\\\\)*\{(?!\d+(?:,\d*)?\}|,\d+\})")
"""A brace that counts nothing: a literal to `re`, the beginning of a fuzzy match to the module `regex`."""
_CHARACTERS: set[Any] = {op.LITERAL, op.NOT_LITERAL, op.ANY, op.IN}
_CLASSES: dict[Any, str] = {
    op.CATEGORY_DIGIT: r"\d",
    op.CATEGORY_SPACE: r"\s",
    op.CATEGORY_WORD: r"\w",
}


class PatternInvalid(ValueError):
    """A pattern that cannot be used, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """How far a pattern looks."""

    reach: int
    """Characters from a match's beginning that decide on it, those of lookaheads included."""
    ahead: int
    """How many of them may stand behind the match."""
    behind: int
    """Characters before a match's beginning that decide on it."""
    tells_partial: bool
    """The module `regex` says reliably where a match may have begun that the text does not finish."""
    characters: str | None
    """A class's inside that holds every character of every match, whatever the case; None where that may be any."""


def measure_pattern(pattern: str) -> Reach:
    """The reach of a pattern.

    Raises:
        PatternInvalid: it is no pattern, or it can match nothing at all, or a text of any length.
    """
    if _NO_REPEAT.search(pattern):
        message = r"a brace that is no repeat has to be written \{"
        raise PatternInvalid(message)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)
            tree = parser.parse(pattern)
    except (re.error, OverflowError, RecursionError, FutureWarning) as error:
        message = f"it is no regular expression: {error}"
        raise PatternInvalid(message) from error
    least, most = cast("tuple[int, int]", tree.getwidth())
    ahead, behind = _looks(tree)
    if tree.state.flags & re.VERBOSE:
        message = "it may not be verbose; leave (?x) out"
        raise PatternInvalid(message)
    if least == 0:
        message = "it matches the empty text as well; make it ask for one character at least"
        raise PatternInvalid(message)
    if most + ahead > MAX_REACH:
        message = (
            f"it may look at more than {MAX_REACH} characters at once, for which no stream can wait; "
            "bound its repeats: .{0,100} for .*, \\s{1,5} for \\s+"
        )
        raise PatternInvalid(message)
    return Reach(
        reach=most + ahead,
        ahead=ahead,
        behind=max(1, behind),
        tells_partial=_tells_partial(tree),
        characters=_characters(tree),
    )


def _inner(argument: Any) -> Iterator[Any]:
    """The patterns within one element of a pattern."""
    if isinstance(argument, parser.SubPattern):
        yield argument
    elif isinstance(argument, list | tuple):
        for part in cast("list[Any]", argument):
            yield from _inner(part)


def _looks(tree: Any) -> tuple[int, int]:
    """How far a pattern looks (beyond its match, before its match), at the most."""
    ahead = behind = 0
    for name, argument in tree:
        if name is op.AT:
            ahead, behind = max(ahead, 2), max(behind, 1)  # $ looks at a line end and behind it
        for inner in _inner(argument):
            more_ahead, more_behind = _looks(inner)
            if name in {op.ASSERT, op.ASSERT_NOT}:
                width = inner.getwidth()[1]
                if argument[0] > 0:
                    more_ahead += width
                else:
                    more_behind += width
            ahead, behind = max(ahead, more_ahead), max(behind, more_behind)
    return ahead, behind


def _characters(tree: Any) -> str | None:
    """A class's inside that holds every character of every match, whatever the case; None where that may be any."""
    found = ""
    for name, argument in tree:
        if name is op.LITERAL:
            part = _spelled(argument)
        elif name is op.IN:
            part = _members(argument)
        elif name in {op.ANY, op.NOT_LITERAL}:
            return None
        else:
            parts = [_characters(inner) for inner in _inner(argument)]
            part = None if None in parts else "".join(map(str, parts))
        if part is None:
            return None
        found += part
    return found


def _members(members: Any) -> str | None:
    found = ""
    for name, argument in members:
        if name is op.LITERAL:
            found += _spelled(argument)
        elif name is op.RANGE:
            found += f"{_spelled(argument[0])}-{_spelled(argument[1])}"
        elif name is op.CATEGORY and argument in _CLASSES:
            found += _CLASSES[argument]
        else:
            return None
    return found


def _spelled(codepoint: int) -> str:
    return f"\\U{codepoint:08x}"


def _tells_partial(tree: Any) -> bool:
    """Whether it is plain, but for what it looks at before its first character and behind its last.

    Plain is what looks at one character after another and repeats single characters alone. What else `regex` knows may
    fail at the text's end without saying that more text could help: boundaries do, and repeats of repeats.
    """

    def is_plain(part: Any) -> bool:
        return all(map(is_plain_element, part))

    def is_plain_element(element: Any) -> bool:
        name, argument = element
        if name in _CHARACTERS:
            return True
        if name in {op.MAX_REPEAT, op.MIN_REPEAT}:
            _, most, body = argument
            is_single = len(body) == 1 and body[0][0] in _CHARACTERS
            return is_single or (most == 1 and is_plain(body))
        return name in {op.BRANCH, op.SUBPATTERN} and all(map(is_plain, _inner(argument)))

    def is_look(element: Any, direction: int) -> bool:
        name, argument = element
        is_around = name in {op.ASSERT, op.ASSERT_NOT} and argument[0] == direction
        return is_around and is_plain(argument[1])

    elements = list(tree)
    while elements and is_look(elements[0], -1):
        elements.pop(0)
    if elements and is_look(elements[-1], 1):
        elements.pop()
    return is_plain(elements)
