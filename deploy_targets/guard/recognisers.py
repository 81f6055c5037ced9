"""What the guard can find in a text: secrets, personal data, listed words, hidden characters. Pure.

Each is a pattern, and a checksum where there is one. What cannot be told by its form (names, addresses) is not found.
Where forms come from: the services' own documentation of their tokens, ISO 13616 (IBAN), ISO/IEC 7812 (cards), ITU-T
E.164 (telephone numbers).
"""

import ipaddress
import json
import math
from base64 import urlsafe_b64decode
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from deploy_targets.filter_policy import PersonalData, Secret
from deploy_targets.guard.filtering import Recogniser
from deploy_targets.guard.patterns import compile_bounded
from deploy_targets.guard.text_views import View, fold

_CARD_DIGITS = range(13, 20)
_PHONE_DIGITS = range(8, 16)
_IBAN_LENGTHS = range(15, 35)
_IBAN_GROUP = 4
_ALPHABET = 64
_MIXED = 0.8
"""Entropy as a share of what so many characters could have at most. Of 4,000 random keys each of 32, 40, 64 and 128
characters all but one in a thousand have more (measured); the names made of words that were tried have less."""


def _group_ends(found: str) -> Iterator[int]:
    """Where a group of letters or digits ends, the last first."""
    for end in range(len(found), 0, -1):
        is_last = end == len(found) or not found[end].isalnum()
        if is_last and found[end - 1].isalnum():
            yield end


