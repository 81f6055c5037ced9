"""`mlflow run . -e release -P source=... -P name=... -P recipe=...`: the four stages in one process.

Starting Python and its libraries costs more than some stages do. What finished in an earlier run is reused.
"""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.chain import make_version, register
from pipelines.datasets import DataFolder, demo_data
from pipelines.download.__main__ import download
from pipelines.evaluate.margins import MarginsFile, read_margins
from pipelines.quantize.__main__ import pin_recipe, read_recipe
from pipelines.quantize.budget import Budget
from pipelines.quantize.search import is_search, read_candidates, search
from pipelines.quantize.served_by import check_served
from pipelines.session import Model, Session, Switch, run_entry_point
from pipelines.version import check_name
from registry.engines import ServingEngine
from registry.release import SOURCE_TAG


def main(  # noqa: PLR0913, PLR0917 - one argument for each option
    source: Annotated[str, typer.Option(help="hub://, s3://, a path, models:/ or package://.")],
    name: Annotated[str, typer.Option(help="The registered model.")],
    recipe: Annotated[
        str,
        typer.Option(help="A recipe file; `auto` or a folder tries several, within a budget."),
    ],
    digest: Annotated[str, typer.Option(help="What the source must have, sha256:...")] = "",
    data: Annotated[str, typer.Option(help="Folder of texts and tasks; demo data if empty.")] = "",
    margins: MarginsFile = "",
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
    allowed = read_margins(margins)
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
                margins=allowed,
                name=name,
            )
            number = register(
                session,
                name=name,
                model=kept.model,
                evaluation=kept.evaluation,
                recipe=kept.recipe,
                lineage=_origin(session, base),
            )
        else:
            parsed = pin_recipe(read_recipe(Path(recipe)), texts)
            check_served(parsed, engine)
            base = download(session, source=source, digest=digest)
            number = make_version(
                session,
                name=name,
                base=base,
                recipe=parsed,
                data=texts,
                margins=allowed,
                lineage=_origin(session, base),
            )
        session.announcer.say(
            "release",
            f"{name} v{number} may be promoted: set its alias `challenger` in the MLflow UI, "
            f"or `shipway promote ENDPOINT {number}`",
        )


def _origin(session: Session, base: Model) -> dict[str, str]:
    """Where `base` came from, as it can be named tomorrow and from another working directory."""
    address = session.origins[base.digest]["source"]
    is_path = ":/" not in address
    return {SOURCE_TAG: str(Path(address).expanduser().resolve()) if is_path else address}


if __name__ == "__main__":
    run_entry_point(main)
