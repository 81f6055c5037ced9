"""`mlflow run . -e evaluate -P base=SOURCE -P model=SOURCE`: scores of both, and the gate's answer; nothing is registered.

Both are folders that an earlier stage printed, or whatever `download` takes: `models:/name/2` is a version that is there.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from pipelines.datasets import DataFolder, demo_data
from pipelines.download.__main__ import download
from pipelines.evaluate.margins import MarginsFile, read_margins
from pipelines.evaluate.stage import evaluate
from pipelines.session import Model, Session, Switch, run_entry_point


def main(
    base: Annotated[str, typer.Option(help="The unquantized checkpoint: a folder, or a source.")],
    model: Annotated[str, typer.Option(help="The checkpoint: a folder, or a source.")],
    data: Annotated[
        str, typer.Option(help="Folder with perplexity.txt and tasks/; demo data if empty.")
    ] = "",
    name: Annotated[
        str, typer.Option(help="Registered model whose champion is compared with.")
    ] = "",
    margins: MarginsFile = "",
    fresh: Annotated[Switch, typer.Option(help="Do it again even if it is done.")] = Switch.FALSE,
) -> None:
    """Measure a checkpoint against the unquantized one and decide whether it may be promoted."""
    allowed = read_margins(margins)
    with Session.open("evaluate", fresh=fresh is Switch.TRUE) as session:
        texts = DataFolder.at(Path(data)) if data else demo_data(session.home)
        _, file = evaluate(
            session,
            base=_brought(session, base),
            model=_brought(session, model),
            data=texts,
            margins=allowed,
            name=name,
        )
        session.announcer.say("evaluate", str(file))


def _brought(session: Session, source: str) -> Model:
    """What is no folder is downloaded, in a run of its own below this one, which tells of the evaluation alone."""
    folder = Path(source)
    if folder.is_dir():
        return Model.at(folder)
    return download(replace(session, is_chain=True, is_trial=True), source=source)


if __name__ == "__main__":
    run_entry_point(main)
