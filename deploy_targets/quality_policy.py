"""What counts as a bad answer, as a user declares it: the endpoint file's `guard.quality`.

The signals themselves are `guard.quality`'s, and docs/quality.md says what each finds and what it cannot.
"""

from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, model_validator

from deploy_targets.declared import Declared
from deploy_targets.pattern_reach import PatternInvalid, measure_pattern


class Signal(StrEnum):
    """What can be seen of an answer without understanding it."""

    EMPTY = "empty"
    """Nothing to read, and no call of a tool."""
    LOOP = "loop"
    """It ends by saying the same, or next to nothing, again and again."""
    TRUNCATED = "truncated"
    """It was cut off by its number of tokens."""
    REFUSAL = "refusal"
    """It begins by saying that it will not answer."""
    INVALID_JSON = "invalid_json"
    """It is not the JSON that response_format asked for."""


BROKEN = (Signal.EMPTY, Signal.LOOP, Signal.INVALID_JSON)
"""Those that are of no use to anybody. To be cut off or to refuse may be right: it depends on what is asked."""
MAX_LOOP_CHARS = 4000


class QualityPolicy(Declared):
    """Which answers are bad, among all that were judged."""

    bad: Annotated[tuple[Signal, ...], Field(min_length=1)] = BROKEN
    """The signals that make an answer bad. All are counted, whether they are listed or not."""
    min_chars: Annotated[int, Field(ge=1)] = 1
    """An answer with fewer characters, blanks around it aside, is `empty`."""
    loop_repeats: Annotated[int, Field(ge=2, le=100)] = 4
    """How often an answer's end has to say the same to be a `loop`."""
    loop_chars: Annotated[int, Field(ge=20, le=MAX_LOOP_CHARS)] = 100
    """How many characters these repeats must have together."""
    loop_shrinks: Annotated[float, Field(ge=2, le=1000)] = 3.5
    """An end of twice so many characters that zlib makes smaller by this factor is a `loop` as well: rounds that differ a
    little, and heaps of blanks and marks. Prose shrinks by 1.3 to 1.7, code by up to 3."""
    refusal_patterns: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=500)], ...], Field(max_length=50)
    ] = ()
    """What else a `refusal` begins with, besides the usual English phrases: in the syntax of Python's `re`, in any case."""
    feedback_wait_s: Annotated[float, Field(gt=0, le=3600)] | None = None
    """For so long an answer waits for its user's word before it is judged, and `bad` makes it bad. Without it feedback is
    counted apart and judges nothing."""

    @model_validator(mode="after")
    def _can_be_matched(self) -> Self:
        for pattern in self.refusal_patterns:
            try:
                measure_pattern(pattern)
            except PatternInvalid as error:
                message = f"the refusal pattern {pattern!r} cannot be used: {error}"
                raise ValueError(message) from error
        return self
