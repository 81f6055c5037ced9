"""`shipway judge`: the first verdict on each series of an observations file. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from deploy_targets.rollout import batch
from deploy_targets.rollout import evidence as ev
from deploy_targets.rollout.explain import explain, reading
from deploy_targets.rollout.judge import DECISIONS, NOBODY, metric_tests
from deploy_targets.rollout.observations import Held, PolicyFile, Series
from deploy_targets.rollout.quantiles import QuantileReading, quantile_readings
from deploy_targets.rollout.sequential import Array, Table
from deploy_targets.rollout.state import Decision, Reading


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesVerdict:
    """The first terminal verdict on a series, or where it stands at the end."""

    series: str
    verdict: Decision
    interval: int | None
    """The interval of the verdict; None when the series has none."""
    requests: dict[str, int]
    """By version, up to the verdict, in intervals that taught something."""
    metric: str | None
    """The one that decided, where one did alone."""
    evidence: str
    readings: tuple[Reading, ...]
    quantiles: tuple[QuantileReading, ...]
    held: tuple[Held, ...]
    """The intervals of the whole series that cannot be true."""

    def to_json(self) -> dict[str, object]:
        """The fields by name."""
        return asdict(self)

    def line(self) -> str:
        """For people."""
        at = "" if self.interval is None else f" at interval {self.interval}"
        held = "".join(f"\n  held: interval {one.interval}, {one.reason}" for one in self.held)
        return f"{self.series}: {self.verdict}{at}: {self.evidence}{held}"


def judge_series(series: Sequence[Series], policy: PolicyFile) -> tuple[SeriesVerdict, ...]:
    """One verdict for each series, in their order."""
    tests = metric_tests(policy, has_champion=policy.champion is not None)
    verdicts: dict[int, SeriesVerdict] = {}
    filled = [at for at, one in enumerate(series) if one.intervals.size]
    feed = _feed([series[at] for at in filled], tests)
    for ended in batch.follow(tests, policy, feed, runs=len(filled)):
        for row in range(ended.runs.size):
            at = filled[int(ended.runs[row])]
            verdicts[at] = _verdict(series[at], ended, row, tests, policy)
    for at, one in enumerate(series):
        if not one.intervals.size:
            verdicts[at] = _nothing_seen(one, tests, policy)
    return tuple(verdicts[at] for at in range(len(series)))


def _feed(series: Sequence[Series], tests: Sequence[ev.MetricTest]) -> batch.Feed:
    lengths = np.array([one.intervals.size for one in series])
    tables = [_padded([one.tables[test.name] for one in series]) for test in tests]
    requests = _padded([one.requests for one in series])
    elapsed = _padded([one.elapsed_s for one in series])

    def feed(step: int, rows: batch.Rows) -> batch.Interval:
        return batch.Interval(
            tables=tuple(Table(*table[rows, step].T) for table in tables),
            requests=requests[rows, step],
            elapsed_s=elapsed[rows, step],
            is_last=lengths[rows] == step + 1,
        )

    return feed


def _padded(parts: Sequence[Array]) -> Array:
    """The parts (T, ...) under one another, the shorter ones with zeros behind them: (S, longest T, ...)."""
    if not parts:
        return np.zeros((0, 0))
    whole = np.zeros((len(parts), max(map(len, parts)), *parts[0].shape[1:]))
    for at, part in enumerate(parts):
        whole[at, : len(part)] = part
    return whole


def _verdict(
    series: Series,
    ended: batch.Ended,
    row: int,
    tests: Sequence[ev.MetricTest],
    policy: PolicyFile,
) -> SeriesVerdict:
    one = np.arange(ended.runs.size) == row
    memories = tuple(memory.of(one) for memory in ended.memories)
    decision = DECISIONS[int(ended.decisions.code[row])]
    which = int(ended.decisions.test[row])
    decider = None if which == NOBODY else tests[which]
    champion, challenger = (int(count) for count in ended.requests[row])
    quantiles = tuple(_quantiles(series, ended.step, policy))
    counted = {} if policy.champion is None else {policy.champion: champion}
    return SeriesVerdict(
        series=series.name,
        verdict=decision,
        interval=int(series.intervals[ended.step]),
        requests={**counted, policy.challenger: challenger},
        metric=None if decider is None else decider.name,
        evidence=explain(
            decision,
            decider,
            tests,
            memories,
            policy,
            policy.promote,
            requests=int(ended.compared[row]),
            seconds=float(ended.elapsed_s[row]),
            quantiles=quantiles,
        ),
        readings=tuple(reading(*pair) for pair in zip(tests, memories, strict=True)),
        quantiles=quantiles,
        held=series.held,
    )


def _quantiles(series: Series, step: int, policy: PolicyFile) -> Iterator[QuantileReading]:
    for name, metric in policy.metrics.timed().items():
        histogram = series.histograms.get(name)
        if histogram is not None:
            champion, challenger = histogram.within[step].tolist()
            yield from quantile_readings(
                name,
                metric,
                histogram.bounds,
                champion=None if policy.champion is None else champion,
                challenger=challenger,
                alpha=policy.false_promotion_rate,
            )


def _nothing_seen(
    series: Series, tests: Sequence[ev.MetricTest], policy: PolicyFile
) -> SeriesVerdict:
    memories = tuple(ev.nothing_learned(test, 1) for test in tests)
    return SeriesVerdict(
        series=series.name,
        verdict=Decision.HOLD,
        interval=None,
        requests=dict.fromkeys(policy.versions, 0),
        metric=None,
        evidence="no line of the policy's versions",
        readings=tuple(reading(*pair) for pair in zip(tests, memories, strict=True)),
        quantiles=(),
        held=(),
    )
