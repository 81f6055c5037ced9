"""How one answer is beside another to the same question. Pure.

Texts are compared by their letters: two that say the same in other words are different here. Where answers are drawn at
random (a temperature above 0) one version differs from itself as well.
"""

from collections import Counter
from dataclasses import dataclass

from deploy_targets import metrics

_PIECE = 3
"""Characters: short enough for languages without spaces, long enough that their order counts."""
_MAX_CHARS = 2_000
"""Of either text, beyond which likeness looks at no more: it is found between two requests of clients, so in one or two
milliseconds. Sameness and length look at the whole. (difflib takes the square of the length.)"""
_MAX_TIMES_LONGER = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Two answers side by side."""

    result: str
    """One of SAME, SIMILAR and DIFFERENT."""
    likeness: float
    """From 0 to 1."""


def compare(first: str, other: str, *, similar_from: float) -> Compared:
    """`other` beside `first`: similar from that likeness on, unless one is more than twice as long."""
    first, other = first.strip(), other.strip()
    if first == other:
        return Compared(result=metrics.SAME, likeness=1.0)
    ratio = len(other) / max(len(first), 1)
    alike = likeness(first, other)
    is_as_long = 1 / _MAX_TIMES_LONGER <= ratio <= _MAX_TIMES_LONGER
    is_similar = is_as_long and alike >= similar_from
    result = metrics.SIMILAR if is_similar else metrics.DIFFERENT
    return Compared(result=result, likeness=alike)


def likeness(first: str, other: str) -> float:
    """The share of three-character pieces that both have (Dice, 1945), whatever their case and spacing.

    1 for texts of the same pieces, and for two without any; 0 for nothing in common.
    """
    a, b = _pieces(first), _pieces(other)
    total = a.total() + b.total()
    return 1.0 if total == 0 else 2 * (a & b).total() / total


def _pieces(text: str) -> Counter[str]:
    words = " ".join(text[:_MAX_CHARS].casefold().split())
    padded = f"  {words} " if words else ""
    return Counter(padded[at : at + _PIECE] for at in range(len(padded) - _PIECE + 1))
