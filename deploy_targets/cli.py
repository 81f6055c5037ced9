"""The `shipway` command: parse, build the clients, call one function, print. The only composition root.

Exit codes: 0 done, 1 refused or failed, 2 wrong usage. Heavy imports stay inside the commands, so that help is instant.
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from deploy_targets.endpoint_commands import DEFAULT_FILE, File, endpoints_app
from deploy_targets.rollout.commands import judging_app
from registry.errors import BadInput, ComponentNotReady, NotFound, ShipwayError

if TYPE_CHECKING:
    from deploy_targets.control_plane import ControlPlane
    from deploy_targets.endpoint import Endpoint
    from deploy_targets.local.compose import Composition

app = typer.Typer(
    name="shipway",
    help="Turns a click in an MLflow registry into a safe production rollout of an LLM.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(endpoints_app, name="endpoints")
app.add_typer(judging_app)

Name = Annotated[str, typer.Argument(metavar="ENDPOINT", help="The endpoint's name.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_console = Console(highlight=False)


def _say(text: str) -> None:
    _console.print(text, markup=False, soft_wrap=True)


def _compose(file: Path) -> "ControlPlane":
    """The controller's world that SHIPWAY_CONTROL_PLANE names."""
    from deploy_targets.control_plane import ControlPlaneSettings, Place

    if ControlPlaneSettings().control_plane is Place.LOCAL:
        return _local_stack(file)
    from deploy_targets.in_cluster.compose import ClusterComposition

    return ClusterComposition.of_environment(file)


def _local_stack(file: Path) -> "Composition":
    from deploy_targets.local.compose import Composition

    return Composition.of_running_stack(file)


def _check_local(command: str) -> None:
    """Refuses a command that is about the local stack while the controller is said to live in a cluster."""
    from deploy_targets.control_plane import ControlPlaneSettings, Place

    if ControlPlaneSettings().control_plane is not Place.LOCAL:
        message = (
            f"`shipway {command}` is about the local stack, and SHIPWAY_CONTROL_PLANE says kubernetes. Unset it for the "
            "local stack; what runs in a cluster is installed and seen by kubectl."
        )
        raise BadInput(message)


@app.command(epilog="Example: shipway up -f endpoints.yaml")
def up(file: File = DEFAULT_FILE) -> None:
    """Start the local stack, or what is missing of it, and wait until it is ready."""
    _check_local("up")
    from deploy_targets.local.home import Home, HomeSettings
    from deploy_targets.local.stack import up as start

    info = start(Home(HomeSettings().home), file, announce=_say)
    _say(f"MLflow UI   {info.mlflow_url}")
    for name in (key.removesuffix(".guard") for key in info.ports if key.endswith(".guard")):
        _say(f"{name:11} {info.url(name, 'guard')}/v1")
    _say('The API key and the rest of the environment: eval "$(shipway env)"')


@app.command(epilog="Example: shipway down")
def down() -> None:
    """Stop every part of the local stack; the data stays."""
    _check_local("down")
    from deploy_targets.local.home import Home, HomeSettings
    from deploy_targets.local.stack import down as stop

    stop(Home(HomeSettings().home), announce=_say)


@app.command(epilog='Example: eval "$(shipway env)"')
def env() -> None:
    """Print the environment in which pipelines and clients use the local stack. It holds secrets."""
    _check_local("env")
    import shlex

    for name, value in _local_stack(DEFAULT_FILE).client_environment().items():
        typer.echo(f"export {name}={shlex.quote(value)}")


@app.command(epilog="Example: shipway status --json")
def status(file: File = DEFAULT_FILE, *, as_json: AsJson = False) -> None:
    """Show what serves, what is being rolled out and which parts run."""
    composition = _compose(file)
    parts = composition.parts()
    statuses = [composition.status(endpoint) for endpoint in composition.file.endpoints]
    if as_json:
        document = {"parts": parts, "endpoints": [one.to_json() for one in statuses]}
        typer.echo(json.dumps(document, indent=1))
    else:
        for one in statuses:
            _say("\n".join(one.lines()))
        for part, runs in parts.items():
            _say(f"{'runs' if runs else 'DOWN':5} {part}")
    if not all(parts.values()):
        raise typer.Exit(1)


