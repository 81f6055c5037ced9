"""The files of `shipway judge`: a policy, and observations as JSON lines, into arrays. Pure: text in, values out.

A line is the increment of one version in one interval of one series. What cannot be read is an error that names the
line. What can be read but cannot be true (a negative or repeated increment, more errors than requests) holds its
interval: nothing of it is counted, and the verdict names it. A version that is missing from an interval is a gap.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Self

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from deploy_targets.judge_policy import JudgePolicy
from deploy_targets.rollout.sequential import Array
from registry.errors import BadInput

_Number = Annotated[float, Field(strict=True)]
_Name = Annotated[str, Field(min_length=1)]


class PolicyFile(JudgePolicy):
    """The rules, and between whom."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    champion: _Name | None
    """The version to compare with; null judges a first release by its absolute limits."""
    challenger: _Name
    """The version that is judged."""

    @model_validator(mode="after")
    def _has_somebody_to_judge(self) -> Self:
        if self.champion == self.challenger:
            message = "champion and challenger are the same version; name two"
            raise ValueError(message)
        limits = [metric.limit for metric in self.metrics.given().values()]
        if self.champion is None and not any(limits):
            message = (
                "without a champion a metric needs a limit; give one, e.g. errors: {limit: 0.05}"
            )
            raise ValueError(message)
        return self

    @property
    def versions(self) -> tuple[str, ...]:
        """Those that are read: the champion, where there is one, then the challenger."""
        return tuple(one for one in (self.champion, self.challenger) if one is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """An interval that cannot be true, and why."""

    interval: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """The intervals of one series in their order, (T,)."""

    name: str
    intervals: NDArray[np.int64]
    elapsed_s: Array
    """At each interval's end; intervals that are missing from the file took as long as the one after them."""
    requests: Array
    """(T, 2) The champion's and the challenger's; zero where there was a gap."""
    tables: Mapping[str, Array]
    """By metric, (T, 4) as `sequential.Table`; zero where there was a gap."""
    held: tuple[Held, ...]


class _Quality(BaseModel):
    model_config = ConfigDict(extra="forbid")

    judged: _Number
    failed: _Number


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)

    series: _Name
    interval: Annotated[int, Field(strict=True)]
    seconds: _Number
    version: _Name
    requests: _Number
    errors: _Number
    latency_s: dict[str, _Number] | None = None
    quality: _Quality | None = None
    cost_micros: _Number | None = None


@dataclass(slots=True)
class _Slot:
    """One interval while the file is read: metric pairs by version, or why it is held."""

    seconds: float
    pairs: dict[str, tuple[float, ...]] = field(default_factory=dict[str, tuple[float, ...]])
    fault: str = ""


def parse_policy(text: str, *, origin: str) -> PolicyFile:
    """The policy that the YAML `text` declares; `origin` is named in errors.

    Raises:
        BadInput: not YAML, an unknown key, a value out of range, or rules that contradict one another.
    """
    try:
        return PolicyFile.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        message = f"{origin} is not valid YAML: {error}. Mend it and try again."
        raise BadInput(message) from error
    except ValidationError as error:
        message = f"{origin} is not a valid policy:\n{faults_of(error)}\nMend it and try again."
        raise BadInput(message) from error


def faults_of(error: ValidationError) -> str:
    """One line for each fault, with its place."""
    return "\n".join(
        f"  {'.'.join(map(str, fault['loc'])) or 'file'}: {fault['msg']}"
        for fault in error.errors()
    )


def parse_observations(
    lines: Iterable[str], policy: PolicyFile, *, origin: str
) -> tuple[Series, ...]:
    """The series of a file, in the order in which they first appear; versions other than the policy's are left out.

    Raises:
        BadInput: a line that cannot be read, an objective that is no bucket bound, or no line at all.
    """
    series: dict[str, dict[int, _Slot]] = {}
    for number, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        line = _parse_line(text, place=f"{origin}, line {number}")
        slots = series.setdefault(line.series, {})
        if line.version not in policy.versions:
            continue
        slot = slots.setdefault(line.interval, _Slot(line.seconds))
        fault = _fault(line, policy)
        if line.version in slot.pairs:
            fault = "it is there twice"
        if fault:
            slot.fault = slot.fault or f"version {line.version}: {fault}"
            slot.pairs.setdefault(line.version, ())
        else:
            slot.pairs[line.version] = tuple(_pairs(line, policy, f"{origin}, line {number}"))
    if not series:
        message = f"{origin} holds no observation. Give one JSON object a line."
        raise BadInput(message)
    return tuple(_series(name, slots, policy) for name, slots in series.items())


def _parse_line(text: str, *, place: str) -> _Line:
    try:
        return _Line.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        message = f"{place} cannot be read: {where + ': ' if where else ''}{first['msg']}. Mend or remove it."
        raise BadInput(message) from error


