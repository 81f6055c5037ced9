"""May this model be promoted, going by its scores? Pure.

The rule is non-inferiority: for each metric, the loss against the unquantized base, and against the champion where it
was measured on the same texts and tasks, must end within a margin even after two standard errors of noise. Too few
samples, a missing metric or a number that is none never pass. A version that fails is registered all the same, with
the reasons, and cannot be promoted (`registry.promotion.check_gate`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from pipelines.evaluate.score import Kind, Score, Scorecard, compare

MIN_SAMPLES = {Kind.PERPLEXITY: 8, Kind.ACCURACY: 30}
"""Fewer windows or questions than these decide nothing: their standard error is itself a guess."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Margins:
    """How much worse a model may be."""

    perplexity_ratio: float = 1.5
    """Of its perplexity to the reference's; 4-bit GPTQ costs a 135M model about a fifth."""
    accuracy_drop: float = 0.15
    """In points of accuracy, 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """The answer, all reasons against, and the numbers that it rests on."""

    passed: bool
    reasons: tuple[str, ...] = ()
    numbers: Mapping[str, float] = field(default_factory=dict[str, float])


def check_scores(
    candidate: Scorecard, *, base: Scorecard, champion: Scorecard | None, margins: Margins
) -> GateResult:
    """Whether `candidate` is not worse than `base` and `champion` by more than `margins`.

    A champion that was measured on something else is not compared with (`champion_compared` is 0 then).
    """
    references = {"base": base}
    if champion is not None and champion.evaluation == candidate.evaluation:
        references["champion"] = champion
    reasons: list[str] = []
    numbers: dict[str, float] = {"champion_compared": float("champion" in references)}
    if not base.scores:
        reasons.append("nothing was measured")
    for who, reference in references.items():
        if reference.evaluation != candidate.evaluation:
            reasons.append(f"the {who} was measured on other texts or tasks")
            continue
        for name, expected in reference.scores.items():
            score = candidate.scores.get(name)
            if score is None:
                reasons.append(f"{name} was measured of the {who}, but not of this model")
                continue
            reasons += _compare(name, score, expected, who, margins, numbers)
    return GateResult(passed=not reasons, reasons=tuple(reasons), numbers=numbers)


def _compare(
    name: str, score: Score, reference: Score, who: str, margins: Margins, numbers: dict[str, float]
) -> list[str]:
    """The reasons against in one comparison; its numbers are added to `numbers`."""
    numbers[name], numbers[f"{name}.{who}"] = score.value, reference.value
    least = min(score.n, reference.n)
    if score.kind is not reference.kind or not math.isfinite(score.value + reference.value):
        return [
            f"{name} is {score.value} for this model and {reference.value} for the {who}, which compares nothing"
        ]
    if least < MIN_SAMPLES[score.kind]:
        return [f"{name} rests on {least} samples, and {MIN_SAMPLES[score.kind]} are needed"]
    loss = compare(score, reference)
    numbers[f"{name}.loss_to_{who}"] = loss.value
    numbers[f"{name}.loss_to_{who}_upper"] = loss.upper
    is_perplexity = score.kind is Kind.PERPLEXITY
    margin = margins.perplexity_ratio if is_perplexity else margins.accuracy_drop
    if loss.upper <= margin:
        return []
    worse = f"{loss.value:.2f} times the" if is_perplexity else f"{loss.value:.3f} below the"
    reason = (
        f"{name} is {score.value:.4g}, {worse} {who}'s {reference.value:.4g}; "
        f"with two standard errors of noise {loss.upper:.3g}, and {margin:g} is allowed"
    )
    return [reason]
