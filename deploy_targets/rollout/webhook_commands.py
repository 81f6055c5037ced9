"""`shipway webhook install|list|remove`: MLflow's webhook to the controller. Mounted by the CLI."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import typer

from deploy_targets.command_line import DEFAULT_FILE, File

if TYPE_CHECKING:
    from deploy_targets.rollout.webhook import HookAddress
    from registry.mlflow_registry import MlflowRegistry


class Plane(Protocol):
    """What these commands need of a controller's world."""

    def registry(self) -> "MlflowRegistry":
        """The MLflow whose webhook it is."""
        ...

    def hook_address(self) -> "HookAddress":
        """Where MLflow reaches the controller."""
        ...


def webhook_app(compose: Callable[[Path], Plane]) -> typer.Typer:
    """The group of commands; `compose` builds their clients."""
    app = typer.Typer(help="MLflow's webhook to the controller.", no_args_is_help=True)

    @app.command(epilog="Example: shipway webhook install")
    def install(file: File = DEFAULT_FILE) -> None:
        """Have MLflow call the controller when an alias moves, and try it. Exit code 1 where MLflow cannot, with what to do."""
        from deploy_targets.rollout.webhook import install_hook

        plane = compose(file)
        checked = install_hook(plane.registry(), plane.hook_address())
        typer.echo(checked.said)
        if not checked.arrives:
            raise typer.Exit(1)

    @app.command(name="list", epilog="Example: shipway webhook list")
    def list_(file: File = DEFAULT_FILE) -> None:
        """List the webhooks of this MLflow, and try the one to the controller. Exit code 1 where its calls do not arrive."""
        from deploy_targets.rollout.webhook import check_hook, list_hooks

        registry = compose(file).registry()
        for line in list_hooks(registry):
            typer.echo(line)
        checked = check_hook(registry)
        typer.echo(checked.said)
        if not checked.arrives:
            raise typer.Exit(1)

    @app.command(epilog="Example: shipway webhook remove")
    def remove(file: File = DEFAULT_FILE) -> None:
        """Remove the webhook to the controller. Polling goes on; a controller that starts sets the webhook up again."""
        from deploy_targets.rollout.webhook import HOOK_NAME

        was_there = compose(file).registry().remove_webhook(HOOK_NAME)
        typer.echo("Removed." if was_there else "There was none.")

    # Used by typer alone.
    del install, list_, remove
    return app
