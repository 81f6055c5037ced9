"""What would today's code decide? The recorded inputs of a rollout, run through `plan` again. Pure.

The first line in which today's events or acts are others than those recorded is told, and there it ends: from then on the
recorded inputs are those of another story.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from deploy_targets.declared import AS_DUMPED
from deploy_targets.endpoint import Endpoint
from deploy_targets.rollout.audit import Entry, changes, told_of
from deploy_targets.rollout.plan import plan
from deploy_targets.rollout.situation import Situation
from deploy_targets.rollout.store import parse_state
from registry.errors import NotFound

_SITUATION = TypeAdapter(Situation)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Where today's code leaves the recorded story."""

    number: int
    recorded: str
    today: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What came of it."""

    looks: int
    """Lines that were decided again, alike."""
    missed: int
    """Looks that were not recorded, for want of room; the state is told anew after them."""
    difference: Difference | None


def entries_of(entries: Iterable[Entry], rollout: str) -> tuple[Entry, ...]:
    """The lines of one rollout: `rollout` is its id, or all of it before the time, and then the newest is meant.

    The line in which another one superseded it belongs to both.

    Raises:
        NotFound: there is none.
    """
    all_of_them = tuple(entries)
    ids = [entry.rollout for entry in all_of_them if entry.rollout is not None]
    for known in reversed(ids):
        if known == rollout or known.startswith(f"{rollout}-"):
            return tuple(entry for entry in all_of_them if _is_about(entry, known))
    told = ", ".join(dict.fromkeys(ids)) or "none"
    message = f"There is no rollout {rollout!r} in the audit record. It has: {told}."
    raise NotFound(message)


def _is_about(entry: Entry, rollout: str) -> bool:
    return entry.rollout == rollout or any(
        event.get("rollout") == rollout for event in entry.events
    )


def replay(entries: tuple[Entry, ...]) -> Replay:
    """The lines of one rollout, from its first on, decided again."""
    declared, facts, state = None, None, None
    missed = sum(entry.missed for entry in entries)
    for looks, entry in enumerate(entries):
        document = entry.document
        declared = document.get("declared", declared)
        inputs = {"facts": facts, **document["inputs"]}
        facts = inputs["facts"]
        if "before" in document:
            state = parse_state(json.dumps(document["before"]))
        try:
            endpoint = Endpoint.model_validate(declared, context=AS_DUMPED)
            situation = _SITUATION.validate_python(inputs)
        except ValidationError as error:
            today = f"cannot read its inputs: {error.errors()[0]['msg']}"
        else:
            if state is None:
                message = f"Line {entry.number} does not tell the state before it, nor does any line before: the rollout's first lines are missing."
                raise NotFound(message)
            planned = plan(endpoint, state, situation)
            today = _in_words(*told_of(planned, changes(state, planned.state)))
            state = planned.state
        recorded = _in_words(entry.events, entry.actions, entry.decision)
        if today != recorded:
            parted = Difference(number=entry.number, recorded=recorded, today=today)
            return Replay(looks=looks, missed=missed, difference=parted)
    return Replay(looks=len(entries), missed=missed, difference=None)


def story(entries: Iterable[Entry]) -> Iterator[str]:
    """The lines for people: what was seen to happen, which rule decided, what was done."""
    quiet = 0
    for entry in entries:
        if not entry.events and not entry.actions:
            quiet += 1
            continue
        if quiet:
            yield f"            {quiet} looks that decided nothing"
            quiet = 0
        if entry.missed:
            yield f"            {entry.missed} looks that were not recorded: S3 or MLflow was away for too long"
        yield f"{entry.at:%H:%M:%S}  #{entry.number}"
        for event in entry.events:
            fields = ", ".join(f"{key} {value}" for key, value in event.items() if key != "event")
            yield f"    {event['event']}: {fields}"
        for action in entry.actions:
            yield f"    then: {action}"
    if quiet:
        yield f"            {quiet} looks that decided nothing"


def _in_words(events: Iterable[Mapping[str, Any]], actions: Iterable[str], decision: str) -> str:
    happened = [json.dumps(event, sort_keys=True) for event in events]
    return "; ".join([*happened, *actions, f"verdict {decision}" if decision else "no verdict"])
