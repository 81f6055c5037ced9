"""What counts as an error of a version."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy_targets.engine.chat import Usage
from deploy_targets.guard.errors import UpstreamBroken
from deploy_targets.guard.outcome import (
    Outcome,
    StreamScan,
    is_envelope,
    read_usage,
    whole_outcome,
)
from tests.guard.stub import COMPLETION, DONE, FAULT, chunk, event

GOOD = json.dumps(COMPLETION).encode()
BAD = json.dumps(FAULT).encode()


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (200, GOOD, Outcome.ANSWERED),
        (200, BAD, Outcome.FAILED),
        (200, b'{"choices": []}', Outcome.FAILED),
        (200, b"", Outcome.FAILED),
        (200, b"[1]", Outcome.FAILED),
        (200, b"<html>", Outcome.FAILED),
        (204, b"", Outcome.FAILED),
        (302, b"", Outcome.FAILED),
        (400, BAD, Outcome.ANSWERED),
        (429, b"", Outcome.ANSWERED),
        (499, b"", Outcome.ANSWERED),
        (500, GOOD, Outcome.FAILED),
        (503, b"text", Outcome.FAILED),
    ],
)
def test_only_a_completion_or_a_4xx_is_an_answer(
    status: int, body: bytes, outcome: Outcome
) -> None:
    assert whole_outcome(status, body, is_streamed=False) is outcome


def test_a_whole_completion_is_no_answer_to_a_request_for_a_stream() -> None:
    assert whole_outcome(200, GOOD, is_streamed=True) is Outcome.FAILED


@pytest.mark.parametrize(
    ("body", "is_one"), [(BAD, True), (b'{"error": "text"}', False), (GOOD, False), (b"x", False)]
)
def test_an_envelope_is_what_clients_can_read(body: bytes, *, is_one: bool) -> None:
    assert is_envelope(body) is is_one


def scan(stream: bytes, cuts: list[int]) -> tuple[bytes, Outcome | None]:
    """What is passed on of a stream that arrives in pieces, and how it ends."""
    scanned, out, last = StreamScan(), b"", 0
    for cut in [*sorted(cuts), len(stream)]:
        out += scanned.feed(stream[last:cut])
        last = cut
    return out + scanned.end(), scanned.outcome


USAGE = event({"choices": [], "usage": {"completion_tokens": 2}})
CASES = [
    (chunk("a") + USAGE + DONE, Outcome.ANSWERED),
    ((chunk("a") + DONE).replace(b"\n", b"\r\n"), Outcome.ANSWERED),
    (b": a comment\n\nevent: x\nid: 1\n\n" + chunk("[DONE]") + DONE, Outcome.ANSWERED),
    (chunk("a") + b"data:[DONE]\n\n", Outcome.ANSWERED),
    (chunk('say "error"') + DONE, Outcome.ANSWERED),
    (chunk("a"), None),
    (b"", None),
    (chunk("a") + event(FAULT), Outcome.FAILED),
    (chunk("a") + event(FAULT) + DONE, Outcome.FAILED),
    (b"data: <html>\n\n" + DONE, Outcome.FAILED),
]


@pytest.mark.parametrize(("stream", "outcome"), CASES)
@given(data=st.data())
def test_a_stream_is_read_the_same_however_it_is_cut(
    stream: bytes, outcome: Outcome | None, data: st.DataObject
) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=6))
    assert scan(stream, cuts) == (stream, outcome)


@pytest.mark.parametrize("prompt", [10**400, (1 << 31) + 1, -(10**400), 1.5, "1", None])
def test_tokens_that_nothing_could_count_are_not_counted(prompt: object) -> None:
    told = read_usage({"usage": {"prompt_tokens": prompt, "completion_tokens": 1}})
    assert told in {None, Usage(prompt=0, completion=1)}


def test_an_end_mark_without_a_line_end_is_one() -> None:
    stream = chunk("a") + b"data: [DONE]"
    assert scan(stream, [5]) == (stream, Outcome.ANSWERED)


def test_a_begun_line_is_never_passed_on() -> None:
    assert scan(chunk("a") + b'data: {"cho', []) == (chunk("a"), None)


def test_a_line_without_an_end_is_not_kept_for_ever() -> None:
    scanned = StreamScan()
    scanned.feed(b"x" * (1 << 20))
    with pytest.raises(UpstreamBroken):
        scanned.feed(b"x")
