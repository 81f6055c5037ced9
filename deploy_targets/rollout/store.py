"""Where the state of each endpoint is kept: one JSON document, saved by compare-and-set; here in SQLite.

A save names the revision that it was computed from. If somebody saved in between, it fails and nothing is done: that
is what keeps two controllers, or a controller and an operator, from undoing each other's decisions. A revision is the
store's own word, to be handed back and never reckoned with: `in_cluster.state_store` has resourceVersions there.
"""

import json
import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from pydantic import TypeAdapter, ValidationError

from deploy_targets.declared import AS_DUMPED
from deploy_targets.endpoint import Endpoint
from deploy_targets.rollout.state import SCHEMA, EndpointState
from registry.errors import StateConflict, StateUnavailable, StateUnreadable

_DOCUMENT = TypeAdapter(EndpointState)

_OLDEST = 1

_DAMAGED = (
    "The saved state is damaged. Restore the state database, or remove it to adopt what serves."
)

_BUSY_S = 5.0
"""How long a writer waits for another one's transaction; a save takes about a millisecond."""


class Saved(NamedTuple):
    """A state and the revision under which it was read."""

    state: EndpointState
    revision: str


NEVER_SAVED = ""
"""The revision of a state that nobody saved yet."""


class Store(Protocol):
    """Where states are kept by compare-and-set."""

    def load(self, endpoint: str) -> Saved:
        """The state and its revision."""
        ...

    def save(self, state: EndpointState, *, expected: str) -> str:
        """The new revision, or StateConflict."""
        ...


class StateStore(Store, Protocol):
    """One that can be read as a whole, too."""

    def names(self) -> tuple[str, ...]:
        """The endpoints whose states were ever saved."""
        ...

    def states(self) -> tuple[EndpointState, ...]:
        """Their states."""
        ...


class SqliteStore:
    """The store of the local target. Every method raises `StateUnavailable` when the database cannot be used, or is locked for too long."""

    def __init__(self, path: Path) -> None:
        """`path` is made if it is not there; its folder must exist."""
        self._path = path
        with self._open() as connection, connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS endpoint_state "
                "(endpoint TEXT PRIMARY KEY, revision INTEGER NOT NULL, document TEXT NOT NULL)"
            )

    def load(self, endpoint: str) -> Saved:
        """What is known of `endpoint`; an empty state when nothing is.

        Raises:
            StateUnreadable: it was saved by a newer version, or is damaged.
        """
        with self._open() as connection:
            row = connection.execute(
                "SELECT document, revision FROM endpoint_state WHERE endpoint = ?", (endpoint,)
            ).fetchone()
        if row is None:
            return Saved(EndpointState(endpoint=endpoint), NEVER_SAVED)
        return Saved(parse_state(row[0]), str(row[1]))

    def states(self) -> tuple[EndpointState, ...]:
        """The states of all endpoints that were ever saved."""
        with self._open() as connection:
            rows = connection.execute("SELECT document FROM endpoint_state").fetchall()
        return tuple(parse_state(row[0]) for row in rows)

    def names(self) -> tuple[str, ...]:
        """The endpoints whose states were ever saved."""
        with self._open() as connection:
            rows = connection.execute("SELECT endpoint FROM endpoint_state").fetchall()
        return tuple(str(row[0]) for row in rows)

    def save(self, state: EndpointState, *, expected: str) -> str:
        """Saves `state` in the place of revision `expected` and returns its own revision; durable on return.

        Raises:
            StateConflict: the saved revision is another one.
        """
        document = dump_state(state).decode()
        with self._open() as connection, connection:
            if expected == NEVER_SAVED:
                cursor = connection.execute(
                    "INSERT OR IGNORE INTO endpoint_state VALUES (?, 1, ?)",
                    (state.endpoint, document),
                )
            else:
                cursor = connection.execute(
                    "UPDATE endpoint_state SET revision = revision + 1, document = ? "
                    "WHERE endpoint = ? AND revision = ?",
                    (document, state.endpoint, int(expected)),
                )
            if cursor.rowcount != 1:
                raise saved_by_another(state, expected)
        return str(int(expected or 0) + 1)

    @contextmanager
    def _open(self) -> Generator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self._path, timeout=_BUSY_S)) as connection:
                yield connection
        except sqlite3.OperationalError as error:
            message = f"The state database {self._path.name} cannot be used ({error}). See what else has it open, then try again."
            raise StateUnavailable(message) from error


def saved_by_another(state: EndpointState, expected: str) -> StateConflict:
    """Why a save from the revision `expected` came too late."""
    since = (
        "is there already" if expected == NEVER_SAVED else f"is no longer at revision {expected}"
    )
    message = f"The state of endpoint {state.endpoint} {since}: somebody else saved it. Read it again and decide again."
    return StateConflict(message)


def dump_state(state: EndpointState) -> bytes:
    """The document that `parse_state` reads."""
    return _DOCUMENT.dump_json(state)


def parse_state(text: str | bytes) -> EndpointState:
    """The state that a saved document spells, whichever version of Shipway from schema 1 on saved it.

    Raises:
        StateUnreadable: a newer schema, or damaged.
    """
    try:
        document = json.loads(text)
        schema = document["schema"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StateUnreadable(_DAMAGED) from error
    if schema not in range(_OLDEST, SCHEMA + 1):
        message = (
            f"The saved state has schema {schema!r}; this version of Shipway reads schemas {_OLDEST} to {SCHEMA}. "
            "Run the version that wrote it."
        )
        raise StateUnreadable(message)
    try:
        return _DOCUMENT.validate_json(
            json.dumps(migrated(document), allow_nan=False), context=AS_DUMPED
        )
    except ValidationError as error:
        message = (
            f"{_DAMAGED} {error.error_count()} fields do not fit, first {error.errors()[0]['loc']}."
        )
        raise StateUnreadable(message) from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise StateUnreadable(_DAMAGED) from error


def migrated(document: dict[str, Any]) -> dict[str, Any]:
    """A saved document in today's schema; what stands in it already is left as it is.

    Schema 1 had the evidence of one metric, by another test: a rollout under way is judged anew. Schema 2 knew only the
    one release that served before. Schema 3 had no experiments, and would forget one. A declaration that is no longer
    valid is dropped: today's is used in its place.
    """
    schema, rollout = document["schema"], document.get("rollout")
    if schema <= 2:  # noqa: PLR2004 - the number of a schema
        previous = document.get("previous")
        document = {**document, "served": [] if previous is None else [previous]}
    ended = [
        {**one, "rollout": _readable(one["rollout"], schema)}
        for one in document.get("unreported") or ()
    ]
    document = _without_old_declaration({**document, "unreported": ended, "schema": SCHEMA})
    return {**document, "rollout": None if rollout is None else _readable(rollout, schema)}


def _readable(rollout: dict[str, Any], schema: int) -> dict[str, Any]:
    if schema == _OLDEST:
        rollout = {key: value for key, value in rollout.items() if key != "evidence"}
    return _without_old_declaration(rollout)


def _without_old_declaration(document: dict[str, Any]) -> dict[str, Any]:
    try:
        if document.get("declared") is not None:
            Endpoint.model_validate(document["declared"], context=AS_DUMPED)
    except ValidationError:
        return {key: value for key, value in document.items() if key != "declared"}
    return document
