"""A text as rules look at it: as it is written, without what does not show, or folded. Pure.

Every view is made character by character, so a view of a beginning is the beginning of the view: streams rely on it.
"""

import unicodedata
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from deploy_targets.guard.patterns import compile_known

_IGNORABLE = compile_known(r"\p{Default_Ignorable_Code_Point}")


class View(StrEnum):
    """How a rule looks at a text."""

    WRITTEN = "written"
    """As it is."""
    VISIBLE = "visible"
    """Without characters that do not show: zero-width ones, soft hyphens, marks of direction."""
    PLAIN = "plain"
    """Visible, and what is read as an ASCII character is one: full-width and mathematical letters, digits of other scripts,
    odd spaces and dashes. One character stays one, so that a pattern reaches as far as before."""
    FOLDED = "folded"
    """Visible, compatibility forms written out (NFKD), accents dropped, case folded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A view of one text."""

    text: str
    written: int
    """Length of the text as it is written."""
    origins: Sequence[int] | None = None
    """Where each character of the view stands as written; None where nothing moved."""

    def written_at(self, index: int) -> int:
        """Where the character of the view at `index` stands as written; the text's end for the view's."""
        if self.origins is None:
            return index
        return self.origins[index] if index < len(self.origins) else self.written

    def written_behind(self, index: int) -> int:
        """Where the text goes on, as written, behind the first `index` characters of the view."""
        return index if self.origins is None else self.origins[index - 1] + 1

    def index_of(self, written: int) -> int:
        """The first character of the view that stands at `written` or later."""
        return written if self.origins is None else bisect_left(self.origins, written)


def see(text: str, view: View) -> Seen:
    """The text in that view."""
    written = len(text)
    if view is View.WRITTEN:
        return Seen(text=text, written=written)
    if text.isascii():
        return Seen(text=text.lower() if view is View.FOLDED else text, written=written)
    if view in {View.VISIBLE, View.PLAIN}:
        if view is View.PLAIN:
            text = text.translate(_plain_forms())
        if _IGNORABLE.search(text) is None:
            return Seen(text=text, written=written)
        kept = [at for at, character in enumerate(text) if not _is_ignorable(character)]
        return Seen(text="".join(text[at] for at in kept), written=written, origins=kept)
    parts = [fold(character) for character in text]
    origins = [at for at, part in enumerate(parts) for _ in part]
    return Seen(text="".join(parts), written=written, origins=origins)


@lru_cache(maxsize=1)
def _plain_forms() -> dict[int, str]:
    """The ASCII character as which each other one is read, by its code point."""
    forms = dict.fromkeys((*range(0x2010, 0x2016), 0x2212, 0xFE58), "-")
    for code in range(0x80, 0x1FC00):
        character = chr(code)
        value = unicodedata.decimal(character, None)
        form = unicodedata.normalize("NFKC", character) if value is None else str(value)
        if form.isascii() and len(form) == 1:
            forms[code] = form
    return forms


@lru_cache(maxsize=8192)
def fold(character: str) -> str:
    """What one character is in the folded view; nothing, where it does not show or is an accent."""
    if _is_ignorable(character):
        return ""
    written_out = unicodedata.normalize("NFKD", character.casefold()).casefold()
    return "".join(
        one for one in written_out if not unicodedata.combining(one) and not _is_ignorable(one)
    )


@lru_cache(maxsize=8192)
def _is_ignorable(character: str) -> bool:
    return _IGNORABLE.search(character) is not None
