"""What an operator says is saved in the state, beside a controller that saves too."""

import getpass
import os
from collections.abc import Callable

from registry.errors import StateConflict

_ATTEMPTS = 4
"""A tick saves twice at most, within moments."""


def saved(ask: Callable[[], str], *, meant: Callable[[], str | None] = lambda: None) -> str:
    """What `ask` says. A controller that saves at the same moment is no reason to give up while the same is `meant`.

    Raises:
        StateConflict: it was so each time, or another thing would be meant by now.
    """
    at_first = meant()
    for _ in range(_ATTEMPTS - 1):
        try:
            return ask()
        except StateConflict:
            if meant() != at_first:
                raise
    return ask()


def whoami() -> str:
    """Who asks, as this machine knows them: a name for people to read, and no proof."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
