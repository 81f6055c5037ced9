"""What all files that users write have in common: frozen values, an unknown key is an error, each fault has a place."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Count = Annotated[int, Field(ge=1)]

AS_DUMPED = {"as": "dumped"}
"""The context in which a dump is read: it fitted its target once, and spells out defaults that nobody may declare there."""


class Declared(BaseModel):
    """A part of a file that users write: frozen, and an unknown key is an error."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


def faults_of(error: ValidationError) -> str:
    """One line for each fault, with its place."""
    return "\n".join(
        f"  {'.'.join(map(str, fault['loc'])) or 'file'}: {fault['msg']}"
        for fault in error.errors()
    )
