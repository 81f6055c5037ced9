"""How an operator behaves, in rounds: one round is one look at an object. Pure.

Rounds count from the first look at what an object's pods are made of, so that a change of it begins anew and a change of
a share does not.
"""

from dataclasses import dataclass
from enum import Enum


class Stage(Enum):
    """How far what the spec wants has come."""

    PROGRESSING = "progressing"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What an operator finds when it looks at an object."""

    stage: Stage
    is_stale: bool = False
    """It has not seen the newest spec: what it says is about the generation before."""
    reason: str = ""
    """Of a failure, in the operator's own word; empty for its usual one."""
    message: str = ""
    refused: str = ""
    """What the API server says about the pods that the operator may not make."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """First these looks, one a round, then those, again and again."""

    first: tuple[Look, ...] = ()
    then: tuple[Look, ...]

    def at(self, round_number: int) -> Look:
        """The look in a round, from 0."""
        if round_number < len(self.first):
            return self.first[round_number]
        return self.then[(round_number - len(self.first)) % len(self.then)]


_READY, _PROGRESSING = Look(stage=Stage.READY), Look(stage=Stage.PROGRESSING)

AT_ONCE = Behaviour(then=(_READY,))
NEVER = Behaviour(then=(_PROGRESSING,))


def slow(rounds: int) -> Behaviour:
    """Ready after so many rounds."""
    return Behaviour(first=(_PROGRESSING,) * rounds, then=(_READY,))


def stale(rounds: int) -> Behaviour:
    """For so many rounds all is well, but for the generation before."""
    return Behaviour(first=(Look(stage=Stage.READY, is_stale=True),) * rounds, then=(_READY,))


def failing(*, reason: str = "", message: str = "it broke", after: int = 0) -> Behaviour:
    """Failed for good, after so many rounds."""
    failed = Look(stage=Stage.FAILED, reason=reason, message=message)
    return Behaviour(first=(_PROGRESSING,) * after, then=(failed,))


def refused(message: str) -> Behaviour:
    """No pod of it may be made: a quota, or a policy."""
    return Behaviour(then=(Look(stage=Stage.PROGRESSING, refused=message),))


def flapping(*, good: int = 1, bad: int = 1) -> Behaviour:
    """Ready for some rounds, failed for some, and so on."""
    failed = Look(stage=Stage.FAILED, message="it flaps")
    return Behaviour(then=(_READY,) * good + (failed,) * bad)
