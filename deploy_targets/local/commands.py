"""`shipway up`, `down`, `env`, `load`, `doctor` and `demo`: the commands that are about the local stack alone. Mounted by the CLI.

Heavy imports stay inside the commands, so that help is instant.
"""

import json
from typing import Annotated

import typer

from deploy_targets.command_line import DEFAULT_FILE, AsJson, File, Name, console, say
from registry.errors import BadInput, ComponentNotReady

stack_app = typer.Typer()


def _check_local(command: str) -> None:
    """Refuses a command that is about the local stack while the controller is said to live in a cluster."""
    from deploy_targets.control_plane import ControlPlaneSettings, Place

    if ControlPlaneSettings().control_plane is not Place.LOCAL:
        message = (
            f"`shipway {command}` is about the local stack, and SHIPWAY_CONTROL_PLANE says kubernetes. Unset it for the "
            "local stack; what runs in a cluster is installed and seen by kubectl."
        )
        raise BadInput(message)


@stack_app.command(epilog="Example: shipway up -f endpoints.yaml")
def up(file: File = DEFAULT_FILE) -> None:
    """Start the local stack, or what is missing of it, and wait until it is ready."""
    _check_local("up")
    from deploy_targets.local.home import Home, HomeSettings
    from deploy_targets.local.stack import up as start

    try:
        info = start(Home(HomeSettings().home), file, announce=say)
    except ComponentNotReady as error:
        message = f"{error}\nThe other parts keep running; `shipway down` ends them."
        raise ComponentNotReady(message) from error
    say(f"MLflow UI   {info.mlflow_url}")
    for name in (key.removesuffix(".guard") for key in info.ports if key.endswith(".guard")):
        say(f"{name:11} {info.url(name, 'guard')}/v1")
    say('The API key and the rest of the environment: eval "$(shipway env)"')


@stack_app.command(epilog="Example: shipway down")
def down() -> None:
    """Stop every part of the local stack; the data stays."""
    _check_local("down")
    from deploy_targets.local.home import Home, HomeSettings
    from deploy_targets.local.stack import down as stop

    stop(Home(HomeSettings().home), announce=say)


@stack_app.command(epilog='Example: eval "$(shipway env)"')
def env() -> None:
    """Print the environment in which pipelines and clients use the local stack. It holds secrets."""
    _check_local("env")
    import shlex

    from deploy_targets.local.compose import Composition

    for name, value in Composition.of_running_stack(DEFAULT_FILE).client_environment().items():
        typer.echo(f"export {name}={shlex.quote(value)}")


@stack_app.command(epilog="Example: shipway load chat --clients 8 --requests 500")
def load(  # noqa: PLR0913 - each is a flag of its own
    endpoint: Name,
    file: File = DEFAULT_FILE,
    *,
    clients: Annotated[int, typer.Option(min=1, max=1000, help="Requests under way at once.")] = 4,
    requests: Annotated[int, typer.Option(min=1, help="Stop after so many.")] = 100,
    seconds: Annotated[float, typer.Option(min=0.1, help="Stop after this time.")] = 3600,
    max_tokens: Annotated[int, typer.Option(min=1, help="The length of each answer.")] = 8,
    as_json: AsJson = False,
) -> None:
    """Send real chat requests and count what clients get. Exit code 1 when any failed."""
    _check_local("load")
    import asyncio

    from deploy_targets.load import LoadPlan, generate_load
    from deploy_targets.local.compose import Composition

    composition = Composition.of_running_stack(file)
    plan = LoadPlan(
        url=composition.info.url(composition.file.named(endpoint).name, "guard"),
        model=endpoint,
        api_key=composition.home.secrets().api_key,
        clients=clients,
        requests=requests,
        seconds=seconds,
        max_tokens=max_tokens,
    )
    report = asyncio.run(generate_load(plan)).to_json()
    typer.echo(json.dumps(report, indent=None if as_json else 1))
    if report["failures"]:
        raise typer.Exit(1)


@stack_app.command(epilog="Example: shipway doctor")
def doctor(file: File = DEFAULT_FILE) -> None:
    """Look for what keeps Shipway from working here, and say what to do about it."""
    _check_local("doctor")
    from deploy_targets.local.doctor import examine

    findings = examine(file)
    for one in findings:
        say(one.line())
    if any(not one.is_fine for one in findings):
        raise typer.Exit(1)


@stack_app.command(epilog="Example: shipway demo")
def demo(file: File = DEFAULT_FILE) -> None:
    """Walk through the main job on this machine: a first release, a good challenger, a bad one."""
    _check_local("demo")
    from deploy_targets.local.demo import run_demo

    run_demo(file, console=console)
