"""Which bodies mean one thing to everybody, and cost no more than their length."""

import json
import time
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy_targets.guard.errors import RequestInvalid
from deploy_targets.guard.strict_json import read_strictly


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "no JSON"),
        (b"[]", "no JSON object"),
        (b"\xff{}", "UTF-8"),
        (b'{"a": "\xed\xa0\x80"}', "UTF-8"),
        (b'\xef\xbb\xbf{"a": 1}', "no JSON"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"a": {"b": 1, "b": 1}}', "twice"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "NaN"),
        (b'{"a": 1e999}', "too large"),
        (b'{"a": 9223372036854775808}', "64 bits"),
        (b'{"a": ' + b"9" * 5000 + b"}", "64 bits"),
        (b'{"a": "\\u0000"}', "NUL"),
        (b'{"\\u0000": 1}', "NUL"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b'{"a": ' + b"[" * 40 + b"]" * 40 + b"}", "deep"),
        (b'{"a": ' + b"[" * 200_000, "deep"),
        (b'{"a": [' + b"1," * 30_000 + b"1]}", "values"),
        (b'{"a": "' + b"\n" + b'"}', "no JSON"),
    ],
)
def test_what_others_could_read_otherwise_is_refused(body: bytes, says: str) -> None:
    with pytest.raises(RequestInvalid, match=says):
        read_strictly(body)


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"a": [1, -1.5, None, True, "\u00e9\U0001f600\u200f"], "seed": 2**63 - 1, "b": {"a": 1}},
        {"a": -(2**63), "text": "line\n\ttab"},
    ],
)
def test_other_json_is_read(document: dict[str, Any]) -> None:
    assert read_strictly(json.dumps(document).encode()) == document
    assert read_strictly(json.dumps(document, ensure_ascii=False).encode()) == document


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    with suppress(RequestInvalid):
        assert isinstance(read_strictly(body), dict)


@pytest.mark.parametrize("unit", [b'{"a":', b"[", b'"\\ud800",', b"9", b'{"a":1},', b"-"])
def test_a_bomb_of_a_megabyte_is_refused_at_once(unit: bytes) -> None:
    body = (b'{"a": [' + unit * (1 << 20))[: 1 << 20]
    started = time.thread_time()
    with pytest.raises(RequestInvalid):
        read_strictly(body)
    assert time.thread_time() - started < 2
