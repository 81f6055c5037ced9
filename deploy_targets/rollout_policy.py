"""How traffic moves from a champion to a challenger, as a user declares it: the endpoint file's `rollout`.

The rules of the verdict itself are `judge_policy`'s, of which this is more.
"""

from datetime import datetime, time
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AwareDatetime, Field, field_validator, model_validator

from deploy_targets import metrics
from deploy_targets.declared import Declared
from deploy_targets.judge_policy import JudgePolicy

Seconds = Annotated[float, Field(ge=0)]
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
_DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MAX_JUDGED_WEIGHT = 50
"""Beyond it the champion, which is the control, would have the smaller share."""


class Once(Declared):
    """One stretch of time."""

    start: AwareDatetime
    """With its offset from UTC, like 2026-12-20T00:00:00+01:00."""
    end: AwareDatetime
    """The first moment that is not in it."""

    @model_validator(mode="after")
    def _is_a_stretch(self) -> Self:
        if self.start >= self.end:
            message = "the window ends before it starts; swap start and end"
            raise ValueError(message)
        return self

    def contains(self, now: datetime) -> bool:
        """Whether `now` is in it."""
        return self.start <= now < self.end


class Weekly(Declared):
    """The same hours of some days, every week."""

    days: Annotated[tuple[Day, ...], Field(min_length=1)]
    """Of the week."""
    start: time = time(0)
    """The clock's time in the zone, like 16:00."""
    end: time | None = None
    """The first moment that is not in it; the end of the day by default."""
    zone: str = "UTC"
    """An IANA time zone, like Europe/Berlin."""

    @field_validator("zone")
    @classmethod
    def _is_known(cls, zone: str) -> str:
        try:
            ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError) as error:
            message = f"{zone!r} is no time zone that is known here; give one like Europe/Berlin"
            raise ValueError(message) from error
        return zone

    @model_validator(mode="after")
    def _is_a_stretch(self) -> Self:
        if self.start.tzinfo or (self.end is not None and self.end.tzinfo):
            message = "start and end are the clock's time in the zone; give them without an offset, and name the zone"
            raise ValueError(message)
        if self.end is not None and self.start >= self.end:
            message = (
                "the window ends before it starts; for one over midnight give two, one for each day"
            )
            raise ValueError(message)
        return self

    def contains(self, now: datetime) -> bool:
        """Whether `now` is in it."""
        there = now.astimezone(ZoneInfo(self.zone))
        is_before_end = self.end is None or there.time() < self.end
        return _DAYS[there.weekday()] in self.days and self.start <= there.time() and is_before_end


class Step(Declared):
    """One canary weight, and what must pass at it before the next."""

    weight: Annotated[int, Field(ge=0, le=100)]
    """The challenger's share of requests, in percent. The first may be 0: nobody gets its answers yet, and `guard.shadow`
    asks it what clients ask."""
    dwell_s: Seconds = 60
    """Time to spend at this step, at the least."""
    requests: Annotated[int, Field(ge=0)] = 0
    """Challenger requests to see at this step; at weight 0, mirrored ones."""


class RolloutPolicy(JudgePolicy):
    """How traffic moves from the champion to a challenger."""

    steps: Annotated[tuple[Step, ...], Field(min_length=1)] = (
        Step(weight=5, dwell_s=300),
        Step(weight=25, dwell_s=300),
        Step(weight=50, dwell_s=300),
    )
    first_release_requests: Annotated[int, Field(ge=0)] = 0
    """Requests that a first release must answer within its limits; with 0 it is champion once smoke-tested."""
    warm_limit_s: Annotated[float, Field(gt=0)] = 900
    """How long a revision may take to become ready and answer the smoke test."""
    smoke_prompts: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "What is the capital of France?",
    )
    """What a revision must answer before it gets any traffic."""
    max_setbacks: Annotated[int, Field(ge=0)] = 2
    """How often a challenger may stop being ready under traffic, and warm up anew, before it is rolled back."""
    settle_s: Seconds = 60
    """For so long after each change of weights nothing is learned: the requests that end then began under other weights,
    the quick ones of the version that got more first. At least as long as an answer takes."""
    complete_limit_s: Annotated[float, Field(gt=0)] = 600
    """How long the platform may take to move all requests once the challenger is promoted; past it the champion stays."""
    blind_limit_s: Annotated[float, Field(gt=0)] = 900
    """A challenger with traffic waits at its weight while the metrics or MLflow cannot be read, and past this time its
    requests go back to the champion."""
    drain_s: Seconds = 30
    """How long a revision without traffic is kept for its last answers."""
    freeze: tuple[Once | Weekly, ...] = ()
    """Times at which no more requests are moved to a challenger. Rolling back is never frozen."""

    @model_validator(mode="after")
    def _steps_can_be_walked(self) -> Self:
        weights = [step.weight for step in self.steps]
        if weights != sorted(set(weights)):
            message = f"step weights must rise, not {weights}"
            raise ValueError(message)
        if weights[-1] == 0:
            message = "no step gives the challenger any requests; add one with a weight above 0"
            raise ValueError(message)
        if weights[-1] > _MAX_JUDGED_WEIGHT:
            message = (
                f"the last step is judged against the champion, so it may take at most 50 percent, not {weights[-1]}; "
                "100 follows by itself on promotion"
            )
            raise ValueError(message)
        dwell_s = sum(max(step.dwell_s, self.settle_s) for step in self.steps)
        if dwell_s >= self.time_limit_s:
            message = (
                f"the steps dwell, or settle, for {dwell_s:g} s, but time_limit_s is {self.time_limit_s:g}, so no rollout "
                "could ever end well; dwell for less or raise time_limit_s"
            )
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _can_be_measured(self) -> Self:
        limits = [metric.limit for metric in self.metrics.given().values()]
        if self.first_release_requests and not any(limits):
            message = "first_release_requests needs a metric to judge by; give one a limit"
            raise ValueError(message)
        for name, metric in self.metrics.timed().items():
            bounds = metrics.BOUNDS[name]
            if metric.slo_s not in bounds:
                message = (
                    f"metrics.{name}.slo_s is {metric.slo_s:g}, but the guard counts requests up to "
                    f"{', '.join(f'{bound:g}' for bound in bounds)} s; choose one of these"
                )
                raise ValueError(message)
        return self

    def is_frozen(self, now: datetime) -> bool:
        """Whether `now` is in one of the windows."""
        return any(window.contains(now) for window in self.freeze)
