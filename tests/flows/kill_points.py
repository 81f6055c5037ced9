"""The points at which the crash test kills the controller: before and after each call by which it changes the world.

A point's name says the call and what it was about, as `what_is_done` puts it. v1 serves, v2 is the good challenger, v3 the bad one.
"""

import json
from collections.abc import Mapping
from itertools import product
from typing import assert_never

from deploy_targets.rollout.state import EndpointState, Phase
from deploy_targets.routing.traffic import Traffic
from registry.promotion import MoveAlias, RegistryChange, TagVersion, TransitionStage
from registry.release import STATUS_TAG, Release

_PROMOTED = (
    "save: warming",
    "apply: v2",
    "record: under way",
    "append: under way",
    "save: stepping 1",
    "shift: v1 75, v2 25",
    "save: stepping 2",
    "shift: v1 50, v2 50",
    "save: completing",
    "shift: v2 100",
    "save: promoted",
    "write: challenger is nobody",
    "write: champion is v2",
    "write: v2 is promoted",
    "record: promoted",
    "append: promoted",
    "save: at rest",
    "retire: v1",
)
_ROLLED_BACK = (
    "save: warming",
    "apply: v3",
    "save: stepping 1",
    "shift: v2 75, v3 25",
    "save: rolled_back",
    "shift: v2 100",
    "write: v3 is turned_down",
    "write: challenger is nobody",
    "record: rolled_back",
    "append: rolled_back",
    "save: at rest",
    "retire: v3",
)


def _both_sides(calls: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{when} {call}" for call, when in product(calls, ("before", "after")))


PROMOTED = _both_sides(_PROMOTED)
"""Of a rollout that is promoted."""
ROLLED_BACK = _both_sides(_ROLLED_BACK)
"""Of one that is rolled back by its numbers."""
GIVEN_BACK = "after shift: v2 100"
"""Of the latter: from here on no user may meet v3."""


def what_is_done(call: str, *arguments: object, **_: object) -> str:
    """The call and what it is about, in words."""
    match arguments[-1]:
        case EndpointState() as state:
            about = _of_state(state) if call == "save" else _in_short(state)
        case Traffic(weights=weights):
            about = _of_weights(weights)
        case Release(version=version) | str(version):
            about = f"v{version}"
        case MoveAlias() | TagVersion() | TransitionStage() as change:
            about = _of_change(change)
        case tuple() as lines:
            about = _of_lines([str(line) for line in lines])
        case other:
            raise AssertionError(other)
    return f"{call}: {about}"


def _of_state(state: EndpointState) -> str:
    if state.rollout is None:
        return state.unreported[-1].outcome.value if state.unreported else "at rest"
    phase = state.rollout.phase
    return f"{phase} {state.rollout.step + 1}" if phase is Phase.STEPPING else phase.value


def _in_short(state: EndpointState) -> str:
    return "under way" if state.rollout is not None else _of_state(state)


def _of_weights(weights: Mapping[str, int]) -> str:
    return ", ".join(f"v{version} {percent}" for version, percent in sorted(weights.items()))


def _of_change(change: RegistryChange) -> str:
    match change:
        case MoveAlias(alias=alias, version=version):
            return f"{alias} is {'nobody' if version is None else f'v{version}'}"
        case TagVersion(version=version, tags=tags):
            return f"v{version} is {tags.get(STATUS_TAG)}"
        case TransitionStage(version=version, stage=stage):
            return f"v{version} is {stage}"
        case _:
            assert_never(change)


def _of_lines(lines: list[str]) -> str:
    events = {event["event"] for line in lines for event in json.loads(line)["events"]}
    ends = events & {"rollout.promoted", "rollout.rolled_back"}
    return ends.pop().removeprefix("rollout.") if ends else "under way"
