"""`shipway keys create|list|revoke`: the keys that an endpoint's guard lets in. Mounted by the CLI.

They work on a file of hashes: that of the local stack's endpoint, or one that becomes a Secret. The guard reads it again
when it has changed. A key itself is told once, when it is made, and kept nowhere.
"""

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy_targets.command_line import AsJson, Name, say
from registry.errors import BadInput, NotFound

if TYPE_CHECKING:
    from deploy_targets.guard.access_control import KeyList

keys_app = typer.Typer(help="The API keys of an endpoint's guard.", no_args_is_help=True)
KeyName = Annotated[str, typer.Argument(metavar="NAME", help="For whom or what the key is.")]
KeysFile = Annotated[
    Path | None,
    typer.Option(
        "--keys-file", help="A file of hashes; that of the local stack's endpoint by default."
    ),
]


@keys_app.command(epilog="Example: shipway keys create chat anna --requests-per-minute 60")
def create(  # noqa: PLR0913 - each is a flag of its own
    endpoint: Name,
    name: KeyName,
    keys_file: KeysFile = None,
    *,
    operator: Annotated[
        bool, typer.Option("--operator", help="May also choose the version that answers.")
    ] = False,
    opens: Annotated[
        list[str] | None, typer.Option(help="An endpoint that it opens; all by default.")
    ] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="Its own limit.")] = None,
    concurrent_requests: Annotated[int | None, typer.Option(min=1, help="Its own limit.")] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(min=1, help="Its own limit.")] = None,
    micros_per_day: Annotated[
        int | None, typer.Option(min=1, help="Its budget, in millionths of the currency.")
    ] = None,
) -> None:
    """Make a key of 256 random bits and print it, this once."""
    from pydantic import ValidationError

    from deploy_targets.guard.access_control import Key, KeyList, hash_of

    limits = {
        "requests_per_minute": requests_per_minute,
        "concurrent_requests": concurrent_requests,
        "tokens_per_minute": tokens_per_minute,
        "micros_per_day": micros_per_day,
    }
    made = f"sk-shipway-{secrets.token_urlsafe(32)}"
    fields: dict[str, Any] = {
        "name": name,
        "sha256": hash_of(made),
        "endpoints": opens or None,
        "limits": {limit: value for limit, value in limits.items() if value is not None},
        "role": "operator" if operator else "user",
    }
    try:
        key = Key.model_validate(fields)
    except ValidationError as error:
        message = f"{name!r} is no name for a key: letters, digits and any of _ . @ - in at most 64 characters."
        raise BadInput(message) from error
    path = _path(endpoint, keys_file)
    known = _read(path) if path.exists() else KeyList(keys=())
    _save(path, _edited(lambda: known.with_key(key)))
    typer.echo(made)


@keys_app.command("list", epilog="Example: shipway keys list chat")
def list_keys(endpoint: Name, keys_file: KeysFile = None, *, as_json: AsJson = False) -> None:
    """List the keys: their names, roles, endpoints and limits."""
    known = _read(_path(endpoint, keys_file))
    if as_json:
        typer.echo(known.model_dump_json(indent=1, exclude={"keys": {"__all__": {"sha256"}}}))
        return
    for key in known.keys:
        limits = key.limits.model_dump(exclude_none=True)
        told = ", ".join(f"{limit} {value}" for limit, value in limits.items())
        opened = "all endpoints" if key.endpoints is None else ", ".join(key.endpoints)
        say(f"{key.name:24} {key.role:8} {opened}{'; ' if told else ''}{told}")


@keys_app.command(epilog="Example: shipway keys revoke chat anna")
def revoke(endpoint: Name, name: KeyName, keys_file: KeysFile = None) -> None:
    """Take a key out. The guard lets it in no more with the next request."""
    path = _path(endpoint, keys_file)
    known = _read(path)
    _save(path, _edited(lambda: known.without(name)))
    say(f"{name} is revoked.")


def _path(endpoint: str, keys_file: Path | None) -> Path:
    if keys_file is not None:
        return keys_file
    from deploy_targets.local.home import Home, HomeSettings
    from deploy_targets.local.parts import KEYS_FILE
    from deploy_targets.local.stack import load_stack

    home = Home(HomeSettings().home)
    info = load_stack(home)
    if info is None or f"{endpoint}.guard" not in info.ports:
        message = f"The local stack has no endpoint {endpoint!r}. Run `shipway up`, or name a file with --keys-file."
        raise NotFound(message)
    return home.endpoint(endpoint) / KEYS_FILE


def _read(path: Path) -> "KeyList":
    from deploy_targets.guard.access_control import parse_key_list
    from deploy_targets.guard.errors import KeyFileInvalid

    try:
        return parse_key_list(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, KeyFileInvalid) as error:
        message = f"{path} cannot be read as a file of keys ({error})."
        raise BadInput(message) from error


def _edited(edit: Callable[[], "KeyList"]) -> "KeyList":
    from deploy_targets.guard.errors import KeyFileInvalid

    try:
        return edit()
    except KeyFileInvalid as error:
        message = f"Nothing is changed: {error}."
        raise BadInput(message) from error


def _save(path: Path, keys: "KeyList") -> None:
    from deploy_targets.local.home import write_private

    try:
        write_private(path, keys.document())
    except OSError as error:
        message = f"{path} cannot be written ({error.strerror})."
        raise BadInput(message) from error
