"""`shipway costs`: what the guards have counted. Mounted by the CLI."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from deploy_targets.command_line import DEFAULT_FILE, AsJson, File, Name, say
from registry.errors import MetricsUnavailable

if TYPE_CHECKING:
    from deploy_targets.control_plane import ControlPlane


def cost_app(compose: "Callable[[Path], ControlPlane]") -> typer.Typer:
    """The command; `compose` builds its clients."""
    app = typer.Typer()

    @app.command(epilog="Example: shipway costs chat --json")
    def costs(endpoint: Name, file: File = DEFAULT_FILE, *, as_json: AsJson = False) -> None:
        """Say what requests cost, by version and key, since the guards were started.

        Prometheus has the same over any time.
        """
        from deploy_targets.costs import cost_lines

        plane = compose(file)
        declared = plane.file.named(endpoint)
        try:
            lines = cost_lines(plane.guard_counts(declared).pages(), endpoint=declared.name)
        except ValueError as error:
            message = f"What the guard of {endpoint} counts cannot be read ({error}). See its log."
            raise MetricsUnavailable(message) from error
        currency = declared.guard.prices.currency
        if as_json:
            document = {"currency": currency, "costs": [one.to_json() for one in lines]}
            typer.echo(json.dumps(document, indent=1))
            return
        for one in lines:
            say(one.line(currency))

    return app
