"""What engines answer, and what the guard's rules make of it: in pieces as in one, and nothing that is forbidden."""

import json
import re
from collections.abc import Iterator
from typing import Any

from deploy_targets.engine.chat import BadRequest
from deploy_targets.engine.generate_stream import PieceReader, error_of, read_pieces
from deploy_targets.engine.tensors import AnswerFailed
from deploy_targets.guard.answer_filter import AnswerFilter
from deploy_targets.guard.completions import CompletionWords
from deploy_targets.guard.errors import UpstreamBroken
from deploy_targets.guard.filtering import Filtered, StreamFilter, filter_text
from deploy_targets.guard.outcome import Outcome, StreamScan, read_object, read_usage, whole_outcome
from tests.fuzz.claims import claim, text_of
from tests.guard.filter_rules import rules

_ALL = rules(
    {"kind": "secrets"},
    {"kind": "personal_data"},
    {"kind": "words", "words": ["project falcon", "a"]},
    {"kind": "regex", "pattern": r"(?<!x)ab{1,3}c(?!d)", "name": "looking-around"},
    {"kind": "hidden_text"},
)
_REFUSING = rules(
    {"kind": "words", "words": ["project falcon"], "action": "allow"},
    {"kind": "regex", "pattern": r"falcon|[0-9]{5,9}", "action": "refuse", "name": "no-falcon"},
    {"kind": "personal_data"},
)
_FORBIDDEN = r"id-[0-9]{4}"
_ONE = rules({"kind": "regex", "pattern": _FORBIDDEN, "name": "ids"})
_SETS = {"all": _ALL, "refusing": _REFUSING, "one": _ONE}
_MOST_CHARS, _MOST_PIECES = 1500, 32
"""Of one text: more take long, and show nothing else."""
_TRIES = 3
"""A pattern's deadline is by the wall's clock, and the machine may be busy: too slow is what is so each time."""


def text_in_pieces(data: bytes) -> bool:
    """A text, and before its first NUL the lengths of the pieces in which it comes, one byte each."""
    lengths, separator, written = data.partition(b"\0")
    text = text_of(written if separator else data)[:_MOST_CHARS]
    for name, by in _SETS.items():
        whole = _in_time(lambda by=by: filter_text(by, text), name)
        pieces = list(_pieces(text, lengths))
        streamed = _in_time(lambda by=by, pieces=pieces: _streamed(by, pieces), name)
        claim(streamed == whole, "pieces say otherwise", name, streamed, whole)
        if whole.refusal is None and not whole.found:
            claim(whole.text == text, "changed unasked", name)
    told = filter_text(_ONE, text).text
    claim(re.search(_FORBIDDEN, told) is None, "let through", told)
    claim(re.search(_FORBIDDEN, text) is None or told != text, "let through", told)
    return told == text


def _in_time(act: Any, name: str) -> Filtered:
    for _ in range(_TRIES):
        done: Filtered = act()
        if done.refusal is None or done.refusal.reason != "too_slow":
            return done
    message = f"a rule of {name} is too slow"
    raise AssertionError(message)


def _streamed(by: Any, pieces: list[str]) -> Filtered:
    stream = StreamFilter(by)
    text = "".join([*map(stream.feed, pieces), stream.end()])
    return Filtered(text=text, found=stream.found, refusal=stream.refusal)


def _pieces(text: str, lengths: bytes) -> Iterator[str]:
    at = 0
    for length in lengths[:_MOST_PIECES]:
        yield text[at : at + length]
        at += length
    yield text[at:]


class _Heard:
    """Who is told of findings, and does not mind."""

    def redacted(self, rule: str) -> None: ...
    def refused(self, rule: str) -> None: ...
    def unfit(self) -> None: ...


def stream(data: bytes) -> bool:
    """A stream of events, as one piece and byte by byte: what goes out is the same, and holds nothing forbidden."""
    claim(
        _scanned(data, [data])
        == _scanned(data, [data[at : at + 7] for at in range(0, len(data), 7)])
    )
    _scanned(data, [data], filtered=False)
    document = read_object(data)
    outcome = whole_outcome(200, data, is_streamed=False)
    if (usage := read_usage(document)) is not None:
        claim(0 <= usage.prompt < 1 << 63 and 0 <= usage.completion < 1 << 63, "countless", usage)
    if outcome is Outcome.ANSWERED:
        given = AnswerFilter(_ONE, json_check=None, to=_Heard()).whole(document)
        for choice in given["choices"]:
            said = (choice.get("message") or {}).get("content") or ""
            claim(re.search(_FORBIDDEN, said) is None, "let through", said)
        json.dumps(CompletionWords().whole(given), ensure_ascii=False).encode()
    return outcome is Outcome.ANSWERED or b"delta" in data


def _scanned(data: bytes, pieces: list[bytes], *, filtered: bool = True) -> tuple[bytes, Any]:
    """What goes out, and how it ended; where it is broken what went out before depends on the pieces."""
    filters = (AnswerFilter(_ONE, json_check=None, to=_Heard(), choices=2), CompletionWords())
    scan = StreamScan(filters=filters if filtered else ())
    try:
        out = b"".join([*map(scan.feed, pieces), scan.end()])
    except UpstreamBroken as error:
        return b"", str(error)
    if (usage := scan.usage) is not None:
        claim(0 <= usage.prompt < 1 << 63 and 0 <= usage.completion < 1 << 63, "countless", usage)
    if filtered:
        claim(re.search(_FORBIDDEN, _said(out)) is None, "let through", out)
    else:
        claim(data.startswith(out), "not what came", out)
    return out, scan.outcome


def _said(out: bytes) -> str:
    """What a client reads of the first choice."""
    events = [read_object(line[5:].strip()) for line in out.splitlines() if line[:5] == b"data:"]
    return "".join(
        choice.get("text") or ""
        for event in events
        for choice in event.get("choices") or ()
        if choice.get("index") in (0, None)
    )


def triton_events(data: bytes) -> bool:
    """Triton's generate stream, whole and in pieces."""
    error_of(data)
    whole = _triton(data, [data])
    pieces = _triton(data, [data[at : at + 5] for at in range(0, len(data), 5)])
    claim(whole == pieces, "pieces say otherwise", whole, pieces)
    try:
        read_pieces(data)
    except AnswerFailed:
        return False
    except BadRequest as error:
        claim(error.param is None or isinstance(error.param, str), "no name", error.param)
        return False
    return True


def _triton(data: bytes, pieces: list[bytes]) -> Any:
    reader = PieceReader()
    try:
        given = [piece for part in pieces for piece in reader.feed(part)]
        given += reader.end()
    except (AnswerFailed, BadRequest) as error:
        return str(error)
    return "".join(piece.text for piece in given), [piece.usage for piece in given], reader.version
