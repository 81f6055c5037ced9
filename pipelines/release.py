"""`mlflow run . -e release -P source=... -P name=... -P recipe=...`: the four stages in one process.

Starting Python and its libraries costs more than some stages do. What finished in an earlier run is reused.
"""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.datasets import DataFolder, demo_data
from pipelines.download.__main__ import download
from pipelines.evaluate.__main__ import DEFAULT_MARGINS, evaluate
from pipelines.evaluate.gate import Margins
from pipelines.quantize.__main__ import pin_recipe, quantize, read_recipe
from pipelines.quantize.budget import Budget
from pipelines.quantize.search import is_search, read_candidates, search
from pipelines.quantize.served_by import check_served
from pipelines.session import Session, Switch, run_entry_point
from pipelines.version import VERSION_TAG, check_name, version
from registry.engines import ServingEngine
from registry.errors import ShipwayError


class GateFailed(ShipwayError):
    """The version is registered, but may not be promoted."""


def main(  # noqa: PLR0913, PLR0917 - one argument for each option
    source: Annotated[str, typer.Option(help="hub://, s3://, a path, models:/ or package://.")],
    name: Annotated[str, typer.Option(help="The registered model.")],
    recipe: Annotated[
        str,
        typer.Option(help="A recipe file; `auto` or a folder tries several, within a budget."),
    ],
    digest: Annotated[str, typer.Option(help="What the source must have, sha256:...")] = "",
    data: Annotated[str, typer.Option(help="Folder of texts and tasks; demo data if empty.")] = "",
    max_perplexity_ratio: Annotated[float, typer.Option(min=1)] = DEFAULT_MARGINS.perplexity_ratio,
    max_accuracy_drop: Annotated[float, typer.Option(min=0, max=1)] = DEFAULT_MARGINS.accuracy_drop,
    max_quality_loss: Annotated[
        float, typer.Option(min=0, help="Of several: perplexity's rise, 0.02 is 2 %.")
    ] = 0.02,
    max_bytes: Annotated[int, typer.Option(min=0, help="Of several: size; 0 is any.")] = 0,
    engine: Annotated[
        ServingEngine, typer.Option(help="What will serve it.")
    ] = ServingEngine.TRANSFORMERS,
    fresh: Annotated[Switch, typer.Option(help="Do every stage again.")] = Switch.FALSE,
) -> None:
    """Make a model version: download, quantize, evaluate, register."""
    margins = Margins(perplexity_ratio=max_perplexity_ratio, accuracy_drop=max_accuracy_drop)
    with Session.open("release", fresh=fresh is Switch.TRUE, is_chain=True) as session:
        check_name(name)
        texts = DataFolder.at(Path(data)) if data else demo_data(session.home)
        if is_search(recipe):
            recipes = read_candidates(recipe)
            base = download(session, source=source, digest=digest)
            kept = search(
                session,
                base=base,
                recipes=recipes,
                data=texts,
                budget=Budget(max_quality_loss=max_quality_loss, max_bytes=max_bytes or None),
                engine=engine,
                margins=margins,
                name=name,
            )
            parsed, model, evaluation = kept.recipe, kept.model, kept.evaluation
        else:
            parsed = pin_recipe(read_recipe(Path(recipe)), texts)
            check_served(parsed, engine)
            base = download(session, source=source, digest=digest)
            model = quantize(session, model=base, recipe=parsed, data=texts)
            evaluation, _ = evaluate(
                session, base=base, model=model, data=texts, margins=margins, name=name
            )
        made = version(session, name=name, model=model, evaluation=evaluation, recipe=parsed)
        session.tracking.set_tags(session.run_id, {VERSION_TAG: made.version})
        if not evaluation.gate.passed:
            message = (
                f"{name} v{made.version} is registered but did not pass its gate, so it cannot be promoted: "
                f"{'; '.join(evaluation.gate.reasons)}. Use a gentler recipe, or wider margins if they are wrong."
            )
            raise GateFailed(message)
        session.announcer.say(
            "release",
            f"{name} v{made.version} may be promoted: set its alias `challenger` in the MLflow UI, "
            f"or `shipway promote ENDPOINT {made.version}`",
        )


if __name__ == "__main__":
    run_entry_point(main)
