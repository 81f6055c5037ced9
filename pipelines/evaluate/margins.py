"""How much worse a model may be, from a file: `-P margins=FILE`. docs/gate.md says what each margin is."""

from pathlib import Path
from typing import Annotated

import typer
from pydantic import TypeAdapter

from pipelines.declared import parse_declared, read_declared
from registry.gate import Margins

MarginsFile = Annotated[
    str, typer.Option(help="File of margins; see examples/margins.yaml. Defaults if empty.")
]
"""The option of each entry point that has a gate."""
_PARSER = TypeAdapter(Margins)
_SEE = "examples/margins.yaml"


def read_margins(file: str) -> Margins:
    """The margins in the YAML `file`; what it leaves out, and all where it is empty, is the default.

    Raises:
        BadInput: it cannot be read, or has an unknown word or an impossible value.
    """
    if not file:
        return Margins()
    what = f"The file of margins {file}"
    text = read_declared(Path(file), what=what, see=_SEE)
    return parse_declared(text, _PARSER.validate_python, what=what, see=_SEE)
