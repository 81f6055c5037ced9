"""What was decided, from which inputs, and what was done: a hash-chained line for each look that decided or learned.

A line is one JSON object. It names the hash of the line before, so that nobody can take one out, put one in or change
one unseen. It is saved with the state that it led to, in one and the same write, and is written out to S3 and MLflow
afterwards: no decision is without its line, and none is lost with the process. The inputs are all that `plan` saw, so the
decision can be made again from the lines alone (`replay`). The state is told where a run of lines begins, and wherever
it is not the one that the line before led to: an operator, or an act of our own, has changed it in between.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol

from pydantic import TypeAdapter

from deploy_targets.endpoint import Endpoint
from deploy_targets.rollout.plan import Plan
from deploy_targets.rollout.situation import Situation
from deploy_targets.rollout.state import Action, AuditTail, EndpointState
from registry.errors import IntegrityError
from registry.events import Event

MAX_QUIET_BYTES = 200_000
"""Of lines that wait to be written out, beyond which a look that only learned is no longer told, but counted."""
MAX_PENDING_BYTES = 1_000_000
"""Beyond this nothing is told any more, but counted: a state that could not be saved would stop the rollout itself."""

Changes = tuple[tuple[Event, Mapping[str, Any]], ...]
"""What happened between two states, as events with their fields."""

_SITUATION = TypeAdapter(Situation)
_STATE = TypeAdapter(EndpointState)
_ACTIONS: TypeAdapter[tuple[Action, ...]] = TypeAdapter(tuple[Action, ...])


class Trail(Protocol):
    """Where the audit record is written out."""

    def append(self, lines: tuple[str, ...]) -> None:
        """Keeps them, or raises a ShipwayError. What is there already may come again."""
        ...

    def copy(self, lines: tuple[str, ...]) -> None:
        """Copies kept lines to where people look, or raises a ShipwayError. What is there already may come again."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line, read back."""

    chain: str
    """The time of its first line: when the state is lost, another chain begins."""
    number: int
    """From 1 on, in its chain."""
    at: datetime
    endpoint: str
    rollout: str | None
    """The one that was under way, before or after."""
    code: str
    """The version of Shipway that decided."""
    events: tuple[Mapping[str, Any], ...]
    """What happened, each with its fields; nothing where something was only learned."""
    actions: tuple[str, ...]
    """What was to be done, in words and in this order."""
    decision: str
    """The verdict of the rollout under way; empty without one."""
    missed: int
    """Looks before this line for which there was no room."""
    previous: str
    """The hash of the line before; empty for the first of a chain."""
    after: str
    """The digest of the state that it led to."""
    hash: str
    document: Mapping[str, Any]
    """All of it."""


def with_record(
    endpoint: Endpoint,
    before: EndpointState,
    planned: Plan,
    situation: Situation,
    *,
    happened: Changes,
    code: str,
) -> Plan:
    """The plan whose state holds a line about this look; the same plan where nothing was decided or learned.

    `happened` are the `changes` between the two states.

    An act that is asked for again and again, because its platform does not do it, is told once.
    """
    tail = before.audit
    events, actions, decision = told_of(planned, happened)
    is_decided = bool(events) or actions != tail.actions
    if planned.state == before and not is_decided:
        return planned
    was, now = _digest(before), _digest(planned.state)
    if was == now and not is_decided:
        return planned
    chain = tail.chain or f"{situation.now:%Y%m%dT%H%M%S.%f}"
    document: dict[str, Any] = {
        "chain": chain,
        "number": tail.length + 1,
        "at": situation.now.isoformat(),
        "endpoint": endpoint.name,
        "rollout": _rollout_of(planned.state) or _rollout_of(before),
        "code": code,
        "events": events,
        "actions": actions,
        "decision": decision,
        "missed": tail.missed,
        "after": now,
        "previous": tail.hash,
    }
    begins = _rollout_of(before) != _rollout_of(planned.state)
    inputs = _SITUATION.dump_python(situation, mode="json")
    facts, declared = _hash(inputs["facts"]), _hash(endpoint.model_dump(mode="json"))
    if facts == tail.facts and not begins:
        del inputs["facts"]
    document["inputs"] = inputs
    if declared != tail.declared or begins:
        document["declared"] = endpoint.model_dump(mode="json")
    if was != tail.after or begins:
        document["before"] = _told(before)
    line = _canonical(document)
    room = MAX_PENDING_BYTES if events or actions else MAX_QUIET_BYTES
    if tail.pending and sum(map(len, (*tail.pending, line))) > room:
        # The state that the next line builds on is not told: it tells it itself. What was told of the registry and the
        # declaration still holds, unless the missing line is the one with which a rollout's own story begins.
        tail = replace(tail, missed=tail.missed + 1, after="")
        if begins:
            tail = replace(tail, facts="", declared="")
        return replace(planned, state=replace(planned.state, audit=tail))
    tail = AuditTail(
        chain=chain,
        length=tail.length + 1,
        hash=_hash(document),
        after=now,
        facts=facts,
        declared=declared,
        actions=actions,
        pending=(*tail.pending, line),
        kept=tail.kept,
    )
    return replace(planned, state=replace(planned.state, audit=tail))


