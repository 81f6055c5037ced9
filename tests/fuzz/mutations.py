"""Changes of an input: in its bytes, and in the values of the JSON or YAML that it is, which reach behind a parser's first look."""

import copy
import json
import math
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

import yaml
from hypothesis import strategies as st

from registry.plain_yaml import load_yaml
from tests.fuzz.claims import MOST_BYTES

Form = Callable[[bytes, Random], bytes]
"""Changes a value in a text of one form; gives the text back where it is not of that form."""

_MOST_CHANGES = 4
_LONGEST_CUT = 64
_VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 7, 1 << 63, 10**400, 0.5, 1e308, 5e-324, math.inf, math.nan, "", "x", "7", "a b", "\0", "\ud800",
    "é" * 300, "../x", [], {}, [[]], {"": {}}, [0] * 40, {"x": 1},
)  # fmt: skip


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Each container with each of its keys."""
    waiting = [document]
    while waiting:
        container = waiting.pop()
        if isinstance(container, dict | list):
            keys = list(container) if isinstance(container, dict) else range(len(container))
            for key in keys:
                yield container, key
                waiting.append(container[key])


def _change(document: Any, dice: Random) -> Any:
    """Another document, which differs in one place."""
    document = copy.deepcopy(document)
    places = list(_places(document))
    if not places:
        return dice.choice(_VALUES)
    (container, key), (other, name) = dice.choice(places), dice.choice(places)
    given = copy.deepcopy(other[name])
    match dice.randrange(5):
        case 0:
            del container[key]
        case 1 if isinstance(container, list):
            container.insert(key, given)
        case 1 | 2:
            container[name if isinstance(container, dict) else key] = given
        case _:
            container[key] = dice.choice(_VALUES)
    return document


def json_form(text: bytes, dice: Random) -> bytes:
    """JSON as the whole, or a line of it, behind whatever stands before the first brace."""
    for part in (text, dice.choice(text.split(b"\n"))):
        start = part.find(b"{")
        try:
            document = json.loads(part[start:])
        except (ValueError, RecursionError):
            continue
        changed = json.dumps(_change(document, dice)).encode()
        return text.replace(part, part[: max(start, 0)] + changed, 1)
    return text


def yaml_form(text: bytes, dice: Random) -> bytes:
    """One YAML document."""
    try:
        document = load_yaml(text)
    except yaml.YAMLError:
        return text
    return yaml.safe_dump(_change(document, dice), sort_keys=False).encode(errors="replace")


def no_form(text: bytes, dice: Random) -> bytes:
    """Nothing but bytes."""
    return text


def restructured(data: bytes, form: Form, dice: Random) -> bytes:
    """With another value in one of the parts between NULs."""
    parts = data.split(b"\0")
    at = dice.randrange(len(parts))
    parts[at] = form(parts[at], dice)
    return b"\0".join(parts)


@st.composite
def _mutated(draw: st.DrawFn, kept: Sequence[bytes], words: Sequence[bytes], form: Form) -> bytes:
    data = draw(st.sampled_from(kept))
    for _ in range(draw(st.integers(1, _MOST_CHANGES))):
        if draw(st.booleans()):
            data = restructured(data, form, Random(draw(st.integers(0, 1 << 32))))
            continue
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + _LONGEST_CUT)))
        other = draw(st.sampled_from(kept))
        cut = draw(st.integers(0, len(other)))
        put = draw(
            st.sampled_from(words)
            | st.just(data[start:end] * 2)
            | st.just(other[cut : cut + _LONGEST_CUT])
            | st.binary(max_size=3)
        )
        data = data[:start] + put + data[end:]
    return data[:MOST_BYTES]


def inputs(kept: Sequence[bytes], words: Sequence[bytes], form: Form) -> st.SearchStrategy[bytes]:
    """Most of them near to what is kept, where a parser's depths are."""
    near = _mutated(kept, words, form)
    text = st.text(st.characters(codec="utf-8"), max_size=128).map(str.encode)
    return st.one_of(near, near, near, near, st.binary(max_size=256), text)