def _is_card(found: str) -> int:
    """The longest beginning that passes Luhn's sum."""
    for end in _group_ends(found):
        digits = [int(one) for one in found[:end] if one.isdigit()]
        if len(digits) in _CARD_DIGITS:
            doubled = [sum(divmod(2 * one, 10)) for one in digits[-2::-2]]
            if (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0:
                return end
    return 0


def _is_iban(found: str) -> int:
    """The longest beginning in one group, or in groups of four, whose remainder by 97 is 1."""
    for end in _group_ends(found):
        *groups, last = found[:end].split(" ")
        compact = found[:end].replace(" ", "").upper()
        is_grouped = all(len(group) == _IBAN_GROUP for group in groups)
        if (
            is_grouped
            and (not groups or len(last) <= _IBAN_GROUP)
            and len(compact) in _IBAN_LENGTHS
        ):
            turned = compact[4:] + compact[:4]
            if int("".join(str(int(one, 36)) for one in turned)) % 97 == 1:
                return end
    return 0


def _is_phone(found: str) -> int:
    """The longest beginning with as many digits as a number has."""
    for end in _group_ends(found):
        if sum(one.isdigit() for one in found[:end]) in _PHONE_DIGITS:
            return end
    return 0


def _is_ssn(found: str) -> int:
    area, group, serial = found.split("-")
    is_issued = area not in {"000", "666"} and area < "900" and group != "00" and serial != "0000"
    return len(found) if is_issued else 0


def _is_address(found: str) -> int:
    try:
        ipaddress.ip_address(found)
    except ValueError:
        return 0
    return len(found)


def _has_digit(found: str) -> int:
    return len(found) if any(map(str.isdigit, found)) else 0


def _is_jwt(found: str) -> int:
    head = found.partition(".")[0]
    try:
        header: object = json.loads(urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    except ValueError:
        return 0
    return len(found) if isinstance(header, dict) and "alg" in header else 0


def _is_random(found: str) -> int:
    """Upper case, lower case and digits, as mixed as chance mixes them. Hashes in hex and UUIDs are not."""
    kinds = (str.isupper, str.islower, str.isdigit)
    if not all(any(map(kind, found)) for kind in kinds):
        return 0
    shares = [count / len(found) for count in Counter(found).values()]
    bits = -sum(share * math.log2(share) for share in shares)
    return len(found) if bits >= _MIXED * math.log2(min(len(found), _ALPHABET)) else 0


def _recogniser(pattern: str, check: Callable[[str], int] | None = None) -> Recogniser:
    return Recogniser(view=View.PLAIN, pattern=compile_bounded(pattern), check=check)


SECRETS = {
    Secret.PRIVATE_KEY: _recogniser(
        r"-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----"
        r"(?:[\w+/=:;,.\s-]{0,7500}?-----END [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----|[\w+/=:;,.\s]{0,7500})"
    ),
    Secret.AWS_KEY: _recogniser(r"(?<![A-Z0-9])(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}(?![A-Z0-9])"),
    Secret.GITHUB_TOKEN: _recogniser(
        r"(?<!\w)(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_\w{82})(?!\w)"
    ),
    Secret.OPENAI_KEY: _recogniser(r"(?<![\w-])sk-[\w-]{20,200}(?![\w-])"),
    Secret.SLACK_TOKEN: _recogniser(r"(?<!\w)xox[abeoprs]-[A-Za-z0-9-]{10,250}(?!\w)", _has_digit),
    Secret.GOOGLE_KEY: _recogniser(r"(?<!\w)AIza[\w-]{35}(?![\w-])"),
    Secret.HUGGING_FACE_TOKEN: _recogniser(r"(?<!\w)hf_[A-Za-z]{34}(?!\w)"),
    Secret.JWT: _recogniser(
        r"(?<![\w-])eyJ[\w-]{8,1000}\.eyJ[\w-]{4,4000}\.[\w-]{0,1400}", _is_jwt
    ),
    Secret.HIGH_ENTROPY: _recogniser(
        r"(?<![\w+/=-])[A-Za-z0-9+/_-]{32,128}(?![\w+/-])", _is_random
    ),
}
PERSONAL_DATA = {
    PersonalData.EMAIL: _recogniser(
        r"(?<![\w.%+-])[\w.%+-]{1,64}@[\w.-]{1,190}\.(?:[A-Za-z]{2,24}|xn--[A-Za-z0-9-]{2,59})(?![\w-])"
    ),
    PersonalData.IBAN: _recogniser(
        r"(?<![A-Za-z0-9])[A-Za-z]{2}[0-9]{2}[A-Za-z0-9 ]{11,38}", _is_iban
    ),
    PersonalData.CARD: _recogniser(r"(?<!\d)[2-6][\d -]{12,36}(?!\d)", _is_card),
    PersonalData.US_SSN: _recogniser(r"(?<![\d-])[0-9]{3}-[0-9]{2}-[0-9]{4}(?![\d-])", _is_ssn),
    PersonalData.PHONE: _recogniser(
        r"(?<![\w+])(?:\+[1-9][\d .()/-]{7,30}|(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4})(?!\w)",
        _is_phone,
    ),
    PersonalData.IP_ADDRESS: _recogniser(
        r"(?<![\w.:])(?:\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}|[0-9A-Fa-f:]{3,39})(?![\w:]|\.\d)",
        _is_address,
    ),
}
HIDDEN_TEXT = Recogniser(
    view=View.WRITTEN,
    pattern=compile_bounded(
        # Directions overridden, and letters of the block of tags, which models read and people do not see. Flags are
        # written with tags as well, behind a black flag.
        "[\u202a-\u202e\u2066-\u2069]"
        "|(?<![\U0001f3f4\U000e0020-\U000e007f])[\U000e0001-\U000e007f]{1,256}"
    ),
)


def words_recogniser(words: Sequence[str]) -> Recogniser:
    """Finds each of these words or phrases, whole, in any case, with or without accents. A space stands for up to four.

    Raises:
        PatternInvalid: a word of which nothing is left when it is folded.
    """
    folded = {tuple("".join(map(fold, word)).split()) for word in words}
    # Longest first, for the first alternative that fits is taken.
    phrases = sorted((r"\s{1,4}".join(map(_escape, parts)) for parts in folded), key=len)
    listed = "|".join(reversed(phrases))
    return Recogniser(view=View.FOLDED, pattern=compile_bounded(rf"(?<!\w)(?:{listed})(?!\w)"))


def _escape(text: str) -> str:
    """As `re.escape`, which leaves to `regex` what is special to it alone."""
    return "".join(one if one.isalnum() else "\\" + one for one in text)
