"""What keeps a rollout from going on, and what it never keeps from: going back."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from deploy_targets.rollout.pause import exposed_s, with_waiting, word_against
from deploy_targets.rollout.state import (
    EndpointState,
    Hold,
    NoData,
    Observation,
    Phase,
    ShiftTraffic,
)
from deploy_targets.rollout_policy import RolloutPolicy
from deploy_targets.routing.traffic import Traffic
from tests.builders import NOON, an_endpoint, an_exposed_rollout, an_observation
from tests.rollout.test_controller import World, serving, world  # noqa: F401
from tests.rollout.test_plan import BOTH, BOTH_WELL, Plan, look, outcome, step_after, stepping

HELD = Hold(reason="the fair is on", by="ada")
OUTAGE = NoData(reason="the guard is away", is_outage=True)
SEEN = {"observation": BOTH_WELL}


def waiting_of(planned: Plan) -> str:
    assert planned.state.rollout is not None
    return planned.state.rollout.waiting


@pytest.mark.parametrize(
    ("state", "seen", "said"),
    [
        (replace(stepping(), hold=HELD), SEEN, "held by ada: the fair is on"),
        (stepping(), {"observation": OUTAGE}, "no metrics: the guard is away"),
        (stepping(), {**SEEN, "is_mlflow_away": True}, "MLflow does not answer"),
    ],
)
def test_no_step_is_taken_while_something_keeps_it(
    state: EndpointState, seen: dict[str, Observation], said: str
) -> None:
    planned = look(state, after_s=600, **seen)  # type: ignore[arg-type]
    assert step_after(planned) == 0
    assert waiting_of(planned) == said
    assert not [action for action in planned.actions if isinstance(action, ShiftTraffic)]


def test_a_step_is_taken_as_soon_as_nothing_keeps_it_any_more() -> None:
    held = look(replace(stepping(), hold=HELD), after_s=600).state
    planned = look(replace(held, hold=None), after_s=610)
    assert step_after(planned) == 1
    assert waiting_of(planned) == ""


@pytest.mark.parametrize("hold", [HELD, None])
def test_a_challenger_that_does_harm_is_rolled_back_held_or_not(hold: Hold | None) -> None:
    harm = an_observation(v6=(900, 0), v7=(100, 60))
    planned = look(replace(stepping(), hold=hold), observation=harm)
    assert outcome(planned) == "rolled_back"
    assert planned.actions[0] == ShiftTraffic(traffic=Traffic.all_to("6"))


def test_the_time_that_was_waited_is_not_held_against_it() -> None:
    endpoint = an_endpoint(time_limit_s=1_000, steps=[{"weight": 5, "requests": 10_000}])
    state = replace(stepping(), hold=HELD)
    for after_s in range(10, 5_000, 500):
        state = look(state, endpoint=endpoint, after_s=after_s).state
    assert state.rollout is not None
    planned = look(replace(state, hold=None), endpoint=endpoint, after_s=5_000)
    assert not planned.state.unreported
    assert outcome(look(planned.state, endpoint=endpoint, after_s=5_990)) == "rolled_back"


def test_the_exposure_stands_still_while_it_waits() -> None:
    rollout = an_exposed_rollout()
    held = with_waiting(rollout, "held", NOON + timedelta(seconds=100))
    assert exposed_s(held, NOON + timedelta(seconds=900)) == 100
    going = with_waiting(held, "", NOON + timedelta(seconds=900))
    assert exposed_s(going, NOON + timedelta(seconds=950)) == 150


@pytest.mark.promise("nobody is served by what nobody watches")
@pytest.mark.parametrize("eyes", ["metrics", "MLflow"])
def test_a_challenger_that_cannot_be_watched_for_too_long_gives_its_traffic_back(eyes: str) -> None:
    endpoint = an_endpoint(blind_limit_s=300)
    seen = {"observation": OUTAGE} if eyes == "metrics" else {"is_mlflow_away": True}
    state = look(stepping(), endpoint=endpoint, after_s=10, **seen).state  # type: ignore[arg-type]
    state = look(state, endpoint=endpoint, after_s=309, **seen).state  # type: ignore[arg-type]
    assert state.rollout is not None
    planned = look(state, endpoint=endpoint, after_s=310, **seen)  # type: ignore[arg-type]
    assert outcome(planned) == "rolled_back"
    assert planned.state.unreported[0].reason.startswith("for 300 s it could not be watched: ")
    assert planned.actions[0] == ShiftTraffic(traffic=Traffic.all_to("6"))


def test_a_look_in_between_begins_the_blind_time_anew() -> None:
    endpoint = an_endpoint(blind_limit_s=300)
    state = look(stepping(), endpoint=endpoint, after_s=10, observation=OUTAGE).state
    state = look(replace(state, hold=HELD), endpoint=endpoint, after_s=200).state
    planned = look(state, endpoint=endpoint, after_s=320, observation=OUTAGE)
    assert planned.state.rollout is not None


def test_a_first_release_has_nobody_to_give_its_traffic_back_to() -> None:
    state = replace(stepping(champion=None), serving=None, settled_champion=None)
    for after_s in (10, 10_000):
        state = look(state, after_s=after_s, observation=OUTAGE).state
    assert state.rollout is not None


def test_a_promotion_that_its_platform_does_not_carry_out_ends_with_the_champion() -> None:
    state = stepping(phase=Phase.COMPLETING)
    endpoint = an_endpoint(complete_limit_s=100)
    state = look(state, endpoint=endpoint, observed=BOTH, after_s=99).state
    assert state.rollout is not None
    planned = look(state, endpoint=endpoint, observed=BOTH, after_s=100)
    assert outcome(planned) == "rolled_back"
    assert planned.actions[0] == ShiftTraffic(traffic=Traffic.all_to("6"))


def test_an_endpoint_that_is_no_longer_declared_is_brought_back_to_its_champion() -> None:
    planned = look(stepping(), is_removed=True)
    assert outcome(planned) == "withdrawn"
    assert planned.actions[0] == ShiftTraffic(traffic=Traffic.all_to("6"))


def test_a_policy_that_is_changed_in_mid_rollout_is_the_next_ones() -> None:
    began = an_endpoint(steps=[{"weight": 10, "dwell_s": 1_000}, {"weight": 40, "dwell_s": 0}])
    state = stepping(declared=began)
    planned = look(state, endpoint=an_endpoint(), after_s=500)
    assert step_after(planned) == 0
    assert planned.actions[0] == ShiftTraffic(traffic=Traffic(weights={"6": 90, "7": 10}))


BERLIN_NIGHT = {"days": ["fri"], "start": "16:00", "zone": "Europe/Berlin"}


@pytest.mark.parametrize(
    ("window", "at", "frozen"),
    [
        (BERLIN_NIGHT, "2026-11-27T14:59:59", False),
        (BERLIN_NIGHT, "2026-11-27T15:00:00", True),
        (BERLIN_NIGHT, "2026-11-27T22:59:59", True),
        (BERLIN_NIGHT, "2026-11-27T23:00:00", False),
        # Summer time: Berlin is two hours ahead.
        (BERLIN_NIGHT, "2026-07-03T14:00:00", True),
        (BERLIN_NIGHT, "2026-07-03T13:59:00", False),
        ({"days": ["sat", "sun"]}, "2026-11-28T00:00:00", True),
        ({"days": ["sat"], "start": "08:00", "end": "09:00"}, "2026-11-28T09:00:00", False),
        (
            {"start": "2026-12-20T00:00:00+01:00", "end": "2027-01-02T00:00:00Z"},
            "2026-12-19T23:00:00",
            True,
        ),
        (
            {"start": "2026-12-20T00:00:00+01:00", "end": "2027-01-02T00:00:00Z"},
            "2027-01-02T00:00:00",
            False,
        ),
    ],
)
def test_a_freeze_window_is_open_from_its_start_until_just_before_its_end(
    window: dict[str, object], at: str, *, frozen: bool
) -> None:
    policy = an_endpoint(freeze=[window]).rollout
    now = datetime.fromisoformat(at).replace(tzinfo=UTC)
    assert bool(word_against(None, policy, now)) is frozen


@pytest.mark.parametrize(
    ("window", "said"),
    [
        ({"days": ["fri"], "zone": "Mars/Olympus"}, "no time zone"),
        ({"days": ["fri"], "start": "22:00", "end": "06:00"}, "over midnight give two"),
        ({"days": []}, "at least 1"),
        ({"start": "2026-12-20T00:00:00", "end": "2026-12-21T00:00:00"}, "timezone"),
        ({"start": "2026-12-22T00:00:00Z", "end": "2026-12-21T00:00:00Z"}, "swap start and end"),
    ],
)
def test_a_window_that_cannot_be_meant_is_refused(window: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        RolloutPolicy.model_validate({"freeze": [window]})


# Whole rollouts, through the controller


@pytest.fixture
def held(serving: World) -> World:  # noqa: F811 - the fixture
    saved = serving.store.load("chat")
    serving.store.save(replace(saved.state, hold=HELD), expected=saved.revision)
    return serving


def test_a_held_endpoint_makes_a_challenger_ready_and_gives_it_nothing(held: World) -> None:
    held.registry.aliases["challenger"] = "7"
    held.target.shifts.clear()
    held.tick(20)
    assert held.state.rollout is not None
    assert held.state.rollout.phase is Phase.WARMING
    assert "7" in held.target.revisions
    assert held.target.shifts == []
    saved = held.store.load("chat")
    held.store.save(replace(saved.state, hold=None), expected=saved.revision)
    held.tick(30)
    assert held.registry.aliases == {"champion": "7"}


def test_a_held_challenger_is_not_asked_again_and_again(held: World) -> None:
    held.registry.aliases["challenger"] = "7"
    held.smoke.failing.add("7")
    held.tick(20)
    assert held.state.rollout is not None


def test_every_release_that_served_is_remembered_once_the_latest_last(serving: World) -> None:  # noqa: F811
    for version in ("7", "8", "7"):
        serving.release(version)
    assert [release.version for release in serving.state.served] == ["6", "8"]


def test_a_hold_longer_than_the_time_to_get_ready_turns_nothing_down(held: World) -> None:
    held.registry.aliases["challenger"] = "7"
    held.tick(3)
    held.clock.advance(100_000)
    held.tick(3)
    assert held.state.rollout is not None
    saved = held.store.load("chat")
    held.store.save(replace(saved.state, hold=None), expected=saved.revision)
    held.smoke.is_away = True
    held.tick(2)
    assert held.state.rollout is not None
    held.smoke.is_away = False
    held.tick(30)
    assert held.registry.aliases == {"champion": "7"}


def test_a_hold_stops_a_promotion_that_was_not_carried_out_yet() -> None:
    state = replace(stepping(phase=Phase.COMPLETING), hold=HELD)
    planned = look(state, observed=BOTH, endpoint=an_endpoint(steps=[{"weight": 5}]))
    assert not [action for action in planned.actions if isinstance(action, ShiftTraffic)]


def test_a_window_is_given_in_the_clocks_time_of_its_zone() -> None:
    window = {"days": ["fri"], "start": "01:00+02:00"}
    with pytest.raises(ValidationError, match="without an offset"):
        RolloutPolicy.model_validate({"freeze": [window]})
