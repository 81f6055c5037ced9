"""Which schedules are to be started, and which runs were missed, going by what was recorded and the time. Pure.

Level-triggered: what counts is the newest time at which a schedule was due, and whether that was dealt with. So one that
was missed while nobody looked is made up for once, within its deadline, however many there were.

Clocks that are put forward or back: a time that the day leaves out is not due, a time that comes twice is due twice. So it
is with Kubernetes.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from croniter import croniter

from pipelines.schedule.declared import Overlap, Schedule

_MOST_PASSED_OVER = 100
"""More are not counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Start `schedule` for the time `at`; `replaces` are the runs to be ended first."""

    schedule: Schedule
    at: datetime
    replaces: tuple[str, ...] = ()
    passed_over: int = 0
    """Times before `at` that were due and are not made up for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Miss:
    """Record that the run for the time `at` did not start, and why."""

    schedule: Schedule
    at: datetime
    reason: str
    passed_over: int = 0


Action = Start | Miss


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What is known of a schedule: the newest time that was dealt with, and the runs that are under way."""

    last: datetime | None = None
    running: tuple[str, ...] = ()


def due(
    schedules: Iterable[Schedule], past: Mapping[str, Past], *, since: datetime, now: datetime
) -> tuple[Action, ...]:
    """What is to be done now, at most one thing for each schedule.

    A schedule of which nothing is recorded is looked at from `since` on: what was due before it existed is not missed.
    """
    actions: list[Action] = []
    for schedule in schedules:
        if not schedule.enabled:
            continue
        known = past.get(schedule.name, Past())
        after = known.last or since
        times = _times_back(schedule, now)
        at = next(times)
        if at <= after:
            continue
        passed_over = 0
        for earlier in times:
            if earlier <= after or passed_over == _MOST_PASSED_OVER:
                break
            passed_over += 1
        is_late = now - at > timedelta(seconds=schedule.starting_deadline_s)
        waits = bool(known.running) and schedule.overlap is Overlap.FORBID
        if is_late:
            earlier_runs = ", ".join(known.running)
            why = (
                f"an earlier run ({earlier_runs}) was still under way"
                if waits
                else "nobody could start it"
            )
            reason = f"{why} within {schedule.starting_deadline_s} s"
            actions.append(Miss(schedule=schedule, at=at, reason=reason, passed_over=passed_over))
        elif not waits:
            replaces = known.running if schedule.overlap is Overlap.REPLACE else ()
            actions.append(
                Start(schedule=schedule, at=at, replaces=replaces, passed_over=passed_over)
            )
    return tuple(actions)


def next_due(schedule: Schedule, now: datetime) -> datetime:
    """The first time after `now` at which it is due, in UTC."""
    walk = croniter(schedule.cron, now.astimezone(ZoneInfo(schedule.time_zone)))
    while True:
        at: datetime = walk.get_next(datetime)
        if _is_told_by(at, schedule):
            return at.astimezone(UTC)


def _times_back(schedule: Schedule, now: datetime) -> Iterator[datetime]:
    """The times at which it was due, from `now` (included) back, in UTC."""
    # One that is due at this very moment counts: croniter looks before its start, and seconds are all that cron knows.
    start = (now + timedelta(seconds=1)).replace(microsecond=0)
    walk = croniter(schedule.cron, start.astimezone(ZoneInfo(schedule.time_zone)))
    while True:
        at: datetime = walk.get_prev(datetime)
        if _is_told_by(at, schedule):
            yield at.astimezone(UTC)


def _is_told_by(at: datetime, schedule: Schedule) -> bool:
    """Whether the cron line itself names that hour and minute: what a day leaves out croniter moves to where it goes on."""
    minutes, hours, *_ = croniter.expand(schedule.cron)[0]
    return all(
        "*" in fields or value in fields
        for fields, value in ((minutes, at.minute), (hours, at.hour))
    )
