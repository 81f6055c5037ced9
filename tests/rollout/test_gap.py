"""What is missing is asked for again by every look, and nothing is taken away from under its users."""

from dataclasses import replace
from datetime import timedelta

import pytest

from deploy_targets.rollout.gap import close_gap
from deploy_targets.rollout.state import Action, ApplyRevision, RetireRevision, ShiftTraffic
from deploy_targets.routing.traffic import Traffic
from deploy_targets.target import Observed, Readiness, Revision
from tests.builders import NOON, a_release, a_state, an_endpoint


def seen(traffic: Traffic, **readiness: Readiness) -> Observed:
    revisions = {
        name.removeprefix("v"): Revision(version=name.removeprefix("v"), readiness=ready)
        for name, ready in readiness.items()
    }
    return Observed(revisions=revisions, traffic=traffic)


def gap(observed: Observed, **state: object) -> tuple[Action, ...]:
    wanted = replace(a_state("6"), **state)
    return close_gap(an_endpoint(), wanted, observed=observed, facts=None, now=NOON)


@pytest.mark.parametrize("readiness", [None, Readiness.FAILED])
def test_what_serves_is_applied_again_when_it_is_gone_or_given_up(
    readiness: Readiness | None,
) -> None:
    there = {} if readiness is None else {"v6": readiness}
    assert gap(seen(Traffic.all_to("6"), **there)) == (ApplyRevision(release=a_release("6")),)


@pytest.mark.parametrize("readiness", [Readiness.STARTING, Readiness.READY])
def test_what_is_there_or_on_its_way_is_left_alone(readiness: Readiness) -> None:
    assert gap(seen(Traffic.all_to("6"), v6=readiness)) == ()


def test_what_still_has_traffic_is_not_retired_in_the_look_that_shifts_it() -> None:
    idle = {"7": NOON - timedelta(hours=1)}
    both = {"v6": Readiness.READY, "v7": Readiness.READY}

    first = gap(seen(Traffic.split("6", "7", 5), **both), idle_since=idle)
    then = gap(seen(Traffic.all_to("6"), **both), idle_since=idle)

    assert first == (ShiftTraffic(traffic=Traffic.all_to("6")),)
    assert then == (RetireRevision(version="7"),)
