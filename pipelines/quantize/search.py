"""`-P recipe=auto`: tries the recipes that the engine can serve, cheapest first, measures each, keeps the smallest in budget.

What is tried is kept in the workbench like any other work, so a second search with another budget measures nothing again.
"""

from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

from pipelines.datasets import DataFolder
from pipelines.evaluate.stage import Evaluation, evaluate
from pipelines.quantize.__main__ import pin_recipe, quantize, read_recipe
from pipelines.quantize.budget import (
    Budget,
    Candidate,
    Choice,
    choose,
    effort,
    render_csv,
    render_table,
)
from pipelines.quantize.recipes import Recipe
from pipelines.quantize.served_by import check_served
from pipelines.session import Model, Session
from registry.engines import ServingEngine
from registry.errors import NoneWithinBudget, RecipeInvalid, SourceInvalid, StageFailed
from registry.gate import Margins

AUTO = "auto"
_OURS = Path(__file__).parents[2] / "recipes"
_PERPLEXITY = "perplexity"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """The candidate that was kept."""

    recipe: Recipe
    model: Model
    evaluation: Evaluation


def is_search(recipe: str) -> bool:
    """Whether `recipe` is `auto`, or a folder of recipes to try, rather than a recipe's file."""
    return recipe == AUTO or Path(recipe).is_dir()


def read_candidates(recipe: str) -> dict[str, Recipe]:
    """The recipes to try by the names of their files, the cheapest to try first; `auto` is those of this project.

    Raises:
        RecipeInvalid: there is none, or one cannot be used.
    """
    folder = _OURS if recipe == AUTO else Path(recipe)
    found = {file.stem: read_recipe(file) for file in sorted(folder.glob("*.yaml"))}
    if not found:
        message = f"There are no recipes (*.yaml) in {folder}. Name a folder that holds some."
        raise RecipeInvalid(message)
    return dict(sorted(found.items(), key=lambda item: (effort(item[1]), item[0])))


def search(  # noqa: PLR0913 - as many things decide
    session: Session,
    *,
    base: Model,
    recipes: dict[str, Recipe],
    data: DataFolder,
    budget: Budget,
    engine: ServingEngine,
    margins: Margins,
    name: str,
) -> Kept:
    """The smallest checkpoint within `budget` that `engine` can serve. The table and a picture go into the session's run.

    Raises:
        NoneWithinBudget: there is none; the table says why.
    """
    trial = replace(session, is_trial=True)
    tried: dict[str, Kept] = {}
    candidates: list[Candidate] = []
    for title, recipe in recipes.items():
        try:
            check_served(recipe, engine)
            pinned = pin_recipe(recipe, data)
            model = quantize(trial, model=base, recipe=pinned, data=data)
            evaluation, _ = evaluate(
                trial, base=base, model=model, data=data, margins=margins, name=name
            )
        except RecipeInvalid as error:
            candidates.append(Candidate(name=title, recipe=str(recipe), not_tried=str(error)))
            continue
        except (SourceInvalid, StageFailed) as error:
            candidates.append(Candidate(name=title, recipe=str(recipe), failed=str(error)))
            continue
        tried[title] = Kept(recipe=pinned, model=model, evaluation=evaluation)
        candidates.append(_candidate(title, tried[title]))
    choice = choose(candidates, budget)
    _tell(session, choice, budget)
    if choice.kept is None:
        message = (
            f"No recipe stays within the budget of {budget.max_quality_loss:.1%} loss"
            f"{'' if budget.max_bytes is None else f' and {budget.max_bytes} bytes'}:\n{render_table(choice)}\n"
            "Allow more, or add a recipe to the folder."
        )
        raise NoneWithinBudget(message)
    kept = tried[choice.kept]
    told = {f"recipe.{key}": value for key, value in kept.recipe.model_dump().items()}
    session.tracking.log_params(session.run_id, told)
    return kept


def _candidate(title: str, kept: Kept) -> Candidate:
    numbers = kept.evaluation.gate.numbers
    ratio = numbers.get(f"{_PERPLEXITY}.loss_to_base")
    upper = numbers.get(f"{_PERPLEXITY}.loss_to_base_upper")
    return Candidate(
        name=title,
        recipe=str(kept.recipe),
        size_bytes=kept.model.manifest.size_bytes,
        loss=None if ratio is None else ratio - 1,
        loss_upper=None if upper is None else upper - 1,
        refused="; ".join(kept.evaluation.gate.reasons),
    )


def _tell(session: Session, choice: Choice, budget: Budget) -> None:
    session.announcer.say("search", f"{choice.kept or 'nothing'} is kept\n{render_table(choice)}")
    tracking, run = session.tracking, session.run_id
    tracking.log_params(
        run,
        {
            "budget.max_quality_loss": budget.max_quality_loss,
            "budget.max_bytes": budget.max_bytes,
            "budget.kept": choice.kept,
        },
    )
    tracking.log_text(run, render_csv(choice), "budget.csv")
    tracking.log_bytes(run, draw(choice, budget), "budget.png")


def draw(choice: Choice, budget: Budget) -> bytes:
    """The picture, PNG: size against loss, each with its noise; what is allowed is shaded, what is kept is filled."""
    from matplotlib import figure as figures

    library: Any = figures
    figure = library.Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    for row in choice.rows:
        one = row.candidate
        if one.size_bytes is None or one.loss is None or one.loss_upper is None:
            continue
        at = one.size_bytes / (1 << 20)
        noise = 100 * (one.loss_upper - one.loss)
        style = "o" if one.name == choice.kept else "x"
        axes.errorbar([at], [100 * one.loss], yerr=[noise], fmt=style, capsize=3)
        axes.annotate(one.name, (at, 100 * one.loss), xytext=(6, 6), textcoords="offset points")
    axes.axhline(100 * budget.max_quality_loss, linestyle="--", color="grey")
    if budget.max_bytes is not None:
        axes.axvline(budget.max_bytes / (1 << 20), linestyle="--", color="grey")
    axes.set_xlabel("size, MiB")
    axes.set_ylabel("perplexity above the unquantized model's, % (bars: two standard errors)")
    axes.set_title(f"kept: {choice.kept or 'none'} (dashed: what is allowed)")
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    return picture.getvalue()
