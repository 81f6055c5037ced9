"""`python -m pipelines.quantize.export DIR --for auto-gptq --to DIR`: a copy of a quantized checkpoint for another reader.

It needs no server, and the copy is no version: no entry point of `mlflow run`, for nothing of it is kept there.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pipelines.progress import Announcer
from pipelines.quantize.auto_gptq import export
from pipelines.session import Model, run_entry_point


class Reader(StrEnum):
    """Who will read the copy."""

    AUTO_GPTQ = "auto-gptq"


def main(
    model: Annotated[Path, typer.Argument(help="The quantized checkpoint's folder.")],
    reader: Annotated[Reader, typer.Option("--for", help="Who will read the copy.")],
    to: Annotated[Path, typer.Option(help="Where the copy is written; a new folder.")],
) -> None:
    """Copy a quantized checkpoint for another reader."""
    source = Model.at(model)
    export(source.folder, to)
    Announcer().say("export", f"{to} is for {reader}: {Model.at(to).digest}")


if __name__ == "__main__":
    run_entry_point(main)
