"""What is due when: from examples for each rule, and properties that hold whatever happens."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.schedule.declared import Overlap, Schedule
from pipelines.schedule.due import Miss, Past, Start, due, next_due

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def a_schedule(**changes) -> Schedule:
    given = {"name": "s", "cron": "0 * * * *", "entry_point": "release", **changes}
    return Schedule.model_validate(given)


def decide(schedule: Schedule, past: Past = Past(), *, since=NOON - 90 * MINUTE, now=NOON):  # noqa: B008
    actions = due([schedule], {"s": past}, since=since, now=now)
    assert len(actions) <= 1
    return actions[0] if actions else None


def test_it_starts_at_the_very_moment_and_not_before() -> None:
    since = NOON - MINUTE
    assert decide(a_schedule(), since=since, now=NOON - timedelta(microseconds=1)) is None
    assert decide(a_schedule(), since=since) == Start(schedule=a_schedule(), at=NOON)


def test_what_was_dealt_with_is_not_started_again() -> None:
    assert decide(a_schedule(), Past(last=NOON), now=NOON + 59 * MINUTE) is None


def test_what_was_due_before_the_loop_began_is_nobodys_where_nothing_is_recorded() -> None:
    assert decide(a_schedule(), since=NOON + MINUTE, now=NOON + 2 * MINUTE) is None


def test_of_many_that_were_missed_one_is_made_up_for_and_the_others_counted() -> None:
    action = decide(a_schedule(), Past(last=NOON - timedelta(hours=5)), now=NOON + 10 * MINUTE)
    assert action == Start(schedule=a_schedule(), at=NOON, passed_over=4)


def test_after_its_deadline_it_is_missed() -> None:
    schedule = a_schedule(starting_deadline_s=600)
    action = decide(schedule, Past(last=NOON - timedelta(hours=1)), now=NOON + 11 * MINUTE)
    assert isinstance(action, Miss)
    assert (action.at, action.reason) == (NOON, "nobody could start it within 600 s")


def test_a_thousand_missed_runs_are_not_counted_one_by_one() -> None:
    schedule = a_schedule(cron="* * * * *")
    action = decide(schedule, Past(last=NOON - timedelta(days=30)))
    assert isinstance(action, Start)
    assert action.passed_over == 100


def test_forbid_waits_for_the_earlier_one_and_starts_within_the_deadline() -> None:
    schedule = a_schedule(starting_deadline_s=600)
    before = NOON - timedelta(hours=1)
    assert decide(schedule, Past(last=before, running=("r",)), now=NOON + MINUTE) is None
    freed = decide(schedule, Past(last=before), now=NOON + 9 * MINUTE)
    late = decide(schedule, Past(last=before, running=("r",)), now=NOON + 11 * MINUTE)
    assert isinstance(freed, Start)
    assert isinstance(late, Miss)
    assert late.reason == "an earlier run (r) was still under way within 600 s"


def test_replace_ends_the_earlier_ones_and_allow_leaves_them() -> None:
    past = Past(last=NOON - timedelta(hours=1), running=("a", "b"))
    replacing = decide(a_schedule(overlap="replace"), past)
    allowing = decide(a_schedule(overlap="allow"), past)
    assert (replacing.replaces, allowing.replaces) == (("a", "b"), ())


def test_a_schedule_that_is_not_enabled_is_never_due() -> None:
    assert decide(a_schedule(enabled=False)) is None


def times(schedule: Schedule, after: datetime, count: int) -> list[str]:
    found = []
    for _ in range(count):
        after = next_due(schedule, after)
        found.append(after.strftime("%d %H:%M"))
    return found


def test_a_time_that_the_clock_leaves_out_is_not_due_that_day() -> None:
    schedule = a_schedule(cron="30 2 * * *", time_zone="Europe/Berlin")
    start = datetime(2026, 3, 27, 12, tzinfo=UTC)
    assert times(schedule, start, 2) == ["28 01:30", "30 00:30"]
    past = Past(last=datetime(2026, 3, 28, 1, 30, tzinfo=UTC))
    assert decide(schedule, past, now=datetime(2026, 3, 29, 4, tzinfo=UTC)) is None


def test_a_time_that_comes_twice_is_due_twice() -> None:
    schedule = a_schedule(cron="30 2 * * *", time_zone="Europe/Berlin")
    start = datetime(2026, 10, 24, 12, tzinfo=UTC)
    assert times(schedule, start, 3) == ["25 00:30", "25 01:30", "26 01:30"]


def test_every_twenty_minutes_goes_on_as_before_through_both_changes() -> None:
    schedule = a_schedule(cron="*/20 * * * *", time_zone="Europe/Berlin")
    for day in (datetime(2026, 3, 29, tzinfo=UTC), datetime(2026, 10, 25, tzinfo=UTC)):
        at = day
        for _ in range(12):
            assert next_due(schedule, at) - at == timedelta(minutes=20)
            at = next_due(schedule, at)


zones = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"])
crons = st.sampled_from(
    [
        "* * * * *",
        "*/7 * * * *",
        "0 * * * *",
        "30 2 * * *",
        "0 0 1 * *",
        "15 1-3 * * SUN",
        "5 4 1,15 3 MON",
    ]
)
moments = st.datetimes(
    datetime(2025, 1, 1),
    datetime(2027, 12, 31),
    timezones=st.just(UTC),
)


@given(crons, zones, moments, st.sampled_from(Overlap), st.booleans())
def test_what_is_started_was_due_and_is_within_its_deadline(cron, zone, now, overlap, busy) -> None:
    schedule = a_schedule(cron=cron, time_zone=zone, overlap=overlap)
    since = now - timedelta(days=40)
    past = Past(last=None, running=("r",) if busy else ())
    action = decide(schedule, past, since=since, now=now)
    if action is None:
        return
    assert since < action.at <= now
    assert next_due(schedule, action.at - timedelta(seconds=1)) == action.at
    assert next_due(schedule, action.at) > now
    within = now - action.at <= timedelta(hours=1)
    assert within is isinstance(action, Start)
    if isinstance(action, Start) and busy:
        assert overlap is not Overlap.FORBID


@given(crons, zones, moments, st.lists(st.integers(1, 4000), min_size=1, max_size=12))
def test_a_loop_that_looks_at_any_time_starts_nothing_twice(cron, zone, start, waits) -> None:
    schedule = a_schedule(cron=cron, time_zone=zone, overlap="allow")
    past, now, dealt = Past(), start, []
    for wait in waits:
        now += timedelta(seconds=wait)
        while (action := decide(schedule, past, since=start, now=now)) is not None:
            dealt.append(action.at)
            past = Past(last=action.at)
    assert dealt == sorted(set(dealt))


@given(crons, zones, moments)
def test_a_loop_that_looks_often_enough_misses_nothing(cron, zone, start) -> None:
    schedule = a_schedule(cron=cron, time_zone=zone)
    past, started = Past(), []
    for minute in range(90):
        now = start + timedelta(minutes=minute)
        action = decide(schedule, past, since=start, now=now)
        if action is not None:
            started.append((action.at, action.passed_over))
            past = Past(last=action.at)
    expected, at = [], start
    while (at := next_due(schedule, at)) <= start + timedelta(minutes=89):
        expected.append((at, 0))
    assert started == expected


@pytest.mark.promise("nothing is started twice", about="clocks")
@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu"])
def test_the_clock_may_go_back_without_anything_being_started_again(zone) -> None:
    schedule = a_schedule(time_zone=zone)
    assert decide(schedule, Past(last=NOON), now=NOON - timedelta(hours=3)) is None
