"""Where an endpoint stands, in words."""

import json
from dataclasses import replace
from typing import Any

import pytest

from deploy_targets.rollout.state import EndpointState, Override, Phase
from deploy_targets.rollout.status import summarise
from deploy_targets.routing.traffic import Traffic
from deploy_targets.target import Observed, Readiness, Revision
from tests.builders import a_release, a_state, an_endpoint, an_exposed_rollout

SEEN = Observed(
    revisions={
        "6": Revision(version="6", readiness=Readiness.READY),
        "7": Revision(version="7", readiness=Readiness.FAILED, reason="out of memory"),
    },
    traffic=Traffic(weights={"6": 95, "7": 5}),
)


def stepping(**changes: Any) -> EndpointState:
    return replace(a_state(), rollout=an_exposed_rollout(**changes))


@pytest.mark.parametrize(
    ("phase", "step", "weight"),
    [
        (Phase.WARMING, 0, 0),
        (Phase.STEPPING, 1, 25),
        (Phase.STEPPING, 9, 50),
        (Phase.COMPLETING, 2, 100),
    ],
)
def test_a_rollout_says_its_phase_and_weight(phase: Phase, step: int, weight: int) -> None:
    status = summarise(an_endpoint(), stepping(phase=phase, step=step), SEEN)
    assert (status.challenger, status.phase, status.weight) == ("7", phase.value, weight)
    assert f"  v7 is {phase.value} at {weight} %" in status.lines()


def test_for_people_it_names_who_serves_the_shares_and_what_is_wrong() -> None:
    state = replace(stepping(), rejected={"5": "rolled back: 31 errors"})
    assert summarise(an_endpoint(), state, SEEN).lines() == (
        "chat: smollm2 v6 serves",
        "  v7 is stepping at 5 %",
        "  nothing has been measured yet",
        "  traffic: v6 95 %, v7 5 %",
        "  v6: ready",
        "  v7: failed (out of memory)",
        "  v5 turned down: rolled back: 31 errors",
    )


def test_a_target_that_does_not_answer_is_said_not_shown_as_no_traffic() -> None:
    status = summarise(an_endpoint(), a_state(), None)
    assert status.traffic is None
    assert "  traffic: the target does not answer" in status.lines()
    assert "  traffic: none" in summarise(an_endpoint(), a_state(None), Observed()).lines()


def test_an_operators_rollback_shows_until_it_is_carried_out() -> None:
    state = replace(a_state(), override=Override(to=a_release("5"), reason="operator"))
    assert summarise(an_endpoint(), state, SEEN).phase == "going back"
    assert summarise(an_endpoint(), a_state(), SEEN).phase == "idle"


def test_it_can_be_printed_as_json() -> None:
    told = json.loads(json.dumps(summarise(an_endpoint(), stepping(), SEEN).to_json()))
    assert told["traffic"] == {"6": 95, "7": 5}
