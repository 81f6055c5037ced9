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


_MOST_FAULTS = 50
"""That are told: a few lines of aliases may mean a million, and nobody reads them."""


def faults_of(error: ValidationError) -> str:
    """One line for each fault, with its place; of many the first ones, and how many there are."""
    told = [
        f"  {'.'.join(map(str, fault['loc'])) or 'file'}: {fault['msg']}"
        for fault in error.errors()[:_MOST_FAULTS]
    ]
    if (more := error.error_count() - len(told)) > 0:
        told.append(f"  and {more} more faults")
    return "\n".join(told)
