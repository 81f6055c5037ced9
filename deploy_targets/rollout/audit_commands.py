"""`shipway history|explain|replay`: what was decided, why, and whether it would be again. Mounted by the CLI."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from deploy_targets.command_line import DEFAULT_FILE, AsJson, File, Name
from registry.errors import NotFound

if TYPE_CHECKING:
    from deploy_targets.endpoint import EndpointFile
    from deploy_targets.rollout.audit import Entry
    from deploy_targets.rollout.store import Store
    from registry.record_store import RecordStore
    from registry.tracking import Tracking

Rollout = Annotated[
    str,
    typer.Argument(
        help="Its id, as the MLflow run has it; or without the time, `chat-v7`: the newest."
    ),
]


class Plane(Protocol):
    """What these commands need of a controller's world."""

    @property
    def file(self) -> "EndpointFile":
        """The endpoints."""
        ...

    def tracking(self) -> "Tracking":
        """The runs."""
        ...

    def records(self) -> "RecordStore":
        """The record."""
        ...

    def store(self) -> "Store":
        """The states, which know where the record ends."""
        ...


def audit_app(compose: Callable[[Path], Plane]) -> typer.Typer:
    """The commands; `compose` builds their clients."""
    app = typer.Typer()

    @app.command(epilog="Example: shipway history chat --json")
    def history(
        endpoint: Name,
        file: File = DEFAULT_FILE,
        *,
        limit: Annotated[
            int, typer.Option(min=1, max=1000, help="How many rollouts, at the most.")
        ] = 50,
        as_json: AsJson = False,
        verify: Annotated[
            bool, typer.Option("--verify", help="Check the audit record from its first line on.")
        ] = False,
    ) -> None:
        """List the endpoint's rollouts, the newest first, as their MLflow runs tell them."""
        from deploy_targets.rollout.journal import past_rollouts

        plane = compose(file)
        declared = plane.file.named(endpoint)
        if verify:
            entries = _entries(plane, declared.name)
            typer.echo(f"The audit record is whole: {len(entries)} lines.", err=as_json)
        past = past_rollouts(plane.tracking(), declared, limit=limit)
        if as_json:
            typer.echo(json.dumps([one.to_json() for one in past], indent=1))
            return
        for one in past:
            typer.echo(one.line())

    @app.command(epilog="Example: shipway explain chat-v7")
    def explain(rollout: Rollout, file: File = DEFAULT_FILE) -> None:
        """Tell a rollout from its audit record: who asked, what was seen, which rule decided, what was done."""
        from deploy_targets.rollout.replay import story

        for line in story(_entries_of(compose(file), rollout)):
            typer.echo(line)

    @app.command(epilog="Example: shipway replay chat-v7")
    def replay(rollout: Rollout, file: File = DEFAULT_FILE) -> None:
        """Decide a rollout again from its recorded inputs, by today's code. Exit code 1 where it would decide otherwise."""
        from deploy_targets.rollout.replay import replay as decide_again

        done = decide_again(_entries_of(compose(file), rollout))
        if done.missed:
            typer.echo(
                f"{done.missed} looks were not recorded: S3 or MLflow was away for too long."
            )
        if done.difference is None:
            typer.echo(f"Decided alike: all {done.looks} recorded looks.")
            return
        parted = done.difference
        typer.echo(f"Alike for {done.looks} looks; then, at line {parted.number}:")
        typer.echo(f"  recorded: {parted.recorded}\n  today:    {parted.today}")
        raise typer.Exit(1)

    return app


def _entries(plane: Plane, endpoint: str) -> "tuple[Entry, ...]":
    from deploy_targets.rollout.audit import read_chain
    from deploy_targets.rollout.audit_trail import read_lines

    store, records = plane.store(), plane.records()
    # A long record takes longer to read than a tick: what was known before must be there, and nothing unknown afterwards.
    tail = store.load(endpoint).state.audit
    lines = read_lines(records, endpoint)
    grown_to = store.load(endpoint).state.audit.length
    return read_chain(lines, endpoint=endpoint, tail=tail, grown_to=grown_to)


def _entries_of(plane: Plane, rollout: str) -> "tuple[Entry, ...]":
    from deploy_targets.rollout.replay import entries_of

    names = [endpoint.name for endpoint in plane.file.endpoints]
    for name in sorted(names, key=len, reverse=True):
        if rollout == name or rollout.startswith(f"{name}-v"):
            return entries_of(_entries(plane, name), rollout)
    message = f"{rollout!r} is no rollout of {', '.join(names)}. A rollout's id begins with its endpoint's name, like chat-v7."
    raise NotFound(message)
