"""Files that users write for a pipeline: YAML, each word checked, and one error that names all that is wrong."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from registry.errors import BadInput
from registry.plain_yaml import load_yaml

T = TypeVar("T")


def read_declared(file: Path, *, what: str, see: str, refused: type[BadInput] = BadInput) -> str:
    """The text of `file`; `what` and `see` are as for `parse_declared`.

    Raises:
        refused: it is not there, or no text.
    """
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        message = f"{what} cannot be read ({why}). See {see}."
        raise refused(message) from error


def parse_declared(
    text: str,
    parse: Callable[[Any], T],
    *,
    what: str,
    see: str,
    refused: type[BadInput] = BadInput,
) -> T:
    """What `parse`, pydantic's, makes of the YAML `text`. `what` is how the user calls it, `see` where to look for help.

    Raises:
        refused: it is no YAML, or has an unknown word, a missing or an impossible value.
    """
    try:
        return parse(load_yaml(text))
    except yaml.YAMLError as error:
        message = f"{what} is not YAML ({error}). See {see}."
        raise refused(message) from error
    except ValidationError as error:
        message = f"{what} cannot be used: {'; '.join(faults_of(error))}. See {see}."
        raise refused(message) from error


_MOST_FAULTS = 50
"""That are told: a few lines of aliases may mean a million, and nobody reads them."""


def faults_of(error: ValidationError) -> list[str]:
    """Each fault with its place, without what stands there: it may be secret. Of many the first, and how many there are."""
    told = [
        f"{'.'.join(str(part) for part in fault['loc']) or 'the file'}: {fault['msg']}"
        for fault in error.errors(include_url=False, include_input=False)[:_MOST_FAULTS]
    ]
    more = error.error_count() - len(told)
    return [*told, f"and {more} more faults"] if more else told
