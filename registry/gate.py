"""May this model be promoted, going by its scores? Pure; see docs/gate.md.

The rule is non-inferiority: for each metric, the loss against the unquantized base, and against the champion where it
was measured on the same texts and tasks, must end within a margin even after two standard errors of noise. Too few
samples, a missing metric or a number that is none never pass.

A `Gate` is kept on the version with all that it rests on, so that `promotion.check_gate` decides again from the scores,
and against the champion that serves by then. A version that fails is registered all the same, with the reasons.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field

from registry.errors import IntegrityError
from registry.release import Digest, parse_digest
from registry.scorecard import Kind, Score, Scorecard, compare

MIN_SAMPLES = {
    Kind.PERPLEXITY: 8,
    Kind.ACCURACY: 30,
    Kind.DIVERGENCE: 16,
    Kind.AGREEMENT: 16,
    Kind.GOLDEN: 12,
    Kind.FORMAT: 12,
    Kind.REPETITION: 12,
}
"""Fewer windows, questions or prompts than these decide nothing: their standard error is itself a guess."""


Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Margins:
    """How much worse a model may be. docs/gate.md says what each default was measured against."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    perplexity_ratio: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.5
    """Of its perplexity to the reference's; 4-bit GPTQ costs a 135M model about a fifth."""
    accuracy_drop: Share = 0.15
    """In points of accuracy, 0 to 1."""
    divergence: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.6
    """In nats per token, from the base's next-token distribution (the base's own is 0)."""
    disagreement: Share = 0.45
    """The share of tokens of which it likes another best than the base does."""
    golden_drop: Share = 0.45
    """In points of the golden prompts, 0 to 1."""
    format_drop: Share = 1.0
    """In points of the answers in the form that was asked for, 0 to 1. 1 lets everything through: it is told, and decides
    nothing, for a 135M model has no JSON left at 4 bits. Where programs read the answers, set 0.2."""
    repetition_rise: Share = 0.15
    """In points of the share of an answer that is said again, 0 to 1."""

    def of(self, kind: Kind) -> float:
        """The margin for metrics of one kind."""
        return {
            Kind.PERPLEXITY: self.perplexity_ratio,
            Kind.ACCURACY: self.accuracy_drop,
            Kind.DIVERGENCE: self.divergence,
            Kind.AGREEMENT: self.disagreement,
            Kind.GOLDEN: self.golden_drop,
            Kind.FORMAT: self.format_drop,
            Kind.REPETITION: self.repetition_rise,
        }[kind]


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """The answer, all reasons against, and the numbers that it rests on."""

    passed: bool
    reasons: tuple[str, ...] = ()
    numbers: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, slots=True, kw_only=True)
