"""The `shipway` command: parse, build the clients, call one function, print. The only composition root.

Exit codes: 0 done, 1 refused or failed, 2 wrong usage. Heavy imports stay inside the commands, so that help is instant.
"""

import json
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy_targets.command_line import DEFAULT_FILE, AsJson, File, Name, console, say
from deploy_targets.compose import compose
from deploy_targets.cost_commands import cost_app
from deploy_targets.experiment_commands import experiment_app
from deploy_targets.local.commands import stack_app
from deploy_targets.local.key_commands import keys_app
from deploy_targets.operator_word import saved, wake, whoami
from deploy_targets.rollout.audit_commands import audit_app
from deploy_targets.rollout.commands import judging_app
from deploy_targets.rollout.webhook_commands import webhook_app
from registry.errors import BadInput, NotFound, ShipwayError

if TYPE_CHECKING:
    from deploy_targets.endpoint import Endpoint

app = typer.Typer(
    name="shipway",
    help="Turns a click in an MLflow registry into a safe production rollout of an LLM.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
endpoints_app = typer.Typer(help="The endpoint file.", no_args_is_help=True)
app.add_typer(endpoints_app, name="endpoints")
app.add_typer(stack_app)
app.add_typer(keys_app, name="keys")
app.add_typer(judging_app)
app.add_typer(webhook_app(compose), name="webhook")
app.add_typer(audit_app(compose))
app.add_typer(cost_app(compose))
app.add_typer(experiment_app(compose), name="experiment")
# Groups of commands of other packages, which this one does not know: `schedule` of the pipelines.
for _group in entry_points(group="shipway.commands"):
    try:
        app.add_typer(_group.load(), name=_group.name)
    except Exception as _error:  # noqa: BLE001 - whatever is wrong with it, the other commands are needed
        sys.stderr.write(
            f"`shipway {_group.name}` cannot be loaded ({_error!r}). Mend its package.\n"
        )


@app.command(epilog="Example: shipway status --json")
def status(file: File = DEFAULT_FILE, *, as_json: AsJson = False) -> None:
    """Show what serves, what is being rolled out and which parts run."""
    composition = compose(file)
    parts = composition.parts()
    statuses = [composition.status(endpoint) for endpoint in composition.file.endpoints]
    if as_json:
        document = {"parts": parts, "endpoints": [one.to_json() for one in statuses]}
        typer.echo(json.dumps(document, indent=1))
    else:
        for one in statuses:
            say("\n".join(one.lines()))
        for part, runs in parts.items():
            say(f"{'runs' if runs else 'DOWN':5} {part}")
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

    composition = compose(file)
    done = request_promotion(
        composition.registry(), composition.file.named(endpoint), version, dry_run=dry_run
    )
    say(done)


@app.command(epilog="Example: shipway verify smollm2 7")
def verify(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The registered model.")],
    version: Annotated[str, typer.Argument(help="The model version.")],
    file: File = DEFAULT_FILE,
    *,
    quick: Annotated[
        bool, typer.Option("--quick", help="Look at names, sizes and the signature; read no bytes.")
    ] = False,
) -> None:
    """Check a version's bytes in S3 against its digest, and its signature. Exit code 1 when one does not hold."""
    from registry.verification import verify_version

    composition = compose(file)
    trusted = composition.trusted_keys()
    found = composition.registry().version(name, version)
    verified = verify_version(found, composition.artifacts(), trusted, quick=quick)
    for held in verified.held:
        say(f"holds  {held}")
    if quick:
        say("unread the bytes; leave --quick out to have every one compared")
    if trusted is None:
        say("unread the signature: SHIPWAY_SIGNING_KEYS names no public keys")
    for fault in verified.faults:
        say(f"FAULT  {fault}")
    if verified.faults:
        raise typer.Exit(1)


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

    composition = compose(file)
    store, declared = composition.store(), composition.file.named(endpoint)

    def under_way() -> str | None:
        state = store.load(declared.name).state
        meant = state.rollout or state.experiment
        return None if meant is None or to is not None else meant.id

    def ask() -> str:
        return request_rollback(composition, declared, to=to, reason=reason, by=whoami())

    # Without --to it ends what is under way: should that end by itself meanwhile, nothing else is taken back in its place.
    say(saved(ask, meant=under_way))
    wake(composition)


@app.command(epilog='Example: shipway hold chat --reason "the fair is on"')
def hold(
    endpoint: Name,
    file: File = DEFAULT_FILE,
    *,
    reason: Annotated[str, typer.Option(help="Shown wherever the rollout is.")],
) -> None:
    """Move no more requests to a challenger until `resume`. One that does harm is still rolled back."""
    from deploy_targets.operate import request_hold

    composition = compose(file)
    declared = composition.file.named(endpoint)
    store, by = composition.store(), whoami()
    say(saved(lambda: request_hold(store, declared, reason=reason, by=by)))
    wake(composition)


@app.command(epilog="Example: shipway resume chat")
def resume(endpoint: Name, file: File = DEFAULT_FILE) -> None:
    """Take a hold back. The time that was waited is not held against the rollout."""
    from deploy_targets.operate import request_resume

    composition = compose(file)
    store, declared = composition.store(), composition.file.named(endpoint)
    say(saved(lambda: request_resume(store, declared)))
    wake(composition)


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

    composition = compose(file)
    declared = composition.file.named(endpoint)
    follow(lambda: composition.status(declared), console=console, every_s=every_s, looks=looks)


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
    from deploy_targets.rendering import render_documents, write_documents

    declared = read_endpoint_file(file)
    chosen: tuple[Endpoint, ...] = (
        declared.endpoints if endpoint is None else (declared.named(endpoint),)
    )
    registry = None if source else compose(file).registry()
    documents = render_documents(chosen, version=version, source=source, registry=registry)
    if output is None:
        yaml = (text for name, text in documents.items() if name.endswith(".yaml"))
        typer.echo("".join(yaml), nl=False)
    else:
        try:
            say(write_documents(documents, output))
        except OSError as error:
            message = f"{output} cannot be written ({error.strerror}). Name another folder with -o."
            raise BadInput(message) from error


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
    from deploy_targets.rendering import preview_changes

    declared = read_endpoint_file(file).named(endpoint)
    registry = None if source else compose(file).registry()
    with closing(open_cluster(context or ClusterSettings().kube_context)) as cluster:
        changes = preview_changes(
            declared, cluster, version=version, source=source, registry=registry
        )
    typer.echo(changes, nl=False)


@app.command(epilog="Example: SHIPWAY_POLL_S=5 shipway controller -f endpoints.yaml")
def controller(file: File = DEFAULT_FILE) -> None:
    """Run the control loop until it is told to end."""
    from deploy_targets.run_controller import run_controller

    run_controller(compose(file))


@endpoints_app.command(epilog="Example: shipway endpoints validate -f endpoints.yaml")
def validate(file: File = DEFAULT_FILE) -> None:
    """Check the endpoint file; every fault is named with its place."""
    from deploy_targets.control_plane import read_endpoint_file

    declared = read_endpoint_file(file)
    names = ", ".join(endpoint.name for endpoint in declared.endpoints)
    say(f"{file} is valid: {names}.")


@endpoints_app.command(epilog="Example: shipway endpoints guards -f endpoints.yaml > guards.yaml")
def guards(file: File = DEFAULT_FILE) -> None:
    """Print the objects of each endpoint's guard for Kubernetes; docs/install-kubernetes.md says where they go."""
    from deploy_targets.control_plane import read_endpoint_file
    from deploy_targets.install.guard import render_guards
    from deploy_targets.manifest import canonical_yaml

    rendered = render_guards(read_endpoint_file(file).endpoints)
    typer.echo(canonical_yaml(rendered), nl=False)


@endpoints_app.command(epilog="Example: shipway endpoints schema > endpoints.schema.json")
def schema() -> None:
    """Print the JSON Schema of the endpoint file, for editors."""
    from deploy_targets.endpoint import endpoint_schema

    typer.echo(json.dumps(endpoint_schema(), indent=1))


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

    from deploy_targets.garbage import collect_garbage
    from registry.retention import Retention

    composition = compose(file)
    rule = Retention(keep_last=keep_last, keep_for=timedelta(days=keep_days))
    for line in collect_garbage(
        composition.registry(),
        composition.artifacts(),
        composition.store(),
        rule,
        delete=delete,
    ):
        say(line)


def main() -> None:
    """The console script: errors of ours become one message and an exit code, never a traceback."""
    try:
        app()
    except (BadInput, NotFound) as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
    except ShipwayError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(1)
    except ValueError as error:
        said = _wrong_setting(error)
        if said is None:
            raise
        sys.stderr.write(f"{said}\n")
        sys.exit(2)


def _wrong_setting(error: ValueError) -> str | None:
    """Which variable cannot be used and why, where `error` is about one of our settings; None where it is about another thing."""
    from pydantic import ValidationError
    from pydantic_settings import BaseSettings

    if not isinstance(error, ValidationError):
        return None
    if error.title not in {cls.__name__ for cls in BaseSettings.__subclasses__()}:
        return None
    lines: list[str] = []
    for fault in error.errors(include_input=False, include_url=False):
        why = fault["msg"].removeprefix("Value error, ")
        if fault["loc"]:
            # An alias stands there as it is; what has none is a field, after our prefix.
            name = str(fault["loc"][0])
            variable = name if name.isupper() else f"SHIPWAY_{name.upper()}"
            why = f"{variable} cannot be used: {why[:1].lower()}{why[1:]}."
        lines.append(f"{why} Set it right, or unset it for its default.")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
