"""The schedule file: which entry point runs when, with what, and what happens when it cannot. Pure.

What is allowed is what Kubernetes' CronJob and the local loop both understand in the same way.
"""

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import yaml
from croniter import CroniterError, croniter
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pipelines.declared import faults_of, parse_declared
from registry.errors import BadInput
from registry.plain_yaml import load_yaml

MAX_NAME = 52
"""Of a CronJob: the Job that it makes has eleven characters more, and 63 at most."""
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_MONTHS = "JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC"
_DAYS = "SUN MON TUE WED THU FRI SAT"


class Overlap(StrEnum):
    """What happens when a run is due while an earlier one of the same schedule still runs."""

    FORBID = "forbid"
    """It waits, within its deadline."""
    REPLACE = "replace"
    """The earlier one is ended."""
    ALLOW = "allow"
    """Both run."""


class Resources(BaseModel):
    """What a run gets in a cluster."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cpus: Annotated[float, Field(gt=0, le=256)] = 4
    memory_gib: Annotated[float, Field(gt=0, le=4096)] = 16
    gpus: Annotated[int, Field(ge=0, le=64)] = 0
    disk_gib: Annotated[float, Field(gt=0, le=65536)] = 50
    """For the state folder, which ends with the run."""


class Schedule(BaseModel):
    """One of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    """Of the CronJob, and the tag `shipway.schedule` of each run."""
    cron: str
    """Minute, hour, day of the month, month, day of the week."""
    time_zone: str = "UTC"
    """An IANA name, in which `cron` is read."""
    entry_point: str
    """Of the MLproject."""
    parameters: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """As `mlflow run -P` takes them."""
    overlap: Overlap = Overlap.FORBID
    starting_deadline_s: Annotated[int, Field(ge=60, le=604_800)] = 3600
    """A run that could not start within this time is missed."""
    enabled: bool = True
    resources: Resources = Resources()

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name) or len(name) > MAX_NAME:
            message = (
                f"{name!r} must be lower-case letters, digits and dashes, a letter or digit at both ends, "
                f"{MAX_NAME} characters at most"
            )
            raise ValueError(message)
        return name

    @field_validator("cron")
    @classmethod
    def _check_cron(cls, cron: str) -> str:
        return _parse_cron(cron)

    @field_validator("time_zone")
    @classmethod
    def _check_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (KeyError, ValueError, OSError) as error:
            message = f"there is no time zone {name!r}; give one like UTC or Europe/Berlin"
            raise ValueError(message) from error
        return name

    @field_validator("entry_point")
    @classmethod
    def _check_entry_point(cls, name: str) -> str:
        if not _WORD.fullmatch(name):
            message = f"{name!r} is no entry point of an MLproject"
            raise ValueError(message)
        return name

    @field_validator("parameters")
    @classmethod
    def _check_parameters(cls, parameters: dict[str, object]) -> dict[str, object]:
        wrong = [name for name in parameters if not _WORD.fullmatch(name)]
        if wrong:
            message = f"{', '.join(map(repr, wrong))} cannot name a parameter"
            raise ValueError(message)
        return parameters

    def words(self) -> tuple[str, ...]:
        """What comes after `mlflow run .`: the entry point and its parameters, in the order of the file."""
        given = ((name, _spelled(value)) for name, value in self.parameters.items())
        return ("-e", self.entry_point, *(w for n, v in given for w in ("-P", f"{n}={v}")))


