"""What a rollout does next, one look at a time. Whole rollouts are in test_controller."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from deploy_targets.endpoint import Endpoint
from deploy_targets.rollout.admission import Inspection
from deploy_targets.rollout.audit import changes
from deploy_targets.rollout.plan import MAX_POINTS, Plan, plan
from deploy_targets.rollout.situation import Situation, SmokeResult
from deploy_targets.rollout.state import (
    ApplyRevision,
    Decision,
    EndpointState,
    Evidence,
    NoData,
    Observation,
    Override,
    Phase,
    RetireRevision,
    ShiftTraffic,
)
from deploy_targets.routing.traffic import Traffic
from deploy_targets.target import Observed, Readiness, Revision
from registry.events import Event
from registry.promotion import RegistryFacts
from tests.builders import (
    NOON,
    a_release,
    a_shadowed_endpoint,
    a_state,
    a_version,
    an_endpoint,
    an_exposed_rollout,
    an_observation,
)

GAP = NoData(reason="the guard is away")
BOTH_WELL = an_observation(v6=(95, 0), v7=(5, 0))


def a_revision(version: str, **changes: Any) -> Revision:
    return Revision(**{"version": version, "readiness": Readiness.READY, **changes})


def seen(*revisions: Revision, **weights: int) -> Observed:
    """`seen(a_revision("6"), v6=100)`."""
    return Observed(
        revisions={revision.version: revision for revision in revisions},
        traffic=Traffic(weights={name.removeprefix("v"): w for name, w in weights.items()}),
    )


BOTH = seen(a_revision("6"), a_revision("7"), v6=95, v7=5)


def asked(challenger: str | None = "7", champion: str | None = "6") -> RegistryFacts:
    aliases = {"champion": champion, "challenger": challenger}
    named = {alias: version for alias, version in aliases.items() if version}
    return RegistryFacts(
        model="smollm2", aliases=named, versions={v: a_version(v) for v in named.values()}
    )


def look(
    state: EndpointState,
    *,
    endpoint: Endpoint | None = None,
    after_s: float = 10,
    observed: Observed = BOTH,
    facts: RegistryFacts | None = None,
    observation: Observation | NoData = BOTH_WELL,
    smoke: SmokeResult | None = None,
    is_mlflow_away: bool = False,
    is_removed: bool = False,
) -> Plan:
    """One look; unless `facts` are given, MLflow says what the state says."""
    if facts is None and not is_mlflow_away:
        rollout = state.rollout
        challenger = None if rollout is None else rollout.challenger.version
        facts = asked(challenger, None if state.serving is None else state.serving.version)
    named = (
        None if facts is None else facts.aliases.get("challenger", facts.aliases.get("champion"))
    )
    situation = Situation(
        now=NOON + timedelta(seconds=after_s),
        observed=observed,
        facts=facts,
        observation=observation,
        smoke=smoke,
        inspection=None if named is None else Inspection(version=named),
        is_removed=is_removed,
    )
    return plan(endpoint or an_endpoint(), state, situation)


def stepping(**changes: Any) -> EndpointState:
    return replace(a_state(), rollout=an_exposed_rollout(**changes))


def step_after(planned: Plan) -> int:
    assert planned.state.rollout is not None
    return planned.state.rollout.step


def outcome(planned: Plan) -> str:
    (ended,) = planned.state.unreported
    return ended.outcome.value


@pytest.mark.parametrize(
    ("dwell_s", "requests", "after_s", "observation", "moves"),
    [
        (60, 0, 59, BOTH_WELL, False),
        (60, 0, 60, BOTH_WELL, True),
        (0, 6, 60, BOTH_WELL, False),
        (0, 5, 60, BOTH_WELL, True),
        (0, 0, 60, GAP, False),
        (0, 0, 60, an_observation(v6=(95, 0)), False),
        (0, 0, 60, an_observation(v6=(95, 0), v7=(0, 0)), False),
    ],
)
def test_a_step_is_left_after_its_time_and_its_requests_and_never_without_data(
    dwell_s: float, requests: int, after_s: float, observation: Observation | NoData, *, moves: bool
) -> None:
    steps = [{"weight": 5, "dwell_s": dwell_s, "requests": requests}, {"weight": 50, "dwell_s": 0}]
    planned = look(
        stepping(), endpoint=an_endpoint(steps=steps), after_s=after_s, observation=observation
    )
    assert step_after(planned) == int(moves)


def test_a_step_whose_requests_were_seen_still_waits_out_a_gap() -> None:
    assert step_after(look(stepping(step_requests=1_000), observation=GAP)) == 0


def test_enough_requests_promote_only_after_the_last_step_has_dwelt() -> None:
    steps = [{"weight": 5, "dwell_s": 0}, {"weight": 50, "dwell_s": 100}]
    endpoint = an_endpoint(steps=steps, promote={"by": "exposure", "requests": 5})
    state = look(stepping(), endpoint=endpoint).state
    assert state.rollout is not None
    assert state.rollout.verdict.decision is Decision.PROMOTE
    assert (state.rollout.phase, state.rollout.step) == (Phase.STEPPING, 1)
    half = seen(a_revision("6"), a_revision("7"), v6=50, v7=50)
    for after_s in (20, 119):  # its weights are seen at 20
        state = look(state, endpoint=endpoint, observed=half, after_s=after_s).state
        assert state.rollout is not None
        assert state.rollout.phase is Phase.STEPPING
    promoted = look(state, endpoint=endpoint, observed=half, after_s=120)
    assert promoted.state.rollout is not None
    assert promoted.state.rollout.phase is Phase.COMPLETING
    assert ShiftTraffic(traffic=Traffic.all_to("7")) in promoted.actions


def test_a_step_begins_only_once_its_weights_are_seen() -> None:
    """Where somebody else applies them they may come minutes later, and until then other weights are measured."""
    steps = [{"weight": 5, "dwell_s": 0}, {"weight": 50, "dwell_s": 0}]
    endpoint = an_endpoint(steps=steps, settle_s=20, promote={"by": "exposure", "requests": 5})
    state = stepping(step=1, phase_since=NOON)

    late = look(state, endpoint=endpoint, after_s=300)  # still 95 to 5

    assert late.state.rollout is not None
    assert late.state.rollout.step_requests == 0
    assert late.state.rollout.phase is Phase.STEPPING
    assert late.actions[0] == ShiftTraffic(traffic=Traffic(weights={"6": 50, "7": 50}))
    half = seen(a_revision("6"), a_revision("7"), v6=50, v7=50)
    settling = look(late.state, endpoint=endpoint, observed=half, after_s=310).state
    assert settling.rollout is not None
    assert (settling.rollout.seen_since, settling.rollout.step_requests) == (
        NOON + timedelta(seconds=310),
        0,
    )
    settled = look(settling, endpoint=endpoint, observed=half, after_s=330).state
    assert settled.rollout is not None
    assert settled.rollout.step_requests > 0


def test_requests_that_began_under_other_weights_neither_teach_nor_count() -> None:
    endpoint = an_endpoint(settle_s=60, promote={"by": "exposure", "requests": 5})
    settling = look(stepping(), endpoint=endpoint, after_s=59)
    assert settling.state.rollout is not None
    assert settling.state.rollout.evidence == Evidence()
    assert settling.state.rollout.step_requests == 0
    assert step_after(settling) == 0
    assert settling.state.rollout.points, "the charts show them all the same"
    settled = look(settling.state, endpoint=endpoint, after_s=60)
    assert settled.state.rollout is not None
    assert settled.state.rollout.evidence.intervals == 1
    assert step_after(settled) == 1


def test_the_last_step_without_enough_requests_holds() -> None:
    planned = look(stepping(step=2))
    assert planned.state.rollout is not None
    assert planned.state.rollout.phase is Phase.STEPPING


@pytest.mark.parametrize(("policy", "ends"), [("roll_back", True), ("wait", False)])
def test_too_few_requests_at_the_time_limit_are_answered_by_the_policy(
    policy: str, *, ends: bool
) -> None:
    endpoint = an_endpoint(on_inconclusive=policy, time_limit_s=100)
    assert look(stepping(), endpoint=endpoint, after_s=99).state.rollout is not None
    planned = look(stepping(), endpoint=endpoint, after_s=100)
    assert (planned.state.rollout is None) is ends
    if ends:
        assert outcome(planned) == "rolled_back"
        assert "inconclusive" in planned.state.rejected["7"]
    else:
        assert step_after(planned) == 0


def test_a_step_that_cannot_be_finished_ends_at_the_time_limit_too() -> None:
    """Enough evidence in all, but the metrics went away for good."""
    state = stepping(evidence=Evidence(challenger=an_observation(v7=(500, 0)).increments["7"]))
    endpoint = an_endpoint(time_limit_s=100)
    assert look(state, endpoint=endpoint, after_s=99, observation=GAP).state.rollout is not None
    planned = look(state, endpoint=endpoint, after_s=100, observation=GAP)
    assert outcome(planned) == "rolled_back"


def a_first_release(**changes: Any) -> EndpointState:
    rollout = an_exposed_rollout(champion=None, **changes)
    return replace(a_state(None), rollout=rollout)


def test_a_first_release_is_champion_once_smoke_tested() -> None:
    planned = look(a_first_release(), observation=GAP, observed=seen(a_revision("7")))
    assert planned.state.rollout is not None
    assert planned.state.rollout.phase is Phase.COMPLETING
    assert planned.actions[0] == ShiftTraffic(traffic=Traffic.all_to("7"))


@pytest.mark.parametrize(
    ("errors", "ends"), [(0, "completing"), (1, "completing"), (8, "rolled_back")]
)
def test_a_first_release_with_requests_to_answer_is_held_to_absolute_limits(
    errors: int, ends: str
) -> None:
    endpoint = an_endpoint(first_release_requests=20)
    alone = seen(a_revision("7"), v7=100)
    held = look(
        a_first_release(), endpoint=endpoint, observed=alone, observation=an_observation(v7=(10, 0))
    )
    assert held.state.rollout is not None
    assert held.state.rollout.phase is Phase.STEPPING
    planned = look(
        held.state,
        endpoint=endpoint,
        observed=alone,
        observation=an_observation(v7=(10, errors)),
    )
    if ends == "completing":
        assert planned.state.rollout is not None
        assert planned.state.rollout.phase is Phase.COMPLETING
    else:
        assert outcome(planned) == ends
        assert planned.actions[0] == ShiftTraffic(traffic=Traffic())


def a_warming(**changes: Any) -> EndpointState:
    return stepping(**{"phase": Phase.WARMING, "exposed_since": None, **changes})


WARM = seen(a_revision("6"), a_revision("7"), v6=100)


def test_a_smoke_test_of_another_version_says_nothing_about_this_one() -> None:
    """v8 was asked for while v7 was being asked its smoke prompts."""
    for passed in (True, False):
        smoke = SmokeResult(version="8", passed=passed, reason="status 500")
        planned = look(a_warming(), observed=WARM, smoke=smoke)
        assert planned.state.rollout is not None
        assert planned.state.rollout.phase is Phase.WARMING
        assert not planned.state.unreported


def test_a_ready_revision_that_passed_its_smoke_test_gets_the_first_weight() -> None:
    smoke = SmokeResult(version="7", passed=True, reason="it answered")
    planned = look(a_warming(), observed=WARM, smoke=smoke)
    assert planned.actions[0] == ShiftTraffic(traffic=Traffic(weights={"6": 95, "7": 5}))


def test_a_restart_under_traffic_is_a_setback_however_well_it_answers() -> None:
    observed = seen(a_revision("6"), a_revision("7", restarts=1), v6=95, v7=5)
    planned = look(stepping(evidence=Evidence(intervals=4)), observed=observed)
    assert planned.state.rollout is not None
    assert (planned.state.rollout.phase, planned.state.rollout.setbacks) == (Phase.WARMING, 1)
    assert planned.state.rollout.evidence.intervals == 5
    assert planned.actions[0] == ShiftTraffic(traffic=Traffic.all_to("6"))


@pytest.mark.parametrize("phase", [Phase.STEPPING, Phase.COMPLETING])
def test_one_setback_too_many_is_a_rollback(phase: Phase) -> None:
    gone = seen(a_revision("6"), v6=95, v7=5)
    planned = look(stepping(phase=phase, setbacks=2), observed=gone)
    assert outcome(planned) == "rolled_back"
    assert "3 times: it is gone" in planned.state.rejected["7"]


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("facts", [None, asked()])
def test_an_operator_ends_a_rollout_in_any_phase_with_or_without_mlflow(
    phase: Phase, facts: RegistryFacts | None
) -> None:
    state = replace(stepping(phase=phase), override=Override(to=None, reason="operator: stop"))
    planned = look(state, facts=facts)
    assert (planned.state.rollout, planned.state.override) == (None, None)
    assert outcome(planned) == "rolled_back"
    assert planned.actions[0] == ShiftTraffic(traffic=Traffic.all_to("6"))
    assert "operator: stop" in planned.state.rejected["7"]


@pytest.mark.parametrize("phase", list(Phase))
def test_going_back_waits_for_the_old_version_on_what_serves(phase: Phase) -> None:
    override = Override(to=a_release("5"), reason="operator: back")
    planned = look(replace(stepping(phase=phase), override=override))
    assert planned.actions[:2] == (
        ShiftTraffic(traffic=Traffic.all_to("6")),
        ApplyRevision(release=a_release("5")),
    )
    ready = seen(a_revision("5"), a_revision("6"), v6=100)
    assert look(planned.state, observed=ready).actions[0] == ShiftTraffic(
        traffic=Traffic.all_to("5")
    )
    moved = look(planned.state, observed=seen(a_revision("5"), a_revision("6"), v5=100)).state
    assert (moved.serving, moved.previous, moved.override) == (
        a_release("5"),
        None,
        None,
    ), "what was gone back from is not gone back to"


def test_going_to_the_challenger_itself_makes_it_serve_and_forgets_that_it_was_turned_down() -> (
    None
):
    override = Override(to=a_release("7"), reason="operator: now")
    state = look(replace(stepping(), override=override)).state
    moved = look(state, observed=seen(a_revision("6"), a_revision("7"), v7=100)).state
    assert moved.serving == a_release("7")
    assert "7" not in moved.rejected


@pytest.mark.parametrize(
    ("revision", "after_s", "why"),
    [
        (a_revision("5", readiness=Readiness.STARTING), 911, "not ready within 900 s"),
        (a_revision("5", readiness=Readiness.FAILED, reason="out of memory"), 20, "out of memory"),
    ],
)
def test_going_back_to_what_does_not_come_up_is_given_up_and_said(
    revision: Revision, after_s: float, why: str
) -> None:
    override = Override(to=a_release("5"), reason="operator: back")
    waiting = look(
        replace(a_state(), override=override),
        observed=seen(a_revision("6"), a_revision("5", readiness=Readiness.STARTING), v6=100),
    ).state
    assert waiting.override is not None
    observed = seen(a_revision("6"), revision, v6=100)
    planned = look(waiting, observed=observed, after_s=after_s)
    assert (planned.state.override, planned.state.serving) == (None, a_release("6"))
    assert why in planned.state.serving_reason
    assert planned.state.idle_since.keys() == {"5"}


def test_a_champion_moved_by_hand_while_going_back_is_kept_as_a_request() -> None:
    override = Override(to=a_release("5"), reason="operator: back")
    planned = look(
        replace(a_state(), override=override), facts=asked(challenger=None, champion="8")
    )
    moves = [
        (action.alias, action.version) for action in planned.actions if hasattr(action, "alias")
    ]
    assert moves == [("challenger", "8"), ("champion", "6")]


@pytest.mark.promise("traffic stays where it is")
def test_a_lost_state_takes_over_what_the_champion_serves_and_moves_no_traffic() -> None:
    blank = EndpointState(endpoint="chat")
    serving = seen(a_revision("6"), v6=100)
    planned = look(blank, observed=serving, facts=asked(challenger=None))
    assert planned.state.serving == a_release("6")
    assert planned.state.rollout is None
    assert not [a for a in planned.actions if isinstance(a, ShiftTraffic | RetireRevision)]


def test_a_lost_state_touches_nothing_while_mlflow_is_away() -> None:
    blank = EndpointState(endpoint="chat")
    served = seen(a_revision("6"), v6=100)
    planned = look(blank, observed=served, after_s=10_000, is_mlflow_away=True)
    assert planned == Plan(state=blank, actions=())


def test_a_version_deleted_under_its_rollout_is_withdrawn() -> None:
    """MLflow takes the alias of a deleted version away."""
    planned = look(stepping(), facts=asked(challenger=None))
    assert outcome(planned) == "withdrawn"
    assert planned.actions[0] == ShiftTraffic(traffic=Traffic.all_to("6"))


def test_an_alias_that_names_what_serves_withdraws_the_rollout_and_is_removed() -> None:
    planned = look(stepping(), facts=asked(challenger="6"))
    assert outcome(planned) == "withdrawn"
    assert [a.version for a in planned.actions if hasattr(a, "alias")] == [None]


def test_asking_again_at_once_starts_another_rollout() -> None:
    first = look(a_state(), facts=asked()).state.rollout
    second = look(a_state(), facts=asked(), after_s=10.2).state.rollout
    assert first is not None
    assert second is not None
    assert first.id != second.id


def test_a_policy_with_fewer_steps_than_before_goes_on_at_its_last() -> None:
    endpoint = an_endpoint(steps=[{"weight": 10, "dwell_s": 0}])
    planned = look(stepping(step=2), endpoint=endpoint)
    assert planned.state.rollout is not None
    assert ShiftTraffic(traffic=Traffic(weights={"6": 90, "7": 10})) in planned.actions


@pytest.mark.promise("waits begin anew, none gets longer by the jump", about="clocks")
def test_a_clock_that_was_set_back_does_not_stretch_the_waits() -> None:
    endpoint = an_endpoint(steps=[{"weight": 5, "dwell_s": 60}, {"weight": 50, "dwell_s": 0}])
    back = look(stepping(), endpoint=endpoint, after_s=-86_400).state
    assert step_after(look(back, endpoint=endpoint, after_s=-86_400 + 59)) == 0
    assert step_after(look(back, endpoint=endpoint, after_s=-86_400 + 60)) == 1


def test_a_revision_drains_from_when_its_traffic_left_not_from_when_its_role_did() -> None:
    endpoint = an_endpoint(drain_s=30)
    stuck = look(a_state(), endpoint=endpoint, after_s=0).state
    assert stuck.idle_since == {}
    left = look(stuck, endpoint=endpoint, observed=WARM, after_s=100)
    assert not [a for a in left.actions if isinstance(a, RetireRevision)]
    drained = look(left.state, endpoint=endpoint, observed=WARM, after_s=130)
    assert RetireRevision(version="7") in drained.actions


def test_thinning_the_points_loses_no_count() -> None:
    state = stepping()
    endpoint = an_endpoint(steps=[{"weight": 5, "dwell_s": 9_000}])
    looks = MAX_POINTS + 300
    for tick in range(looks):
        state = look(state, endpoint=endpoint, after_s=tick).state
    assert state.rollout is not None
    points = state.rollout.points
    assert len(points) <= MAX_POINTS
    assert sum(point.challenger.requests for point in points) == 5 * looks
    assert sum(point.champion.requests for point in points) == 95 * looks
    assert [point.index for point in points] == sorted({point.index for point in points})
    assert points[-1].index == looks - 1


def test_weights_that_somebody_else_set_are_taken_back_and_told_once() -> None:
    theirs = replace(
        seen(a_revision("6"), a_revision("7"), v6=50, v7=50), disturbance="kubectl did"
    )
    planned = look(stepping(), observed=theirs)
    assert planned.state.disturbance == "kubectl did"
    assert planned.actions[0] == ShiftTraffic(traffic=Traffic(weights={"6": 95, "7": 5}))
    assert Event.WEIGHTS_DISTURBED in dict(changes(stepping(), planned.state))
    again = look(planned.state, observed=theirs, after_s=20)
    assert Event.WEIGHTS_DISTURBED not in dict(changes(planned.state, again.state))
    assert (
        look(again.state, observed=replace(theirs, disturbance=""), after_s=30).state.disturbance
        == ""
    )


def test_a_challenger_that_does_harm_under_weights_that_somebody_keeps_setting_is_rolled_back() -> (
    None
):
    theirs = replace(
        seen(a_revision("6"), a_revision("7"), v6=50, v7=50), disturbance="kubectl did"
    )
    endpoint, state = an_endpoint(settle_s=60), stepping()
    harm = an_observation(v6=(50, 0), v7=(50, 25))
    for after_s in range(10, 200, 10):
        state = look(
            state, endpoint=endpoint, observed=theirs, observation=harm, after_s=after_s
        ).state
        if state.rollout is None:
            break
    assert [ended.outcome.value for ended in state.unreported] == ["rolled_back"]


def test_a_state_that_was_lost_takes_what_has_all_the_traffic_for_serving() -> None:
    facts = asked(challenger="7", champion="6")
    planned = look(
        EndpointState(endpoint="chat"),
        facts=facts,
        observed=seen(a_revision("6"), a_revision("7"), v7=100),
    )
    assert planned.state.serving == a_release("7")
    assert not [action for action in planned.actions if isinstance(action, ShiftTraffic)]


def test_a_state_that_was_lost_touches_nothing_where_it_cannot_tell_what_should_serve() -> None:
    observed = seen(a_revision("6"), v6=100)
    planned = look(
        EndpointState(endpoint="chat"),
        facts=asked(challenger="8", champion=None),
        observed=observed,
    )
    assert planned.actions == ()
    assert planned.state.rollout is None
    assert "Set the alias champion" in planned.state.serving_reason
    mended = look(planned.state, facts=asked(challenger=None, champion="6"), observed=observed)
    assert mended.state.serving == a_release("6")


def test_while_the_model_itself_is_gone_nothing_was_seen_withdrawn() -> None:
    state = replace(a_state(), rejected={"7": "rolled back: it failed"})
    gone = look(state, facts=RegistryFacts(model="smollm2", is_gone=True)).state
    assert gone.rejected == state.rejected
    again = look(gone, facts=asked("7")).state
    assert again.rollout is None


def test_an_endpoint_is_remembered_as_declared_until_nothing_is_to_be_done_for_it() -> None:
    ended = look(stepping(), is_removed=True).state
    told = replace(ended, unreported=())
    assert told.declared == an_endpoint()
    on = look(told, observed=BOTH, is_removed=True)
    assert on.actions[0] == ShiftTraffic(traffic=Traffic.all_to("6"))
    assert on.state.declared == an_endpoint()
    rest = look(replace(on.state, idle_since={}), observed=seen(a_revision("6"), v6=100)).state
    assert rest.declared is None


SHADOW_FIRST = [{"weight": 0, "dwell_s": 60, "requests": 20}, {"weight": 50, "dwell_s": 0}]
ONLY_CHAMPION = seen(a_revision("6"), a_revision("7"), v6=100)


def mirrored(requests: int) -> Observation:
    return replace(an_observation(v6=(95, 0)), mirrored={"7": requests})


@pytest.mark.parametrize(
    ("after_s", "observation", "moves"),
    [
        (60, mirrored(20), True),
        (59, mirrored(20), False),
        (60, mirrored(19), False),
        (60, GAP, False),
        (60, an_observation(v6=(95, 0)), False),
    ],
)
def test_a_first_step_at_weight_0_is_left_after_its_time_and_its_mirrored_requests(
    after_s: float, observation: Observation | NoData, *, moves: bool
) -> None:
    endpoint = a_shadowed_endpoint(steps=SHADOW_FIRST)
    planned = look(
        stepping(seen_weights={"6": 100}),
        endpoint=endpoint,
        observed=ONLY_CHAMPION,
        after_s=after_s,
        observation=observation,
    )
    assert step_after(planned) == int(moves)
    shifts = [one for one in planned.actions if isinstance(one, ShiftTraffic)]
    wanted = Traffic(weights={"6": 50, "7": 50})
    assert shifts == ([ShiftTraffic(traffic=wanted)] if moves else [])


def test_mirrored_requests_count_for_nothing_above_weight_0() -> None:
    steps = [{"weight": 5, "dwell_s": 0, "requests": 20}, {"weight": 50, "dwell_s": 0}]
    observation = replace(BOTH_WELL, mirrored={"7": 1_000})
    planned = look(stepping(), endpoint=an_endpoint(steps=steps), observation=observation)
    assert step_after(planned) == 0
    assert planned.state.rollout is not None
    assert planned.state.rollout.evidence.challenger.requests == 5