@app.command(epilog="Example: shipway promote chat 7 --dry-run")
def promote(
    endpoint: Name,
    version: Annotated[str, typer.Argument(help="The model version.")],
    file: File = DEFAULT_FILE,
    *,
    dry_run: Annotated[
        bool, typer.Option(help="Say what would be written, write nothing.")
    ] = False,
) -> None:
    """Ask for a version, just as the click in the MLflow UI does. Refused without a passed gate."""
    from deploy_targets.operate import request_promotion

    composition = _compose(file)
    done = request_promotion(
        composition.registry(), composition.file.named(endpoint), version, dry_run=dry_run
    )
    _say(done)


@app.command(epilog='Example: shipway rollback chat --to 6 --reason "it talks nonsense"')
def rollback(
    endpoint: Name,
    file: File = DEFAULT_FILE,
    *,
    to: Annotated[
        str | None, typer.Option(help="An earlier version; the one before by default.")
    ] = None,
    reason: Annotated[str, typer.Option(help="Kept on the version.")] = "no reason was given",
) -> None:
    """End the rollout in progress, or go back at once, without a canary. Works without MLflow."""
    from deploy_targets.operate import request_rollback

    composition = _compose(file)
    _say(
        request_rollback(
            composition.store(),
            composition.registry,
            composition.file.named(endpoint),
            to=to,
            reason=reason,
        )
    )
    if unheard := composition.wake_controller():
        _say(unheard)
        raise typer.Exit(1)


@app.command(epilog="Example: shipway watch chat")
def watch(
    endpoint: Name,
    file: File = DEFAULT_FILE,
    *,
    every_s: Annotated[float, typer.Option(min=0.2, help="Seconds between two looks.")] = 1.0,
    looks: Annotated[int, typer.Option(min=0, help="How often to look; 0 until interrupted.")] = 0,
) -> None:
    """Follow a rollout live."""
    from deploy_targets.operate import follow

    composition = _compose(file)
    declared = composition.file.named(endpoint)
    follow(lambda: composition.status(declared), console=_console, every_s=every_s, looks=looks)


@app.command(epilog="Example: shipway history chat --json")
def history(
    endpoint: Name,
    file: File = DEFAULT_FILE,
    *,
    limit: Annotated[
        int, typer.Option(min=1, max=1000, help="How many rollouts, at the most.")
    ] = 50,
    as_json: AsJson = False,
) -> None:
    """List the endpoint's rollouts, the newest first, as their MLflow runs tell them."""
    from deploy_targets.rollout.journal import past_rollouts

    composition = _compose(file)
    past = past_rollouts(composition.tracking(), composition.file.named(endpoint), limit=limit)
    if as_json:
        typer.echo(json.dumps([one.to_json() for one in past], indent=1))
        return
    for one in past:
        _say(one.line())


@app.command(epilog="Example: shipway render --all --version 1 --source s3://models/llm")
def render(
    endpoint: Annotated[
        str | None, typer.Argument(metavar="[ENDPOINT]", help="One endpoint; or give --all.")
    ] = None,
    file: File = DEFAULT_FILE,
    *,
    every: Annotated[bool, typer.Option("--all", help="Every endpoint of the file.")] = False,
    version: Annotated[str, typer.Option(help="The model version.")] = "1",
    source: Annotated[
        str | None, typer.Option(help="Its artifact; MLflow is asked by default.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", help="A folder, one file a document.")
    ] = None,
) -> None:
    """Print what would be applied for a version. With --source it needs no server."""
    if every == (endpoint is not None):
        message = "Name one endpoint, or give --all."
        raise BadInput(message)
    from deploy_targets.control_plane import read_endpoint_file
    from deploy_targets.operate import render_documents, write_documents

    declared = read_endpoint_file(file)
    chosen: tuple[Endpoint, ...] = (
        declared.endpoints if endpoint is None else (declared.named(endpoint),)
    )
    registry = None if source else _compose(file).registry()
    documents = render_documents(chosen, version=version, source=source, registry=registry)
    if output is None:
        yaml = (text for name, text in documents.items() if name.endswith(".yaml"))
        typer.echo("".join(yaml), nl=False)
    else:
        _say(write_documents(documents, output))


