"""`shipway endpoints`: the endpoint file by itself, without any server. Mounted by the CLI."""

import json
from pathlib import Path
from typing import Annotated

import typer

endpoints_app = typer.Typer(help="The endpoint file.", no_args_is_help=True)

File = Annotated[Path, typer.Option("--file", "-f", help="The endpoint file.", show_default=True)]
DEFAULT_FILE = Path("endpoints.yaml")


@endpoints_app.command(epilog="Example: shipway endpoints validate -f endpoints.yaml")
def validate(file: File = DEFAULT_FILE) -> None:
    """Check the endpoint file; every fault is named with its place."""
    from deploy_targets.control_plane import read_endpoint_file

    declared = read_endpoint_file(file)
    names = ", ".join(endpoint.name for endpoint in declared.endpoints)
    typer.echo(f"{file} is valid: {names}.")


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
