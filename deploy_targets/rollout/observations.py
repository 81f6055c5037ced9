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
class Histogram:
    """How many requests took at most each of the bounds, up to each interval."""

    bounds: tuple[float, ...]
    """Rising, in seconds; the last one is infinite."""
    within: Array
    """(T, 2, B) Of the champion and the challenger, summed over intervals without a gap."""


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
    histograms: Mapping[str, "Histogram"]
    """By metric that is about time; those whose bounds changed on the way are left out."""
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
    first_token_s: dict[str, _Number] | None = None
    per_token_s: dict[str, _Number] | None = None
    quality: _Quality | None = None
    cost_micros: _Number | None = None

    @property
    def timed(self) -> dict[str, dict[str, float] | None]:
        """The histograms by metric: cumulative counts by bound, as they are written."""
        return {
            "latency": self.latency_s,
            "first_token": self.first_token_s,
            "per_token": self.per_token_s,
        }


@dataclass(slots=True)
class _Slot:
    """One interval while the file is read: metric pairs and histograms by version, or why it is held."""

    seconds: float
    pairs: dict[str, tuple[float, ...]] = field(default_factory=dict[str, tuple[float, ...]])
    within: dict[tuple[str, str], list[float]] = field(
        default_factory=dict[tuple[str, str], list[float]]
    )
    """Counts at the bounds, by version and metric."""
    fault: str = ""


@dataclass(slots=True)
class _Book:
    """One series while the file is read."""

    slots: dict[int, _Slot] = field(default_factory=dict[int, _Slot])
    bounds: dict[str, tuple[float, ...]] = field(default_factory=dict[str, tuple[float, ...]])
    """Of each histogram, as first seen; none any more once others were seen."""


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
    series: dict[str, _Book] = {}
    for number, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        line = _parse_line(text, place=f"{origin}, line {number}")
        book = series.setdefault(line.series, _Book())
        if line.version not in policy.versions:
            continue
        slot = book.slots.setdefault(line.interval, _Slot(line.seconds))
        fault = _fault(line, policy)
        if line.version in slot.pairs:
            fault = "it is there twice"
        if fault:
            slot.fault = slot.fault or f"version {line.version}: {fault}"
            slot.pairs.setdefault(line.version, ())
        else:
            slot.pairs[line.version] = tuple(_pairs(line, policy, f"{origin}, line {number}"))
            _keep_histograms(line, policy, slot, book)
    if not series:
        message = f"{origin} holds no observation. Give one JSON object a line."
        raise BadInput(message)
    return tuple(_series(name, book, policy) for name, book in series.items())


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
    for name, within in line.timed.items():
        counts |= {f"{name}_s.{bound}": count for bound, count in (within or {}).items()}
    for name, count in counts.items():
        if not (count >= 0 and count.is_integer()):
            return f"{name} is {count}, not a count"
    if not line.seconds > 0 or math.isinf(line.seconds):
        return f"seconds is {line.seconds}"
    if line.errors > line.requests:
        return f"{line.errors:g} errors in {line.requests:g} requests"
    if line.quality is not None and line.quality.failed > line.quality.judged:
        return f"{line.quality.failed:g} bad answers in {line.quality.judged:g} judged"
    faults = (
        _histogram_fault(f"{name}_s", within, line.requests)
        for name, within in line.timed.items()
        if within
    )
    return next(filter(None, faults), "") or _cost_fault(line, policy)


def _histogram_fault(name: str, within: Mapping[str, float], requests: float) -> str:
    try:
        bounds = sorted((float(bound), count) for bound, count in within.items())
    except ValueError:
        return f"{name} has a bound that is no number: {', '.join(within)}"
    counts = [count for _, count in bounds]
    if counts != sorted(counts):
        return f"{name} does not rise with its bounds"
    if bounds[-1] != (math.inf, counts[-1]) or counts[-1] > requests:
        return f"{name} must end with +Inf, of at most as many requests as there were"
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
            case "quality":
                quality = line.quality
                yield from (0, 0) if quality is None else (quality.judged, quality.failed)
            case "cost":
                yield from _cost(line, policy)
            case _:
                yield from _slow(name, line, policy, place)


def _cost(line: _Line, policy: PolicyFile) -> tuple[float, float]:
    """How many requests were paid for, and their sum as a share of the most that one can cost."""
    metric = policy.metrics.cost
    if line.cost_micros is None or metric is None:
        return 0, 0
    return line.requests, line.cost_micros / metric.max_per_request_micros


def _slow(name: str, line: _Line, policy: PolicyFile, place: str) -> tuple[float, float]:
    """How many were timed, and how many of them took longer than the objective."""
    written = line.timed[name]
    if not written:
        return 0, 0
    slo_s = policy.metrics.timed()[name].slo_s
    within = {float(bound): count for bound, count in written.items()}
    if slo_s not in within:
        bounds = ", ".join(f"{bound:g}" for bound in sorted(within) if math.isfinite(bound))
        message = (
            f"{place}: metrics.{name}.slo_s is {slo_s:g}, which is none of the bucket bounds ({bounds}), so nobody can "
            "tell how many requests missed it. Choose one of the bounds."
        )
        raise BadInput(message)
    return within[math.inf], within[math.inf] - within[slo_s]


def _keep_histograms(line: _Line, policy: PolicyFile, slot: _Slot, book: _Book) -> None:
    for name in policy.metrics.timed():
        written = line.timed[name]
        if written:
            within = sorted((float(bound), count) for bound, count in written.items())
            bounds = tuple(bound for bound, _ in within)
            if book.bounds.setdefault(name, bounds) != bounds:
                book.bounds[name] = ()
            slot.within[line.version, name] = [count for _, count in within]


def _series(name: str, book: _Book, policy: PolicyFile) -> Series:
    """The arrays of one series; an interval counts when it has no fault and both versions."""
    intervals = sorted(book.slots)
    names = tuple(policy.metrics.given())
    rows = np.zeros((len(intervals), 2, 1 + 2 * len(names)))
    within = {
        metric: np.zeros((len(intervals), 2, len(bounds)))
        for metric, bounds in book.bounds.items()
        if bounds
    }
    elapsed, before, held = np.zeros(len(intervals)), 0.0, list[Held]()
    for at, interval in enumerate(intervals):
        slot = book.slots[interval]
        missed = interval - intervals[at - 1] if at else 1
        before += missed * slot.seconds if slot.seconds > 0 and math.isfinite(slot.seconds) else 0.0
        elapsed[at] = before
        if slot.fault:
            held.append(Held(interval=interval, reason=slot.fault))
        elif all(version in slot.pairs for version in policy.versions):
            for side, version in zip((1, 0), reversed(policy.versions), strict=False):
                rows[at, side] = slot.pairs[version]
                for metric, counts in within.items():
                    counts[at, side] = slot.within.get((version, metric), 0)
    return Series(
        name=name,
        intervals=np.array(intervals, dtype=np.int64),
        elapsed_s=elapsed,
        requests=rows[:, :, 0],
        tables={
            metric: rows[:, :, 1 + 2 * at : 3 + 2 * at].reshape(len(intervals), 4)
            for at, metric in enumerate(names)
        },
        histograms={
            metric: Histogram(bounds=book.bounds[metric], within=np.cumsum(counts, axis=0))
            for metric, counts in within.items()
        },
        held=tuple(held),
    )
