"""JSON that means one thing to everybody who reads it, and is no bomb. Pure.

What is refused is read in different ways by different parsers (a key twice, NaN, half of a surrogate pair, integers
beyond 64 bits), or costs out of all proportion to its length (depth, number of values).
"""

import json
import math
from typing import Any, NoReturn, cast

from deploy_targets.guard.errors import RequestInvalid

_MAX_DEPTH = 32
_MAX_VALUES = 20_000
_MAX_DIGITS = 19
"""Of an integer of 64 bits."""


def read_strictly(body: bytes) -> dict[str, Any]:
    """The JSON object that a body spells.

    Raises:
        RequestInvalid: it is none, or one of the above. The message repeats nothing of the body but a number's kind.
    """
    try:
        document: object = json.loads(
            body.decode(),
            object_pairs_hook=_once_each,
            parse_int=_bounded,
            parse_float=_finite,
            parse_constant=_refuse_constant,
        )
    except UnicodeDecodeError as error:
        raise _invalid("it is not UTF-8") from error
    except RecursionError as error:
        raise _invalid(f"it is nested more than {_MAX_DEPTH} deep") from error
    except json.JSONDecodeError as error:
        raise _invalid("it is no JSON") from error
    if not isinstance(document, dict):
        raise _invalid("it is no JSON object")
    _check_values(cast("dict[str, Any]", document))
    return cast("dict[str, Any]", document)


def _invalid(fault: str) -> RequestInvalid:
    return RequestInvalid(f"The body cannot be passed on: {fault}.")


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        raise _invalid("an object has one key twice")
    return document


def _bounded(digits: str) -> int:
    if len(digits.lstrip("-")) <= _MAX_DIGITS:
        number = int(digits)
        if -(1 << 63) <= number < 1 << 63:
            return number
    raise _invalid("an integer has more than 64 bits")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise _invalid("a number is too large")
    return number


def _refuse_constant(_: str) -> NoReturn:
    raise _invalid("NaN and Infinity are no JSON")


def _check_values(document: dict[str, Any]) -> None:
    """Depth, number of values, and what is in strings."""
    level: list[Any] = [document]
    depth = values = 0
    while level:
        depth, values = depth + 1, values + len(level)
        if depth > _MAX_DEPTH:
            raise _invalid(f"it is nested more than {_MAX_DEPTH} deep")
        if values > _MAX_VALUES:
            raise _invalid(f"it has more than {_MAX_VALUES} values")
        below: list[Any] = []
        for value in level:
            if isinstance(value, str):
                _check_text(value)
            elif isinstance(value, dict):
                for name, inner in cast("dict[str, Any]", value).items():
                    _check_text(name)
                    below.append(inner)
            elif isinstance(value, list):
                below.extend(cast("list[Any]", value))
        level = below


def _check_text(text: str) -> None:
    if "\0" in text:
        raise _invalid("a string holds the character NUL")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise _invalid("a string holds half of a surrogate pair") from error
