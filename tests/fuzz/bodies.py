"""What clients of the guard send: bodies of requests, and the files and headers of its keys.

A body goes the way that the guard sends it: parsed, held against limits and rules, and put into the words of what answers.
"""

from hashlib import sha256
from typing import Any

from deploy_targets import metrics
from deploy_targets.engine import chat as engine_chat
from deploy_targets.filter_policy import RequestLimits
from deploy_targets.guard.access_control import KeyRing, parse_key_list, parse_keys
from deploy_targets.guard.completions import parse_completion
from deploy_targets.guard.errors import (
    KeyFileInvalid,
    KeyRefused,
    NotPermitted,
    RequestInvalid,
    RequestRefused,
)
from deploy_targets.guard.feedback_body import parse_feedback
from deploy_targets.guard.json_answers import json_check
from deploy_targets.guard.prompt_filter import filter_prompt
from deploy_targets.guard.protocol import call_for
from deploy_targets.guard.request_limits import check_limits
from deploy_targets.guard.strict_json import read_strictly
from deploy_targets.guard.wire import Asked, parse_chat
from tests.fuzz.claims import check_answer, check_refusal, claim, text_of
from tests.guard.filter_rules import rules

_RULES = rules({"kind": "secrets"}, {"kind": "words", "words": ["project falcon"]})
_LIMITS = RequestLimits(max_messages=50, max_prompt_chars=100_000, max_answer_tokens=4096)


def chat(data: bytes) -> bool:
    """A chat."""
    try:
        asked = parse_chat(data)
    except RequestInvalid as error:
        check_answer(error, error.param)
        return False
    claim(asked.body == data, "not the client's own bytes")
    _send_on(asked)
    return True


def completion(data: bytes) -> bool:
    """OpenAI's older API, which becomes a chat of one message."""
    try:
        asked = parse_completion(data)
    except RequestInvalid as error:
        check_answer(error, error.param)
        return False
    claim(asked.messages == 1 and asked.is_completion, asked)
    _send_on(asked)
    return True


def _send_on(asked: Asked) -> None:
    """As far as the guard brings it, which may refuse it on the way."""
    document = asked.document()
    claim(len(document["messages"]) == asked.messages, "another number of messages", asked)
    claim(parse_chat(asked.body, is_completion=asked.is_completion) == asked, "read otherwise")
    for protocol in ("openai", "triton"):
        try:
            call = call_for(protocol, asked, endpoint="chat", request_id="1")
        except RequestRefused as error:
            check_answer(error, error.param)
        else:
            call.body.decode()
    try:
        _check_policies(asked)
    except RequestRefused as error:
        check_answer(error, error.param)


def _check_policies(asked: Asked) -> None:
    document: dict[str, Any] = read_strictly(asked.body)
    claim(document == asked.document(), "two readings of one body", asked)
    json_check(document)
    check_limits(document, _LIMITS)
    done = filter_prompt(_RULES, document)
    if done.refusal is None:
        changed = parse_chat(asked.changed(done.document).body)
        claim(changed.messages == asked.messages, "another chat", changed, asked)


def engine_body(data: bytes) -> bool:
    """A chat, as an engine reads it that nothing stands before."""
    try:
        asked = engine_chat.parse_chat(data)
    except engine_chat.BadRequest as error:
        check_answer(error, error.param)
        return False
    claim(asked.max_tokens >= 1 and all(asked.stop) and asked.messages, asked)
    claim(0 <= asked.temperature <= 2 and 0 < asked.top_p <= 1, asked)
    return True


def feedback(data: bytes) -> bool:
    """A user's word on an answer."""
    try:
        said = parse_feedback(data)
    except RequestInvalid as error:
        check_answer(error, error.param)
        return False
    claim(0 < len(said.name) <= 200 and said.verdict in metrics.FEEDBACK_VERDICTS, said)
    return True


def keys(data: bytes) -> bool:
    """The key file, and behind the first NUL an Authorization header."""
    written, _, header = data.partition(b"\0")
    text = text_of(written)
    try:
        listed = parse_key_list(text)
        ring = parse_keys(text)
    except KeyFileInvalid as error:
        check_refusal(error, written)
        return False
    claim(parse_key_list(listed.document()) == listed, "other keys", listed)
    _admit(ring, header.decode("latin-1"))
    return True


def _admit(ring: KeyRing, header: str) -> None:
    """Nobody comes in whose key was not drawn for the ring: a hash of SHA-256 cannot be met by chance."""
    try:
        caller = ring.admit(header, endpoint="chat")
    except (KeyRefused, NotPermitted) as error:
        check_answer(error)
        return
    known = {name for name, _ in ring.entries}
    digest = sha256(header.split(" ", 1)[1].strip().encode()).hexdigest()
    claim(digest in known, "let in without a key", caller)