def told_of(
    planned: Plan, happened: Changes
) -> tuple[tuple[Mapping[str, Any], ...], tuple[str, ...], str]:
    """What a line tells of a plan: the events with their fields, the actions in words, the verdict."""
    rollout = planned.state.rollout
    return (
        tuple({"event": event.value, **fields} for event, fields in happened),
        _words(planned.actions),
        "" if rollout is None else rollout.verdict.decision.value,
    )


def is_worth_writing(state: EndpointState, *, batch: int) -> bool:
    """Whether the pending lines should be written out now: something was decided, or as many as `batch` are not in S3."""
    if not state.audit.pending:
        return False
    fresh = not_kept(state.audit)
    if not state.is_measured or len(fresh) >= batch:
        return True
    return any(json.loads(line)["events"] for line in fresh[-2:])


def not_kept(tail: AuditTail) -> tuple[str, ...]:
    """The pending lines that S3 does not have yet."""
    return tail.pending[max(0, tail.kept - (tail.length - len(tail.pending))) :]


def with_all_kept(state: EndpointState) -> EndpointState:
    """The state once S3 has all of its lines."""
    return replace(state, audit=replace(state.audit, kept=state.audit.length))


def with_all_written(state: EndpointState) -> EndpointState:
    """The state once S3 and MLflow have all of its lines."""
    return replace(state, audit=replace(state.audit, pending=()))


def read_chain(
    lines: Iterable[str], *, endpoint: str, tail: AuditTail | None, grown_to: int = 0
) -> tuple[Entry, ...]:
    """The lines as entries, chain by chain and in order; one that is there twice counts once.

    `tail` is the end of the record as the saved state knew it before the lines were read; without it an end that was cut
    off is not noticed. `grown_to` is the length that the state knew afterwards: a controller may write meanwhile.

    Raises:
        IntegrityError: a line was changed, is missing, or is of another endpoint: which one is named.
    """
    chains: defaultdict[str, dict[int, Entry]] = defaultdict(dict)
    for line in (*lines, *(() if tail is None else tail.pending)):
        entry = _entry_of(line, endpoint)
        if chains[entry.chain].setdefault(entry.number, entry).hash != entry.hash:
            message = f"The audit record of {endpoint} tells its line {entry.number} in two ways. Somebody changed one of them."
            raise IntegrityError(message)
    for chain in chains.values():
        _check_chain(chain, endpoint)
    if tail is not None and tail.length:
        kept = chains[tail.chain]
        known = kept.get(tail.length)
        if known is None or known.hash != tail.hash or len(kept) > max(tail.length, grown_to):
            message = (
                f"The audit record of {endpoint} ends at line {len(kept)}, but the saved state knows {tail.length} lines, "
                "or another last one. Its end was cut off, changed or added to."
            )
            raise IntegrityError(message)
    return tuple(chains[name][number] for name in sorted(chains) for number in sorted(chains[name]))


def _check_chain(chain: Mapping[int, Entry], endpoint: str) -> None:
    previous = ""
    for number in range(1, len(chain) + 1):
        entry = chain.get(number)
        if entry is None:
            message = f"The audit record of {endpoint} lacks its line {number}. Somebody took it out, or S3 lost it."
            raise IntegrityError(message)
        if entry.previous != previous:
            message = f"The audit record of {endpoint} does not hold together before its line {number}: it, or the one before, was changed."
            raise IntegrityError(message)
        previous = entry.hash


