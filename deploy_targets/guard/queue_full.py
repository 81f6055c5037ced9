"""How an engine says that no more requests may wait, and what the guard makes of it. Pure.

Ray Serve and Triton both answer 503 and name the reason in words of their own, the one as text, the other as JSON. To a
client it is an error that says when to come again; to the counts it is an error of its version, for a client was turned
away, and besides that one of the full queue, so that too little capacity is told from a broken model.
"""

from http import HTTPStatus

QUEUE_FULL = "queue_full"
"""The code of that error."""
RETRY_AFTER_S = "1"
"""Where the engine does not say when. A batch takes about as long, and a client that waits longer each time soon gets in."""
LATER = frozenset({HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS})
"""Statuses that ask a client to come again."""

_WORDS = (b"dropped due to backpressure", b"Exceeds maximum queue size")
"""Of Ray Serve 2.60 (`BackPressureError`) and of Triton 2.73 (its dynamic batcher)."""


def is_queue_full(status: int, body: bytes) -> bool:
    """Whether an answer says that."""
    return status in LATER and any(words in body for words in _WORDS)


def retry_after(status: int, told: str | None) -> str | None:
    """What to tell the client: the engine's own word, or ours where it has none."""
    return told or (RETRY_AFTER_S if status in LATER else None)
