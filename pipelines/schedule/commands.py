"""`shipway schedule render|run|list`: the group of commands, mounted by the CLI through an entry point."""

import os
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from registry.errors import BadInput

if TYPE_CHECKING:
    from pipelines.schedule.declared import Schedule
    from pipelines.schedule.records import Records

File = Annotated[Path, typer.Option("--file", "-f", help="The schedule file.", show_default=True)]
Project = Annotated[Path, typer.Option(help="The folder with the MLproject.")]
_DEFAULT_FILE = Path("schedules.yaml")
_HERE = Path()

app = typer.Typer(help="Entry points that run by the clock.", no_args_is_help=True)


class Backend(StrEnum):
    """What runs schedules in a cluster."""

    KUBERNETES = "kubernetes"
    RAY = "ray"


@app.command(epilog="Example: shipway schedule render -f schedules.yaml > cronjobs.yaml")
def render(
    file: File = _DEFAULT_FILE,
    *,
    project: Project = _HERE,
    backend: Annotated[Backend, typer.Option(help="CronJobs, or KubeRay's RayCronJobs.")] = (
        Backend.KUBERNETES
    ),
    ray_cluster: Annotated[
        str | None,
        typer.Option(help="The RayCluster that runs them; each gets its own if there is none."),
    ] = None,
) -> None:
    """Print Kubernetes objects that run `mlflow run` by the clock with the pipeline's image."""
    from pipelines.schedule import cronjob, rayjob

    schedules = _read(file, project)
    if backend is Backend.RAY:
        typer.echo(rayjob.render(schedules, cluster=ray_cluster), nl=False)
        return
    if ray_cluster is not None:
        message = "--ray-cluster goes with --backend ray alone."
        raise BadInput(message)
    typer.echo(cronjob.render(schedules), nl=False)


@app.command(epilog="Example: shipway schedule run -f schedules.yaml")
def run(file: File = _DEFAULT_FILE, *, project: Project = _HERE) -> None:
    """Run what is due on this machine, until told to end; what runs then is ended, too."""
    import signal
    import sys
    import threading

    from pipelines.schedule.children import Children, only_one, place_of
    from pipelines.schedule.loop import Loop, run_loop
    from pipelines.settings import PipelineSettings

    schedules = _read(file, project)
    home = PipelineSettings().home.resolve()
    ended = threading.Event()

    def end(_signal: int, _frame: object) -> None:
        ended.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    # MLproject says `python`, which is this one; a run of somebody else's is not gone on with.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    environment = {**os.environ, "PATH": path, "SHIPWAY_HOME": str(home)}
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        environment.pop(name, None)

    def command(schedule: "Schedule", run_id: str) -> tuple[str, ...]:
        mlflow = (sys.executable, "-m", "mlflow", "run", str(project.resolve()))
        return (*mlflow, "--env-manager", "local", "--run-id", run_id, *schedule.words())

    with only_one(home / "schedules"):
        loop = Loop(
            schedules,
            _records(place_of(home / "schedules")),
            Children(home / "schedules", project=project.resolve(), environment=environment),
            command=command,
            since=datetime.now(UTC),
            say=typer.echo,
        )
        typer.echo(
            f"{len(schedules)} schedules of {file}; what they say is in {home / 'schedules'}"
        )
        run_loop(loop, clock=lambda: datetime.now(UTC), wait=ended.wait, say=typer.echo)


@app.command(name="list", epilog="Example: shipway schedule list -f schedules.yaml")
def list_(file: File = _DEFAULT_FILE, *, project: Project = _HERE) -> None:
    """Print when each schedule is due next, and what became of it last."""
    from pipelines.schedule.due import next_due

    schedules, records, now = _read(file, project), _records(), datetime.now(UTC)
    for one in schedules:
        history = records.history(one.name)
        at = next_due(one, now).isoformat(timespec="minutes") if one.enabled else "disabled"
        last = history.past.last
        told = (
            "never run"
            if last is None
            else f"{history.outcome} ({last.isoformat(timespec='minutes')})"
        )
        typer.echo(f"{one.name:30} next {at:22}  last {told}")


def _read(file: Path, project: Path) -> "tuple[Schedule, ...]":
    """The schedules of `file`, whose entry points are those of the project.

    Raises:
        BadInput: one of the files cannot be read, or they do not fit.
    """
    from pipelines.declared import read_declared
    from pipelines.schedule.declared import check_entry_points, parse_schedules

    def read(path: Path, option: str) -> str:
        return read_declared(
            path, what=str(path), see=f"docs/schedules.md, and name it with {option}"
        )

    schedules = parse_schedules(read(file, "--file"), where=str(file))
    check_entry_points(schedules, read(project / "MLproject", "--project"), where=str(file))
    return schedules


def _records(place: str = "") -> "Records":
    from pipelines.schedule.records import Records
    from registry.settings import RegistrySettings
    from registry.tracking import Tracking, connect_mlflow

    return Records(Tracking(connect_mlflow(RegistrySettings())), place=place)