def changes(before: EndpointState, after: EndpointState) -> Changes:
    """What happened between two states, as events with their fields."""
    events: list[tuple[Event, Mapping[str, Any]]] = []
    for version, reason in after.rejected.items():
        if reason.startswith("refused") and version not in before.rejected:
            events.append((Event.PROMOTION_REFUSED, {"version": version, "reason": reason}))
    events += [
        (
            Event(f"rollout.{ended.outcome}"),
            {"rollout": ended.rollout.id, "reason": ended.reason},
        )
        for ended in after.unreported
        if ended not in before.unreported
    ]
    if before.override is not None and after.override is None:
        events.append((Event.OVERRIDE_APPLIED, {"reason": before.override.reason}))
    events += _changes_of_experiments(before, after)
    if after.disturbance and after.disturbance != before.disturbance:
        events.append((Event.WEIGHTS_DISTURBED, {"reason": after.disturbance}))
    old, new = before.rollout, after.rollout
    if new is None:
        return tuple(events)
    fields = {"rollout": new.id, "phase": new.phase.value, "step": new.step}
    if old is None or old.id != new.id:
        events.append((Event.ROLLOUT_STARTED, fields))
    elif old.waiting != new.waiting:
        event = Event.ROLLOUT_WAITS if new.waiting else Event.ROLLOUT_GOES_ON
        events.append((event, {**fields, "reason": new.waiting or old.waiting}))
    elif new.setbacks > old.setbacks:
        events.append((Event.ROLLOUT_SET_BACK, {**fields, "reason": new.verdict.reason}))
    elif (old.phase, old.step) != (new.phase, new.step):
        events.append((Event.ROLLOUT_STEP_ADVANCED, {**fields, "verdict": new.verdict.reason}))
    return tuple(events)


def _changes_of_experiments(before: EndpointState, after: EndpointState) -> Changes:
    known = {one.id for one in before.past_experiments}
    events: list[tuple[Event, Mapping[str, Any]]] = [
        (
            Event.EXPERIMENT_ENDED,
            {"experiment": one.id, "outcome": str(one.outcome), "reason": one.reason},
        )
        for one in after.past_experiments
        if one.id not in known
    ]
    old, new = before.experiment, after.experiment
    if new is not None and (old is None or old.phase is not new.phase):
        fields = {"experiment": new.id, "phase": new.phase.value}
        events.append((Event.EXPERIMENT_STARTED, fields))
    return tuple(events)


def _words(actions: Iterable[Action]) -> tuple[str, ...]:
    """Each action as JSON with its own name."""
    told = _ACTIONS.dump_python(tuple(actions), mode="json")
    named = zip(actions, told, strict=True)
    return tuple(f"{type(action).__name__} {_canonical(fields)}" for action, fields in named)


def _entry_of(line: str, endpoint: str) -> Entry:
    try:
        document = json.loads(line)
        entry = Entry(
            chain=str(document["chain"]),
            number=int(document["number"]),
            at=datetime.fromisoformat(document["at"]),
            endpoint=document["endpoint"],
            rollout=document["rollout"],
            code=document["code"],
            events=tuple(document["events"]),
            actions=tuple(document["actions"]),
            decision=document["decision"],
            missed=int(document["missed"]),
            previous=document["previous"],
            after=document["after"],
            hash=_hash(document),
            document=document,
        )
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        message = f"The audit record of {endpoint} holds a line that is none ({line[:80]!r}). Somebody changed it."
        raise IntegrityError(message) from error
    if entry.endpoint != endpoint:
        message = f"The audit record of {endpoint} holds a line of another endpoint, {entry.endpoint!r}. Somebody changed it."
        raise IntegrityError(message)
    return entry


def _rollout_of(state: EndpointState) -> str | None:
    return None if state.rollout is None else state.rollout.id


def _told(state: EndpointState) -> Any:
    """All of the state that the next decision can depend on: no chart, no counters' last reading, nothing to report."""
    rollout = state.rollout
    if rollout is not None:
        rollout = replace(rollout, points=())
    told = replace(
        state,
        rollout=rollout,
        scrape=None,
        unreported=(),
        past_experiments=(),
        audit=AuditTail(),
    )
    return _STATE.dump_python(told, mode="json")


def _digest(state: EndpointState) -> str:
    return _hash(_told(state))


def _canonical(document: Any) -> str:
    return json.dumps(document, sort_keys=True, separators=(",", ":"))


def _hash(document: Any) -> str:
    return hashlib.sha256(_canonical(document).encode()).hexdigest()
