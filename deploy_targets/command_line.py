"""What the commands of `shipway` share, wherever they are mounted from: options, and how people are spoken to."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

File = Annotated[
    Path,
    typer.Option(
        "--file", "-f", envvar="SHIPWAY_ENDPOINTS", help="The endpoint file.", show_default=True
    ),
]
DEFAULT_FILE = Path("endpoints.yaml")
Name = Annotated[str, typer.Argument(metavar="ENDPOINT", help="The endpoint's name.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
console = Console(highlight=False)


def say(text: str) -> None:
    """Prints a line for people, however long."""
    console.print(text, markup=False, soft_wrap=True)
