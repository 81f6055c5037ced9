"""`mlflow run . -e release -P source=... -P name=... -P recipe=...`: the four stages in one process.

Starting Python and its libraries costs more than some stages do. What finished in an earlier run is reused.
"""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.chain import make_version
from pipelines.datasets import DataFolder, demo_data
from pipelines.download.__main__ import download
from pipelines.evaluate.__main__ import DEFAULT_MARGINS
from pipelines.quantize.__main__ import read_recipe
from pipelines.session import Session, Switch, run_entry_point
from pipelines.version import check_name
from registry.gate import Margins
from registry.release import SOURCE_TAG


def main(  # noqa: PLR0913, PLR0917 - one argument for each option
    source: Annotated[str, typer.Option(help="hub://, s3://, a path, models:/ or package://.")],
    name: Annotated[str, typer.Option(help="The registered model.")],
    recipe: Annotated[Path, typer.Option(help="A recipe file; see recipes/.")],
    digest: Annotated[str, typer.Option(help="What the source must have, sha256:...")] = "",
    data: Annotated[str, typer.Option(help="Folder of texts and tasks; demo data if empty.")] = "",
    max_perplexity_ratio: Annotated[float, typer.Option(min=1)] = DEFAULT_MARGINS.perplexity_ratio,
    max_accuracy_drop: Annotated[float, typer.Option(min=0, max=1)] = DEFAULT_MARGINS.accuracy_drop,
    max_divergence: Annotated[float, typer.Option(min=0)] = DEFAULT_MARGINS.divergence,
    max_disagreement: Annotated[float, typer.Option(min=0, max=1)] = DEFAULT_MARGINS.disagreement,
    max_golden_drop: Annotated[float, typer.Option(min=0, max=1)] = DEFAULT_MARGINS.golden_drop,
    max_format_drop: Annotated[float, typer.Option(min=0, max=1)] = DEFAULT_MARGINS.format_drop,
    max_repetition_rise: Annotated[
        float, typer.Option(min=0, max=1)
    ] = DEFAULT_MARGINS.repetition_rise,
    fresh: Annotated[Switch, typer.Option(help="Do every stage again.")] = Switch.FALSE,
) -> None:
    """Make a model version: download, quantize, evaluate, register."""
    margins = Margins(
        perplexity_ratio=max_perplexity_ratio,
        accuracy_drop=max_accuracy_drop,
        divergence=max_divergence,
        disagreement=max_disagreement,
        golden_drop=max_golden_drop,
        format_drop=max_format_drop,
        repetition_rise=max_repetition_rise,
    )
    with Session.open("release", fresh=fresh is Switch.TRUE, is_chain=True) as session:
        check_name(name)
        parsed = read_recipe(recipe)
        texts = DataFolder.at(Path(data)) if data else demo_data(session.home)
        base = download(session, source=source, digest=digest)
        made = make_version(
            session,
            name=name,
            base=base,
            recipe=parsed,
            data=texts,
            margins=margins,
            lineage={SOURCE_TAG: _lasting(source)},
        )
        session.announcer.say(
            "release",
            f"{name} v{made.version} may be promoted: set its alias `challenger` in the MLflow UI, "
            f"or `shipway promote ENDPOINT {made.version}`",
        )


def _lasting(source: str) -> str:
    """`source`, as it can be named from another working directory."""
    is_path = ":/" not in source
    return str(Path(source).expanduser().resolve()) if is_path else source


if __name__ == "__main__":
    run_entry_point(main)
