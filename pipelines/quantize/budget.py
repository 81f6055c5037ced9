"""Which of several quantized checkpoints to keep: the smallest whose loss and size are within a budget. Pure.

The loss is how much perplexity rises over the unquantized base: 0.02 is 2 %. It must end within the budget even after two
standard errors of noise, as the gate's does, so that a promise about quality does not rest on luck.
"""

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass
from io import StringIO

from pipelines.quantize.recipes import GptqRecipe, Method, Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What is allowed."""

    max_quality_loss: float
    max_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What came of one recipe."""

    name: str
    recipe: str
    """In words."""
    size_bytes: int | None = None
    loss: float | None = None
    """None where it was not measured."""
    loss_upper: float | None = None
    """Where the loss ends, allowing for noise."""
    not_tried: str = ""
    """Why it cannot work for this model, or its engine."""
    failed: str = ""
    """What went wrong when it was tried."""
    refused: str = ""
    """Why its gate does not let it through: it could not be promoted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A candidate and what was decided about it."""

    candidate: Candidate
    verdict: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The recipe to keep, None where none is within the budget, and the table that explains it, smallest first."""

    kept: str | None
    rows: tuple[Row, ...]


def choose(candidates: Iterable[Candidate], budget: Budget) -> Choice:
    """The smallest candidate within `budget`; of equal sizes the better one."""
    ordered = sorted(candidates, key=_rank)
    objections = [_objection(candidate, budget) for candidate in ordered]
    kept = next((c.name for c, no in zip(ordered, objections, strict=True) if not no), None)
    rows = tuple(
        Row(
            candidate=candidate,
            verdict=no or ("kept" if candidate.name == kept else "within the budget, but larger"),
        )
        for candidate, no in zip(ordered, objections, strict=True)
    )
    return Choice(kept=kept, rows=rows)


def render_table(choice: Choice) -> str:
    """The table for people: one line for each candidate."""
    return "\n".join(
        f"  {row.candidate.name:20} {_mib(row.candidate.size_bytes):>12} "
        f"{_percent(row.candidate.loss):>8} (up to {_percent(row.candidate.loss_upper)})  {row.verdict}"
        for row in choice.rows
    )


def render_csv(choice: Choice) -> str:
    """The table for programs; what was not measured is empty."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("name", "recipe", "size_bytes", "loss", "loss_upper", "verdict"))
    for row in choice.rows:
        one = row.candidate
        writer.writerow(
            (one.name, one.recipe, one.size_bytes, one.loss, one.loss_upper, row.verdict)
        )
    return text.getvalue()


def effort(recipe: Recipe) -> tuple[int, int]:
    """Sorts recipes by what trying them costs: those without calibration first, then by the tokens that they look at."""
    cheap = (Method.NONE, Method.INT8, Method.NF4)
    if isinstance(recipe, GptqRecipe):
        return len(cheap), recipe.samples * recipe.sequence_length
    return cheap.index(recipe.method), 0


def _rank(candidate: Candidate) -> tuple[float, float, str]:
    size, loss = candidate.size_bytes, candidate.loss
    is_known = loss is not None and math.isfinite(loss)
    return (
        math.inf if size is None else size,
        loss if is_known and loss is not None else math.inf,
        candidate.name,
    )


def _objection(candidate: Candidate, budget: Budget) -> str:
    """Why it is not within the budget; empty where it is."""
    if candidate.not_tried:
        return f"not tried: {candidate.not_tried}"
    if candidate.failed:
        return f"failed: {candidate.failed}"
    size, upper = candidate.size_bytes, candidate.loss_upper
    if size is None or upper is None or not math.isfinite(upper):
        return "not measured"
    reasons: list[str] = []
    if upper > budget.max_quality_loss:
        reasons.append(f"may lose {_percent(upper)}, {_percent(budget.max_quality_loss)} allowed")
    if budget.max_bytes is not None and size > budget.max_bytes:
        reasons.append(f"{size} bytes, {budget.max_bytes} allowed")
    if candidate.refused:
        reasons.append(f"its gate failed: {candidate.refused}")
    return "; ".join(reasons)


def _mib(size_bytes: int | None) -> str:
    return "-" if size_bytes is None else f"{size_bytes / (1 << 20):.1f} MiB"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