class ScheduleFile(BaseModel):
    """All of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schedules: Annotated[tuple[Schedule, ...], Field(min_length=1)]

    @field_validator("schedules")
    @classmethod
    def _check_names(cls, schedules: tuple[Schedule, ...]) -> tuple[Schedule, ...]:
        names = [schedule.name for schedule in schedules]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            message = f"{', '.join(twice)} is declared twice"
            raise ValueError(message)
        return schedules


def experiment_of(schedule: str) -> str:
    """The name of its experiment in MLflow, here and in a cluster."""
    return f"shipway/schedules/{schedule}"


def parse_schedules(text: str, *, where: str) -> tuple[Schedule, ...]:
    """The schedules that the YAML `text` declares; `where` is what the user calls it.

    Raises:
        BadInput: it cannot be used; every fault is named with its place.
    """
    try:
        return ScheduleFile.model_validate(load_yaml(text)).schedules
    except yaml.YAMLError as error:
        message = f"{where} is not YAML ({error})."
        raise BadInput(message) from error
    except ValidationError as error:
        told = (fault.replace(": Value error, ", ": ", 1) for fault in faults_of(error))
        faults = "\n".join(f"  {fault}" for fault in told)
        message = f"{where} cannot be used:\n{faults}\nSee docs/schedules.md."
        raise BadInput(message) from error


class _EntryPoint(BaseModel):
    """As far as it matters here."""

    parameters: dict[str, str | dict[str, Any]] = Field(default_factory=dict)


class _Project(BaseModel):
    """An MLproject, as far as it matters here."""

    entry_points: dict[str, _EntryPoint]


def check_entry_points(schedules: Iterable[Schedule], project: str, *, where: str) -> None:
    """Refuses schedules that the MLproject of the text `project` could not run.

    Raises:
        BadInput: an entry point or a parameter is not there, or a required parameter is not given; or it is no MLproject.
    """
    parsed = parse_declared(
        project, _Project.model_validate, what="The MLproject", see="docs/schedules.md"
    )
    faults: list[str] = []
    for one in schedules:
        entry = parsed.entry_points.get(one.entry_point)
        if entry is None:
            known = ", ".join(parsed.entry_points)
            faults.append(f"{one.name}: there is no entry point {one.entry_point!r}, only {known}")
            continue
        offered = entry.parameters
        needed = {
            n for n, spec in offered.items() if isinstance(spec, str) or "default" not in spec
        }
        unknown = sorted(one.parameters.keys() - offered.keys())
        missing = sorted(needed - one.parameters.keys())
        faults += [f"{one.name}: {one.entry_point} has no parameter {name}" for name in unknown]
        faults += [f"{one.name}: {one.entry_point} needs the parameter {name}" for name in missing]
    if faults:
        message = f"{where} cannot be used:\n  " + "\n  ".join(faults)
        raise BadInput(message)


def _spelled(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _parse_cron(cron: str) -> str:
    """`cron` with single spaces, where it is one that croniter and Kubernetes read alike."""
    fields = cron.split()
    limits = ((0, 59, ""), (0, 23, ""), (1, 31, ""), (1, 12, _MONTHS), (0, 6, _DAYS))
    if len(fields) != len(limits):
        message = (
            f"{cron!r} needs five fields: minute, hour, day of the month, month, day of the week"
        )
        raise ValueError(message)
    for text, (low, high, names) in zip(fields, limits, strict=True):
        for part in text.split(","):
            _check_part(part, low, high, names)
    clean = " ".join(fields)
    try:
        croniter(clean, datetime(2000, 1, 1, tzinfo=UTC)).get_next(datetime)
    except (CroniterError, ValueError, KeyError) as error:
        message = f"{cron!r} is never due"
        raise ValueError(message) from error
    return clean


def _check_part(part: str, low: int, high: int, names: str) -> None:
    """One of `*`, `*/n`, `a`, `a-b`, `a-b/n`, with numbers in range or the field's names."""
    known = {name: low + at for at, name in enumerate(names.split())}
    span, _, step = part.partition("/")
    ends = ["*"] if span == "*" else span.split("-")
    values = [known.get(end.upper(), int(end) if end.isdecimal() else -1) for end in ends]
    is_span = span == "*" or (
        len(ends) <= 2  # noqa: PLR2004 - from, to
        and all(low <= value <= high for value in values)
        and values == sorted(values)
    )
    is_step = "/" not in part or (
        step.isdecimal() and 1 <= int(step) <= high and (span == "*" or len(ends) > 1)
    )
    if not (is_span and is_step):
        message = f"{part!r} is none of *, */n, a, a-b and a-b/n with numbers from {low} to {high}"
        raise ValueError(
            message
            + (
                f" or {names.split(maxsplit=1)[0]} to {names.rsplit(maxsplit=1)[-1]}"
                if names
                else ""
            )
        )