@app.command(epilog="Example: shipway diff chat --version 7 --source s3://models/7")
def diff(
    endpoint: Name,
    file: File = DEFAULT_FILE,
    *,
    version: Annotated[str, typer.Option(help="The model version.")] = "1",
    source: Annotated[
        str | None, typer.Option(help="Its artifact; MLflow is asked by default.")
    ] = None,
    context: Annotated[
        str | None, typer.Option(help="A context of KUBECONFIG; SHIPWAY_KUBE_CONTEXT by default.")
    ] = None,
) -> None:
    """Print what an apply would change in the cluster, and change nothing."""
    from contextlib import closing

    from deploy_targets.control_plane import read_endpoint_file
    from deploy_targets.kubernetes_targets import ClusterSettings, open_cluster
    from deploy_targets.operate import preview_changes

    declared = read_endpoint_file(file).named(endpoint)
    registry = None if source else _compose(file).registry()
    with closing(open_cluster(context or ClusterSettings().kube_context)) as cluster:
        changes = preview_changes(
            declared, cluster, version=version, source=source, registry=registry
        )
    typer.echo(changes, nl=False)


@app.command(epilog="Example: SHIPWAY_POLL_S=5 shipway controller -f endpoints.yaml")
def controller(file: File = DEFAULT_FILE) -> None:
    """Run the control loop until it is told to end."""
    from deploy_targets.run_controller import run_controller

    run_controller(_compose(file))


@app.command(epilog="Example: shipway load chat --clients 8 --requests 500")
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

    composition = _local_stack(file)
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


@app.command(epilog="Example: shipway doctor")
def doctor(file: File = DEFAULT_FILE) -> None:
    """Look for what keeps Shipway from working here, and say what to do about it."""
    _check_local("doctor")
    from deploy_targets.local.doctor import examine

    findings = examine(file)
    for one in findings:
        _say(one.line())
    if any(not one.is_fine for one in findings):
        raise typer.Exit(1)


@app.command(epilog="Example: shipway gc --keep-last 3 --delete")
def gc(
    file: File = DEFAULT_FILE,
    *,
    keep_last: Annotated[int, typer.Option(min=0, help="Newest versions of each model.")] = 5,
    keep_days: Annotated[float, typer.Option(min=0, help="Younger things stay.")] = 30,
    delete: Annotated[bool, typer.Option("--delete", help="Really delete; else only say.")] = False,
) -> None:
    """List, or delete, the versions and bytes that no alias, rollout or retention rule needs."""
    from datetime import timedelta

    from deploy_targets.operate import collect_garbage
    from registry.retention import Retention

    composition = _compose(file)
    rule = Retention(keep_last=keep_last, keep_for=timedelta(days=keep_days))
    for line in collect_garbage(
        composition.registry(),
        composition.artifacts(),
        composition.all_states(),
        rule,
        delete=delete,
    ):
        _say(line)


@app.command(epilog="Example: shipway demo")
def demo(file: File = DEFAULT_FILE) -> None:
    """Walk through the main job on this machine: a first release, a good challenger, a bad one."""
    _check_local("demo")
    from deploy_targets.local.demo import run_demo

    run_demo(file, console=_console)


def main() -> None:
    """The console script: errors of ours become one message and an exit code, never a traceback."""
    try:
        app()
    except (BadInput, NotFound) as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
    except ComponentNotReady as error:
        sys.stderr.write(f"{error}\nThe other parts keep running; `shipway down` ends them.\n")
        sys.exit(1)
    except ShipwayError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
