"""What an operator says is saved in the state, beside a controller that saves too, and which is woken for it."""

import getpass
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import typer

from deploy_targets.command_line import say
from registry.errors import StateConflict

if TYPE_CHECKING:
    from deploy_targets.control_plane import ControlPlane

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


def wake(plane: "ControlPlane") -> None:
    """What was saved is carried out now; where the controller does not hear, at its next look, and the command says so."""
    if unheard := plane.wake_controller():
        say(unheard)
        raise typer.Exit(1)


def whoami() -> str:
    """Who asks, as this machine knows them: a name for people to read, and no proof."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