class Champion:
    """A version that served, and its scores."""

    version: str
    digest: Digest
    scorecard: Scorecard


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """An answer together with what it was asked of, as it is kept on the version."""

    result: GateResult
    margins: Margins
    base: Scorecard
    champion: Champion | None = None
    """The one that served when this was decided; None where none did."""

    @property
    def passed(self) -> bool:
        """The answer."""
        return self.result.passed

    @property
    def reasons(self) -> tuple[str, ...]:
        """All that speaks against."""
        return self.result.reasons

    @property
    def numbers(self) -> Mapping[str, float]:
        """What was compared."""
        return self.result.numbers

    def to_document(self) -> dict[str, Any]:
        """Plain JSON values; `from_document` reads them."""
        champion = self.champion
        numbers = {k: v if math.isfinite(v) else None for k, v in self.result.numbers.items()}
        return {
            "passed": self.result.passed,
            "reasons": list(self.result.reasons),
            "numbers": numbers,
            "margins": asdict(self.margins),
            "base": self.base.to_document(),
            "champion": None
            if champion is None
            else {
                "version": champion.version,
                "digest": champion.digest,
                "scorecard": champion.scorecard.to_document(),
            },
        }

    def to_json(self) -> str:
        """As it is kept on a model version: one line."""
        return json.dumps(self.to_document(), separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_document(cls, document: Any) -> Self:
        """The gate that `to_document` wrote.

        Raises:
            IntegrityError: it is broken, or a bare answer without what it rests on.
        """
        try:
            margins, champion = document["margins"], document["champion"]
            return cls(
                result=GateResult(
                    passed=document["passed"] is True,
                    reasons=tuple(str(reason) for reason in document["reasons"]),
                    numbers={
                        str(k): math.nan if v is None else float(v)
                        for k, v in document["numbers"].items()
                    },
                ),
                margins=Margins(**{f.name: float(margins[f.name]) for f in fields(Margins)}),
                base=Scorecard.from_document(document["base"]),
                champion=None
                if champion is None
                else Champion(
                    version=str(champion["version"]),
                    digest=parse_digest(champion["digest"]),
                    scorecard=Scorecard.from_document(champion["scorecard"]),
                ),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            message = f"The gate's answer does not say what it rests on ({type(error).__name__}: {error})."
            raise IntegrityError(message) from error


def decide(
    candidate: Scorecard, *, base: Scorecard, champion: Champion | None, margins: Margins
) -> Gate:
    """The gate's answer about `candidate`, with what it rests on."""
    card = None if champion is None else champion.scorecard
    result = check_scores(candidate, base=base, champion=card, margins=margins)
    return Gate(result=result, margins=margins, base=base, champion=champion)


def check_scores(
    candidate: Scorecard, *, base: Scorecard, champion: Scorecard | None, margins: Margins
) -> GateResult:
    """Whether `candidate` is not worse than `base` and `champion` by more than `margins`.

    A reference that was measured on something else compares nothing, and that never passes.
    """
    references = {"base": base} | ({} if champion is None else {"champion": champion})
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
    try:
        loss = compare(score, reference)
    except (ArithmeticError, ValueError) as error:
        return [f"{name} compares nothing ({error})"]  # nobody measured a perplexity of 0
    numbers[f"{name}.loss_to_{who}"] = loss.value
    numbers[f"{name}.loss_to_{who}_upper"] = loss.upper
    margin = margins.of(score.kind)
    if loss.upper <= margin:
        return []
    is_ratio = score.kind is Kind.PERPLEXITY
    worse = f"{loss.value:.2f} times the" if is_ratio else f"{loss.value:.3f} worse than the"
    reason = (
        f"{name} is {score.value:.4g}, {worse} {who}'s {reference.value:.4g}; "
        f"with two standard errors of noise {loss.upper:.3g}, and {margin:g} is allowed"
    )
    return [reason]


def check_again(candidate: Scorecard, gate: Gate, *, serving: Champion | None) -> tuple[str, ...]:
    """Every reason why `candidate` may not be promoted by what is known now; none where its gate still holds.

    `serving` is the version that serves now, with the scores that it was registered with; None where none serves. Where it
    is the one that the gate compared with, its scores of then count: they were taken on the same texts. Where it is not,
    its own do, and if they are of other texts the model must be evaluated again.
    """
    if not gate.result.passed:
        return gate.result.reasons or ("no reason was recorded",)
    then = gate.champion
    compared = None if then is None else then.scorecard
    result = check_scores(candidate, base=gate.base, champion=compared, margins=gate.margins)
    if not result.passed:
        return tuple(f"its gate says passed, but its scores do not: {r}" for r in result.reasons)
    if serving is None or (then is not None and then.digest == serving.digest):
        return ()
    against = "no champion" if then is None else f"v{then.version}"
    if serving.scorecard.evaluation != candidate.evaluation:
        reason = (
            f"it was compared with {against}, but v{serving.version} serves now, which was measured on other texts or "
            "tasks, or not at all: evaluate this version again"
        )
        return (reason,)
    result = check_scores(
        candidate, base=gate.base, champion=serving.scorecard, margins=gate.margins
    )
    return tuple(
        f"it was compared with {against}, but v{serving.version} serves now: {r}"
        for r in result.reasons
    )
