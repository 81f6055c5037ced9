"""What every parser promises, and how long it may take."""

import time
from collections.abc import Callable

MOST_BYTES = 4096
"""Of an input of the long run, and of a file of the corpus."""
MOST_CPU_S = 1.0
_TRIES = 3
_SHORT_CHARS = 400
"""Of what is answered to a client."""


class Fault(AssertionError):
    """A claim that does not hold."""


def claim(holds: object, *told: object) -> None:
    """That something is so; `told` is what one looks at where it is not."""
    if not holds:
        raise Fault(*told)


def text_of(data: bytes) -> str:
    """The text that a reader of files would have read; it refuses other bytes before any parser sees them."""
    return data.decode(errors="replace")


def check_refusal(error: Exception, data: bytes, *, named: str = "") -> None:
    """That the error names what is meant, can be printed, and is of a length that goes with the input's."""
    told = str(error)
    claim(told.strip() and named in told, "says too little", told)
    claim(len(told) <= 2000 + 20 * len(data), "a flood", len(told), told[:400])
    claim(told.encode(errors="replace").decode() == told, "cannot be printed", told[:400])


def check_answer(error: Exception, param: str | None = None) -> None:
    """That what a client is told is short, whatever it has sent, and can be sent."""
    told = str(error)
    claim(told.strip() and len(told) <= _SHORT_CHARS, "too long for a client", len(told), told)
    claim(param is None or len(param) <= _SHORT_CHARS, "too long a name", param)
    told.encode()


def in_time(act: Callable[[], bool]) -> bool:
    """That an input does not take longer than a second of this processor three times: the first may import what it needs."""
    taken: list[float] = []
    for _ in range(_TRIES):
        started = time.thread_time()
        done = act()
        taken.append(time.thread_time() - started)
        if taken[-1] <= MOST_CPU_S:
            return done
    raise Fault("seconds of CPU", taken)
