"""`shipway experiment start|status|stop`: versions compared user by user. Mounted by the CLI."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy_targets.command_line import DEFAULT_FILE, AsJson, File, Name, say
from deploy_targets.operator_word import saved, wake, whoami

if TYPE_CHECKING:
    from deploy_targets.control_plane import ControlPlane


def experiment_app(compose: "Callable[[Path], ControlPlane]") -> typer.Typer:
    """The group of commands; `compose` builds their clients."""
    app = typer.Typer(help="Versions compared user by user.", no_args_is_help=True)

    @app.command(
        epilog="Example: shipway experiment start chat --name shorter --versions 7,8 --share 50 "
        "--goal latency --until 2026-12-20"
    )
    def start(  # noqa: PLR0913 - what an experiment is
        endpoint: Name,
        file: File = DEFAULT_FILE,
        *,
        name: Annotated[str, typer.Option(help="Its name in MLflow.")],
        versions: Annotated[str, typer.Option(help="What is compared with what serves: 7,8.")],
        share: Annotated[
            int, typer.Option(min=1, max=99, help="Percent of requests for these together.")
        ] = 50,
        goal: Annotated[str, typer.Option(help="A metric of the endpoint's rollout.")] = "errors",
        until: Annotated[
            datetime | None, typer.Option(help="When it ends at the latest, by UTC.")
        ] = None,
        users: Annotated[
            int | None, typer.Option(min=1, help="After how many users it ends at the latest.")
        ] = None,
    ) -> None:
        """Compare versions with the one that serves, at fixed shares. A rollout waits for its end."""
        from deploy_targets.control_plane import utc_now
        from deploy_targets.experiments import ExperimentRequest, request_experiment

        plane = compose(file)
        declared = plane.file.named(endpoint)
        asked = ExperimentRequest(
            name=name,
            versions=tuple(one.strip().removeprefix("v") for one in versions.split(",")),
            share=share,
            goal=goal,
            until=None if until is None else until.replace(tzinfo=UTC),
            users=users,
            by=whoami(),
        )
        say(saved(lambda: request_experiment(plane, declared, asked, now=utc_now())))
        wake(plane)

    @app.command(epilog="Example: shipway experiment status chat --json")
    def status(endpoint: Name, file: File = DEFAULT_FILE, *, as_json: AsJson = False) -> None:
        """Show the experiment under way and the latest that ended; MLflow has all."""
        from pydantic import TypeAdapter

        from deploy_targets.rollout.experiment_state import Experiment

        plane = compose(file)
        state = plane.store().load(plane.file.named(endpoint).name).state
        current = () if state.experiment is None else (state.experiment,)
        known = (*current, *reversed(state.past_experiments))
        if as_json:
            typer.echo(
                json.dumps(TypeAdapter(tuple[Experiment, ...]).dump_python(known, mode="json"))
            )
            return
        for one in known:
            say("\n".join(one.lines()))
        if not known:
            say(f"There was no experiment on {endpoint}.")

    @app.command(epilog='Example: shipway experiment stop chat --reason "the fair is on"')
    def stop(
        endpoint: Name,
        file: File = DEFAULT_FILE,
        *,
        reason: Annotated[str, typer.Option(help="Kept in MLflow.")] = "no reason was given",
    ) -> None:
        """End the experiment: all requests go back to what served before, by one write."""
        from deploy_targets.experiments import request_stop

        plane = compose(file)
        store, declared = plane.store(), plane.file.named(endpoint)
        say(saved(lambda: request_stop(store, declared, reason=reason, by=whoami())))
        wake(plane)

    # Used by typer alone.
    del start, status, stop
    return app