def _fault(line: _Line, policy: PolicyFile) -> str:
    """Why this increment cannot be true; empty when it can."""
    counts = {"requests": line.requests, "errors": line.errors}
    if line.quality is not None:
        counts |= {"quality.judged": line.quality.judged, "quality.failed": line.quality.failed}
    if line.latency_s is not None:
        counts |= {f"latency_s.{bound}": count for bound, count in line.latency_s.items()}
    for name, count in counts.items():
        if not (count >= 0 and count.is_integer()):
            return f"{name} is {count}, not a count"
    if not line.seconds > 0 or math.isinf(line.seconds):
        return f"seconds is {line.seconds}"
    if line.errors > line.requests:
        return f"{line.errors:g} errors in {line.requests:g} requests"
    if line.quality is not None and line.quality.failed > line.quality.judged:
        return f"{line.quality.failed:g} bad answers in {line.quality.judged:g} judged"
    return _latency_fault(line) or _cost_fault(line, policy)


def _latency_fault(line: _Line) -> str:
    if not line.latency_s:
        return ""
    try:
        bounds = sorted((float(bound), count) for bound, count in line.latency_s.items())
    except ValueError:
        return f"latency_s has a bound that is no number: {', '.join(line.latency_s)}"
    counts = [count for _, count in bounds]
    if counts != sorted(counts):
        return "latency_s does not rise with its bounds"
    if bounds[-1] != (math.inf, counts[-1]) or counts[-1] > line.requests:
        return "latency_s must end with +Inf, of at most as many requests as there were"
    return ""


def _cost_fault(line: _Line, policy: PolicyFile) -> str:
    if line.cost_micros is None:
        return ""
    if not (line.cost_micros >= 0 and math.isfinite(line.cost_micros)):
        return f"cost_micros is {line.cost_micros}"
    cost = policy.metrics.cost
    if cost is not None and line.cost_micros > cost.max_per_request_micros * line.requests:
        return (
            f"{line.cost_micros:g} micros for {line.requests:g} requests is more than max_per_request_micros "
            f"({cost.max_per_request_micros:g}) allows"
        )
    return ""


def _pairs(line: _Line, policy: PolicyFile, place: str) -> Iterator[float]:
    """The number of requests, then each metric's n and bad in turn; zeros where it was not measured."""
    yield line.requests
    for name in policy.metrics.given():
        match name:
            case "errors":
                yield from (line.requests, line.errors)
            case "latency":
                yield from _slow(line, policy, place)
            case "quality":
                quality = line.quality
                yield from (0, 0) if quality is None else (quality.judged, quality.failed)
            case _:
                yield from _cost(line, policy)


def _cost(line: _Line, policy: PolicyFile) -> tuple[float, float]:
    """How many requests were paid for, and their sum as a share of the most that one can cost."""
    metric = policy.metrics.cost
    if line.cost_micros is None or metric is None:
        return 0, 0
    return line.requests, line.cost_micros / metric.max_per_request_micros


def _slow(line: _Line, policy: PolicyFile, place: str) -> tuple[float, float]:
    """How many were timed, and how many of them took longer than the objective."""
    latency = policy.metrics.latency
    if not line.latency_s or latency is None:
        return 0, 0
    within = {float(bound): count for bound, count in line.latency_s.items()}
    if latency.slo_s not in within:
        bounds = ", ".join(f"{bound:g}" for bound in sorted(within) if math.isfinite(bound))
        message = (
            f"{place}: metrics.latency.slo_s is {latency.slo_s:g}, which is none of the bucket bounds ({bounds}), so "
            "nobody can tell how many requests missed it. Choose one of the bounds."
        )
        raise BadInput(message)
    return within[math.inf], within[math.inf] - within[latency.slo_s]


def _series(name: str, slots: Mapping[int, _Slot], policy: PolicyFile) -> Series:
    """The arrays of one series; an interval counts when it has no fault and both versions."""
    intervals = sorted(slots)
    names = tuple(policy.metrics.given())
    rows = np.zeros((len(intervals), 2, 1 + 2 * len(names)))
    elapsed, before, held = np.zeros(len(intervals)), 0.0, list[Held]()
    for at, interval in enumerate(intervals):
        slot = slots[interval]
        missed = interval - intervals[at - 1] if at else 1
        before += missed * slot.seconds if slot.seconds > 0 and math.isfinite(slot.seconds) else 0.0
        elapsed[at] = before
        if slot.fault:
            held.append(Held(interval=interval, reason=slot.fault))
        elif all(version in slot.pairs for version in policy.versions):
            for side, version in zip((1, 0), reversed(policy.versions), strict=False):
                rows[at, side] = slot.pairs[version]
    return Series(
        name=name,
        intervals=np.array(intervals, dtype=np.int64),
        elapsed_s=elapsed,
        requests=rows[:, :, 0],
        tables={
            metric: rows[:, :, 1 + 2 * at : 3 + 2 * at].reshape(len(intervals), 4)
            for at, metric in enumerate(names)
        },
        held=tuple(held),
    )
