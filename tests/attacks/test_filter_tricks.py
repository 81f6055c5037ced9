"""Tricks by which a secret, a number or a word is shown to a model or a person and not to a filter.

What passes all the same (base64, look-alike letters of other scripts, meaning) stands in docs/guard-filters.md, and here as
`PASSES`, so that the page stays honest.
"""

import base64
import random

import pytest

from deploy_targets.guard.filtering import filter_text
from tests.guard.filter_rules import AWS_KEY, rules, streamed

CARD = "4111 1111 1111 1111"
BY = rules(
    {"kind": "secrets"},
    {"kind": "personal_data"},
    {"kind": "words", "words": ["project falcon"]},
)
PLAIN = (AWS_KEY, CARD, "DE89 3704 0044 0532 0130 00", "project falcon", "123-45-6789")


def wide(text: str) -> str:
    return "".join(chr(ord(one) + 0xFEE0) if "!" <= one <= "~" else one for one in text)


def mathematical(text: str) -> str:
    """Bold letters and digits, as chats show them."""
    table = {chr(ord("A") + at): chr(0x1D400 + at) for at in range(26)}
    table |= {chr(ord("a") + at): chr(0x1D41A + at) for at in range(26)}
    table |= {str(at): chr(0x1D7CE + at) for at in range(10)}
    return "".join(table.get(one, one) for one in text)


TRICKS = {
    "as it is": lambda text: text,
    "zero-width spaces": "\u200b".join,
    "soft hyphens": "\u00ad".join,
    "word joiners": "\u2060".join,
    "marks of direction": "\u200f".join,
    "variation selectors": "\ufe0f".join,
    "hangul fillers": "\u3164".join,
    "invisible tags": "\U000e0041".join,
    "full-width forms": wide,
    "ideographic spaces": lambda text: text.replace(" ", "\u3000"),
    "spaces that do not break": lambda text: text.replace(" ", "\u00a0"),
    "narrow spaces": lambda text: text.replace(" ", "\u202f"),
    "dashes that do not break": lambda text: text.replace("-", "\u2011"),
    "long dashes": lambda text: text.replace("-", "\u2013"),
    "mathematical letters": mathematical,
    "full-width forms between zero-width spaces": lambda text: "\u200b".join(wide(text)),
}
PASSES = {
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "backwards": lambda text: text[::-1],
    "spaced out": " ".join,
}


@pytest.mark.parametrize("secret", PLAIN)
@pytest.mark.parametrize("trick", TRICKS.values(), ids=TRICKS)
def test_a_trick_of_unicode_does_not_hide_what_is_looked_for(trick, secret) -> None:
    told = f"it is {trick(secret)} ok"
    assert filter_text(BY, told).text.startswith("it is [")
    assert trick(secret) not in filter_text(BY, told).text


@pytest.mark.parametrize("secret", PLAIN)
@pytest.mark.parametrize("trick", TRICKS.values(), ids=TRICKS)
def test_nor_does_it_where_an_answer_is_cut_into_pieces(trick, secret) -> None:
    told = f"it is {trick(secret)} ok"
    dice = random.Random(told)
    for _ in range(10):
        cuts = sorted(dice.sample(range(1, len(told)), dice.randint(1, min(12, len(told) - 1))))
        pieces = [told[a:b] for a, b in zip([0, *cuts], [*cuts, len(told)], strict=True)]
        assert streamed(BY, pieces)[0] == filter_text(BY, told).text


@pytest.mark.parametrize("digits", ["\u0660", "\u06f0", "\u0966", "\uff10"], ids=ascii)
def test_digits_of_another_script_are_digits(digits) -> None:
    card = "".join(chr(ord(digits) + int(one)) if one.isdigit() else one for one in CARD)
    assert filter_text(BY, f"card {card}").text == "card [card]"


@pytest.mark.parametrize("trick", PASSES.values(), ids=PASSES)
def test_what_the_page_says_to_pass_does_pass(trick) -> None:
    told = trick(AWS_KEY)
    assert filter_text(BY, told).text == told
