"""What was measured of a model, with standard errors, and how two models differ. Pure.

Two models that answered the same questions are compared question by question: the noise that both share cancels, and
a loss of a few percent shows on dozens of questions rather than thousands.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from registry.errors import IntegrityError

_SCHEMA = 1
_MAX_KEPT = 2_000
"""Answers beyond this are summed up only: with so many, comparing sums is precise enough, and a tag stays small."""
_DIGITS = 6


class Kind(StrEnum):
    """What a number is, and which way is better."""

    PERPLEXITY = "perplexity"
    """exp of the mean of the samples, each the nats per token of one window; lower is better."""
    ACCURACY = "accuracy"
    """The mean of the samples, each between 0 (wrong) and 1 (right); higher is better."""
    DIVERGENCE = "divergence"
    """The mean of the samples, each a prompt's nats per token from the base's next-token distribution; lower is better."""
    AGREEMENT = "agreement"
    """The mean of the samples, each the share of a prompt's tokens where the base likes the same best; higher is better."""
    GOLDEN = "golden"
    """The mean of the samples, each 1 for an answer that is as expected and 0 for another; higher is better."""
    FORMAT = "format"
    """The mean of the samples, each 1 for an answer in the form that was asked for and 0 for another; higher is better."""
    REPETITION = "repetition"
    """The mean of the samples, each the share of one answer that says again what it said; lower is better."""


_UNBOUNDED = frozenset({Kind.PERPLEXITY, Kind.DIVERGENCE})
_LOWER_IS_BETTER = frozenset({Kind.PERPLEXITY, Kind.DIVERGENCE, Kind.REPETITION})


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One measured number."""

    kind: Kind
    value: float
    stderr: float
    n: int
    """How many windows, questions or prompts: what is independent of each other, which tokens of one prompt are not."""
    samples: tuple[float, ...] = ()
    """One for each window or question, in order; empty where there were too many to keep."""

    @classmethod
    def of(cls, kind: Kind, samples: Sequence[float]) -> Self:
        """The score that `samples` add up to; its standard error is infinite for fewer than two."""
        kept = tuple(round(float(sample), _DIGITS) for sample in samples)
        mean, stderr = _mean(kept)
        if kind is Kind.PERPLEXITY:
            mean = math.exp(min(mean, 700.0))
            stderr *= mean
        return cls(
            kind=kind,
            value=mean,
            stderr=stderr,
            n=len(kept),
            samples=kept if len(kept) <= _MAX_KEPT else (),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """How much worse one score is than another: a ratio of perplexities, else a difference."""

    value: float
    """1.2 is a perplexity 20 % higher; 0.05 is 5 points of accuracy less."""
    upper: float
    """Where the loss ends, allowing for noise: two standard errors more."""
    is_paired: bool
    """Whether it was taken question by question."""


NOISE = 2.0
"""Standard errors that are allowed for: 97.7 % one-sided for many samples, 96 % with ten (Student's t)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorecard:
    """All that was measured of one model, and on what."""

    evaluation: str
    """Names texts, tasks and settings; only scorecards of the same evaluation can be compared."""
    scores: Mapping[str, Score] = field(default_factory=dict[str, Score])

    def to_document(self) -> dict[str, Any]:
        """Plain JSON values; `from_document` reads them."""
        scores = {
            name: {
                "kind": score.kind.value,
                "value": _finite(score.value),
                "stderr": _finite(score.stderr),
                "n": score.n,
                "samples": [_finite(sample) for sample in score.samples],
            }
            for name, score in self.scores.items()
        }
        return {"schema": _SCHEMA, "evaluation": self.evaluation, "scores": scores}

    def to_json(self) -> str:
        """As it is kept on a model version: one line."""
        return json.dumps(
            self.to_document(), sort_keys=True, separators=(",", ":"), allow_nan=False
        )

    @classmethod
    def from_document(cls, document: Any) -> Self:
        """The scorecard that `to_document` wrote.

        Raises:
            IntegrityError: it is of another schema, or broken.
        """
        try:
            if document["schema"] != _SCHEMA:
                message = f"The scorecard has schema {document['schema']}, and {_SCHEMA} is known. Evaluate again."
                raise IntegrityError(message)
            scores = {
                str(name): Score(
                    kind=Kind(score["kind"]),
                    value=_number(score["value"], math.nan),
                    stderr=_number(score["stderr"], math.inf),
                    n=int(score["n"]),
                    samples=tuple(_number(sample, math.nan) for sample in score["samples"]),
                )
                for name, score in document["scores"].items()
            }
            if wrong := [name for name, score in scores.items() if not _adds_up(score)]:
                message = f"The scorecard's {', '.join(wrong)} is not what its samples add up to. Evaluate again."
                raise IntegrityError(message)
            return cls(evaluation=str(document["evaluation"]), scores=scores)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            message = f"The scorecard cannot be read ({error}). Evaluate the model again."
            raise IntegrityError(message) from error


def compare(score: Score, reference: Score) -> Loss:
    """How much worse `score` is than `reference`, both of one kind.

    Paired where both have the samples of the same questions; else the standard errors add up.
    """
    is_paired = bool(score.samples) and len(score.samples) == len(reference.samples)
    if is_paired:
        pairs = zip(score.samples, reference.samples, strict=True)
        differences = tuple(sample - expected for sample, expected in pairs)
        mean, stderr = _mean(differences)
        worse = mean if score.kind in _LOWER_IS_BETTER else -mean
    elif score.kind is Kind.PERPLEXITY:
        worse = math.log(score.value / reference.value)
        stderr = math.hypot(score.stderr / score.value, reference.stderr / reference.value)
    else:
        worse = reference.value - score.value
        worse = -worse if score.kind in _LOWER_IS_BETTER else worse
        stderr = math.hypot(score.stderr, reference.stderr)
    upper = worse + NOISE * stderr
    if score.kind is Kind.PERPLEXITY:
        worse, upper = math.exp(min(worse, 700.0)), math.exp(min(upper, 700.0))
    if score.kind not in _UNBOUNDED:
        upper = min(upper, 1.0)
    return Loss(value=worse, upper=upper, is_paired=is_paired)


def _adds_up(score: Score) -> bool:
    """Whether the number that people read is that of the samples, by which models are compared."""
    if not score.samples:
        return True
    again = Score.of(score.kind, score.samples)
    pairs = ((score.value, again.value), (score.stderr, again.stderr))
    return score.n == again.n and all(
        math.isclose(said, is_so, rel_tol=1e-6, abs_tol=1e-6) or math.isnan(is_so)
        for said, is_so in pairs
    )


def _finite(value: float) -> float | int | None:
    """As JSON can say it: None for what is no number, and whole numbers short."""
    if not math.isfinite(value):
        return None
    return int(value) if value.is_integer() else value


def _number(value: Any, missing: float) -> float:
    return missing if value is None else float(value)


def _mean(samples: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error (n - 1 in the variance); not a number without samples."""
    n = len(samples)
    if n == 0:
        return math.nan, math.inf
    mean = math.fsum(samples) / n
    if n == 1:
        return mean, math.inf
    variance = math.fsum((sample - mean) ** 2 for sample in samples) / (n - 1)
    return mean, math.sqrt(variance / n)
