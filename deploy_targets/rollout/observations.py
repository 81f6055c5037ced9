"""The files of `shipway judge`: a policy, and observations as JSON lines, into arrays. Pure: text in, values out.

A line is the increment of one version in one interval of one series. What cannot be read is an error that names the
line. What can be read but cannot be true (a negative or repeated increment, more errors than requests) holds its
interval: nothing of it is counted, and the verdict names it. A version that is missing from an interval is a gap.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple, Self, TypeVar

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from deploy_targets.declared import Declared, faults_of
from deploy_targets.judge_policy import JudgePolicy
from deploy_targets.rollout.sequential import Array
from registry.errors import BadInput
from registry.plain_yaml import load_yaml

_Number = Annotated[float, Field(strict=True)]
_MOST = 10_000_000
"""Requests in one interval. More are no interval of one endpoint, or a mistake; and their arithmetic takes minutes."""
_FURTHEST = 10**12
_Name = Annotated[str, Field(min_length=1)]
D = TypeVar("D", bound=Declared)


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
            message = "champion and challenger are the same version; name two, in quotes: without them 1.10 is the number 1.1"
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
    interval: Annotated[int, Field(strict=True, ge=-_FURTHEST, le=_FURTHEST)]
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

    seconds: float = 0.0
    """The longest that a line says."""
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
    """The policy that the YAML `text` declares; see `parse_declared`."""
    return parse_declared(PolicyFile, text, what="policy", origin=origin)


def parse_declared(model: type[D], text: str, *, what: str, origin: str) -> D:
    """What the YAML `text` declares; `origin`, and `what` it should be, are named in errors.

    Raises:
        BadInput: not YAML, an unknown key, a value out of range, or parts that contradict one another.
    """
    try:
        document = load_yaml(text)
    except yaml.YAMLError as error:
        message = f"{origin} is not valid YAML: {error}. Mend it and try again."
        raise BadInput(message) from error
    try:
        return model.model_validate(document)
    except ValidationError as error:
        message = f"{origin} is not a valid {what}:\n{faults_of(error)}\nMend it and try again."
        raise BadInput(message) from error


def parse_observations(
    lines: Iterable[str], policy: PolicyFile, *, origin: str
) -> tuple[Series, ...]:
    """The series of a file, in the order in which they first appear; versions other than the policy's are left out.

    Raises:
        BadInput: a line that cannot be read, an objective that is no bucket bound, or no line at all.
    """
    reader = _Reader(policy)
    for number, text in enumerate(lines, start=1):
        if text.strip():
            reader.read(text, place=f"{origin}, line {number}")
    if not reader.books:
        message = f"{origin} holds no observation. Give one JSON object a line."
        raise BadInput(message)
    return tuple(_series(name, book, policy) for name, book in reader.books.items())


class _Untrue(Exception):
    """An increment that cannot be true, and why; it holds its interval."""


class _Bounds(NamedTuple):
    """Bucket bounds as they are written, put in order."""

    seconds: tuple[float, ...]
    order: tuple[int, ...]
    """Where in the written order each of them stands."""


class _Reader:
    """Reads line by line. What depends on the policy or on the spelling of bounds alone is worked out once."""

    def __init__(self, policy: PolicyFile) -> None:
        self.books: dict[str, _Book] = {}
        self._versions = policy.versions
        self._names = tuple(policy.metrics.given())
        self._objectives = {name: metric.slo_s for name, metric in policy.metrics.timed().items()}
        self._cost = policy.metrics.cost
        self._known: dict[tuple[str, ...], _Bounds] = {}

    def read(self, text: str, *, place: str) -> None:
        """Enters one line into its book."""
        try:
            line = _Line.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            message = f"{place} cannot be read: {where + ': ' if where else ''}{first['msg']}. Mend or remove it."
            raise BadInput(message) from error
        book = self.books.get(line.series)
        if book is None:
            book = self.books[line.series] = _Book()
        if line.version not in self._versions:
            return
        slot = book.slots.get(line.interval)
        if slot is None:
            slot = book.slots[line.interval] = _Slot()
        fault = "it is there twice" if line.version in slot.pairs else ""
        slot.pairs[line.version] = ()
        if math.isfinite(line.seconds):
            slot.seconds = max(slot.seconds, line.seconds)
        if not fault:
            try:
                slot.pairs[line.version] = self._numbers(line, slot, book, place)
            except _Untrue as error:
                fault = str(error)
        if fault:
            slot.fault = slot.fault or f"version {line.version}: {fault}"

    def _numbers(self, line: _Line, slot: _Slot, book: _Book, place: str) -> tuple[float, ...]:
        """The number of requests, then each metric's n and bad in turn; zeros where it was not measured."""
        if not (line.seconds > 0 and math.isfinite(line.seconds)):
            raise _Untrue(f"seconds is {line.seconds}")
        requests = _count("requests", line.requests)
        if _count("errors", line.errors) > requests:
            raise _Untrue(f"{line.errors:g} errors in {requests:g} requests")
        pairs: dict[str, tuple[float, float]] = {"errors": (requests, line.errors)}
        for name, written in line.timed.items():
            if written:
                counts, bounds = self._histogram(name, written, requests)
                if name in self._objectives:
                    pairs[name] = self._slow(name, counts, bounds, place)
                    slot.within[line.version, name] = counts
                    if book.bounds.setdefault(name, bounds) != bounds:
                        book.bounds[name] = ()
        if line.quality is not None:
            judged = _count("quality.judged", line.quality.judged)
            failed = _count("quality.failed", line.quality.failed)
            if failed > judged:
                raise _Untrue(f"{failed:g} bad answers in {judged:g} judged")
            pairs["quality"] = judged, failed
        if line.cost_micros is not None:
            pairs["cost"] = requests, self._cost_share(line.cost_micros, requests)
        nothing = (0.0, 0.0)
        return (requests, *(number for name in self._names for number in pairs.get(name, nothing)))

    def _histogram(
        self, name: str, written: Mapping[str, float], requests: float
    ) -> tuple[list[float], tuple[float, ...]]:
        """The cumulative counts in the order of their bounds, and the bounds."""
        keys = tuple(written)
        bounds = self._known.get(keys)
        if bounds is None:
            bounds = self._known[keys] = _bounds(name, keys)
        values = [_count(f"{name}_s", count) for count in written.values()]
        counts = [values[at] for at in bounds.order]
        if counts != sorted(counts):
            raise _Untrue(f"{name}_s does not rise with its bounds")
        if bounds.seconds[-1] != math.inf or counts[-1] > requests:
            raise _Untrue(f"{name}_s must end with +Inf, of at most as many requests as there were")
        return counts, bounds.seconds

    def _slow(
        self, name: str, counts: list[float], bounds: tuple[float, ...], place: str
    ) -> tuple[float, float]:
        """How many were timed, and how many of them took longer than the objective."""
        slo_s = self._objectives[name]
        if slo_s not in bounds:
            told = ", ".join(f"{bound:g}" for bound in bounds[:-1])
            message = (
                f"{place}: metrics.{name}.slo_s is {slo_s:g}, which is none of the bucket bounds ({told}), so nobody "
                "can tell how many requests missed it. Choose one of the bounds."
            )
            raise BadInput(message)
        return counts[-1], counts[-1] - counts[bounds.index(slo_s)]

    def _cost_share(self, micros: float, requests: float) -> float:
        """The sum over the requests, each as a share of the most that one can cost; 0 where that is not declared."""
        if not (micros >= 0 and math.isfinite(micros)):
            raise _Untrue(f"cost_micros is {micros}")
        if self._cost is None:
            return 0.0
        top = self._cost.max_per_request_micros
        if micros > top * requests:
            message = f"{micros:g} micros for {requests:g} requests is more than max_per_request_micros ({top:g}) allows"
            raise _Untrue(message)
        return micros / top


def _count(name: str, number: float) -> float:
    if number > _MOST:
        raise _Untrue(f"{name} is {number:g}, more than {_MOST:,} in an interval")
    if number >= 0 and number.is_integer():
        return number
    raise _Untrue(f"{name} is {number}, not a count")


def _bounds(name: str, keys: tuple[str, ...]) -> _Bounds:
    try:
        seconds = [float(key) for key in keys]
    except ValueError as error:
        raise _Untrue(f"{name}_s has a bound that is no number: {', '.join(keys)}") from error
    if any(math.isnan(bound) for bound in seconds):
        raise _Untrue(f"{name}_s has a bound that is no number: {', '.join(keys)}")
    order = sorted(range(len(keys)), key=seconds.__getitem__)
    return _Bounds(seconds=tuple(seconds[at] for at in order), order=tuple(order))


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
        before += missed * slot.seconds
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
