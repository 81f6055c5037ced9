"""How the requests of an endpoint are shared out. Keyed by version, never by role: roles change hands, traffic stays."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

_ALL = 100

VERSION_HEADER = "x-shipway-version"
"""On a response: the version that answered. On a request: the version that must answer."""

DIGEST_HEADER = "x-shipway-digest"
"""On a response of an engine that can say it: the digest of the files that it has loaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Integer percent of requests by version, without zeros, in version order. They sum to 100, or there is none.

    Raises:
        ValueError: a weight outside 1..100, or a sum that is neither 0 nor 100.
    """

    weights: Mapping[str, int] = field(default_factory=dict[str, int])

    def __post_init__(self) -> None:
        if any(not 1 <= weight <= _ALL for weight in self.weights.values()):
            message = f"Every weight must be 1 to 100 percent, not {dict(self.weights)}."
            raise ValueError(message)
        if sum(self.weights.values()) not in {0, _ALL}:
            message = f"Weights must add up to 100 percent, or be empty, not {dict(self.weights)}."
            raise ValueError(message)

    @classmethod
    def all_to(cls, version: str | None) -> Self:
        """Everything to one version, or nothing anywhere."""
        return cls(weights={} if version is None else {version: 100})

    @classmethod
    def split(cls, champion: str | None, challenger: str, percent: int) -> Self:
        """`percent` to the challenger and the rest to the champion; without a champion it is all or nothing."""
        if percent == 0:
            return cls.all_to(champion)
        if percent == _ALL or champion is None:
            return cls.all_to(challenger)
        return cls(weights={champion: 100 - percent, challenger: percent})

    def percent(self, version: str | None) -> int:
        """The weight of `version`; 0 when it has none."""
        return 0 if version is None else self.weights.get(version, 0)
