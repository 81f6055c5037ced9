"""`shipway simulate`: how a policy fares in a scenario, by seeded traffic through the very code that judges. Pure.

Many rollouts of a scenario are drawn side by side. The report says how often each verdict came, after how much, and what
it cost the users, beside the fewest requests that any test with these error rates could do with (Wald's bound).
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deploy_targets.judge_policy import TIMED
from deploy_targets.rollout import batch
from deploy_targets.rollout import evidence as ev
from deploy_targets.rollout.judge import DECISIONS, NOBODY, metric_tests
from deploy_targets.rollout.scenario import Latency, RampStep, Scenario, Truth
from deploy_targets.rollout.sequential import Array, Table
from deploy_targets.rollout.state import Decision

MISS_RATE = 0.05
"""How often the test of Wald's bound may miss a bad challenger."""

WALD = (
    "((1-b) ln((1-b)/a) + b ln(b/(1-a))) / I requests, a = false_rollback_rate, b = 0.05; for each metric that is worse "
    "I = (1-s) KL(p_champion, q) + s KL(p_challenger, q) with q = (1-s) p_champion + s p_challenger and s the "
    "challenger's share, or KL(p_challenger, limit) without a champion; I is summed over metrics, and over the ramp"
)


class Drawn(NamedTuple):
    """What happened in one interval of R runs, seen or not."""

    requests: Array
    """(R, 2) The champion's and the challenger's."""
    tables: Mapping[str, Table]
    """By metric, as if nothing was missing."""
    is_missing: NDArray[np.bool_]
    """(R, 2) Whose numbers nobody saw."""


Record = Callable[[int, batch.Rows, Drawn], None]


def simulate(
    scenario: Scenario, *, runs: int, seed: int, record: Record | None = None
) -> dict[str, Any]:
    """The report over `runs` rollouts, as JSON values. The same seed gives the same report.

    `record` is told everything that was drawn, so that it can be judged again.
    """
    policy = scenario.policy
    tests = metric_tests(policy, has_champion=policy.champion is not None, is_reported=False)
    traffic = SimulatedTraffic(scenario, tests, runs=runs, seed=seed, record=record)
    tally = _Tally(runs)
    for ended in batch.follow(tests, policy, traffic.interval, runs=runs):
        tally.codes[ended.runs] = ended.decisions.code
        tally.tests[ended.runs] = ended.decisions.test
        tally.seconds[ended.runs] = ended.elapsed_s
    tally.requests, tally.failures = traffic.requests, traffic.failures
    return {"runs": runs, "seed": seed, **tally.report([test.name for test in tests])} | {
        "wald": _wald(scenario, tests, tally)
    }


def summary(report: Mapping[str, Any]) -> Iterator[str]:
    """The report for people, line by line."""
    rates, errors = report["rates"], report["standard_errors"]
    for name, rate in rates.items():
        if not rate:
            continue
        line = f"{name:13} {rate:7.2%} ± {errors[name]:.2%}"
        if told := report.get(name):
            requests, seconds = told["requests"], told["seconds"]
            line += (
                f"   after {requests['mean']:,.0f} requests (95 %: {requests['p95']:,.0f}), "
                f"{seconds['mean']:,.0f} s (95 %: {seconds['p95']:,.0f})"
            )
        yield line
    exposure = report["exposure"]
    yield (
        f"users met {exposure['challenger_requests']['mean']:,.0f} challenger requests a rollout (95 %: "
        f"{exposure['challenger_requests']['p95']:,.0f}), {exposure['challenger_errors']['mean']:,.1f} of them failed"
    )
    wald = report["wald"]
    if wald is None:
        yield "no counted metric of the challenger is worse"
    elif wald["requests"] is None:
        yield "the scenario is too short for any test of these rates: Wald's bound lies beyond its end"
    else:
        ratio = (
            "" if wald["ratio"] is None else f"; rolling back took {wald['ratio']:.2f} times that"
        )
        yield f"Wald's bound: {wald['requests']:,.0f} requests{ratio}"


class SimulatedTraffic:
    """Draws the intervals, and counts what users met on the way, gaps included."""

    def __init__(
        self,
        scenario: Scenario,
        tests: Sequence[ev.MetricTest],
        *,
        runs: int,
        seed: int,
        record: Record | None = None,
    ) -> None:
        """Draws `runs` runs beside each other, from `seed` alone."""
        self._scenario = scenario
        self._names = [test.name for test in tests]
        self._steps = scenario.steps
        self._rng = np.random.default_rng(seed)
        self._phase = self._rng.uniform(0, 2 * math.pi, runs)
        self._record = record
        self.requests = np.zeros((runs, 2))
        self.failures = np.zeros(runs)

    def interval(self, step: int, rows: batch.Rows) -> batch.Interval:
        """The next interval of those runs, as the judge sees it."""
        drawn = self._draw(self._steps[step], step, rows)
        if self._record is not None:
            self._record(step, rows, drawn)
        self.requests[rows] += drawn.requests
        if "errors" in drawn.tables:
            self.failures[rows] += drawn.tables["errors"].challenger_bad
        is_seen = np.logical_not(drawn.is_missing.any(axis=1))
        elapsed_s = (step + 1) * self._scenario.interval_s
        return batch.Interval(
            tables=tuple(
                Table(*(part * is_seen for part in drawn.tables[name])) for name in self._names
            ),
            requests=drawn.requests * is_seen[:, None],
            elapsed_s=np.full(rows.size, elapsed_s),
            is_last=np.full(rows.size, step + 1 == len(self._steps)),
        )

    def _draw(self, ramp: RampStep, step: int, rows: batch.Rows) -> Drawn:
        scenario, rng, runs = self._scenario, self._rng, rows.size
        mean = scenario.requests_per_s * scenario.interval_s
        total = rng.poisson(mean, runs)
        swing = np.sin(self._phase[rows] + 2 * math.pi * step / 100)
        share = np.clip(ramp.weight / 100 * (1 + scenario.share_drift * swing), 0, 1)
        if scenario.champion is None:
            share = np.ones(runs)
        new = rng.binomial(total, share)
        sides = ((scenario.champion, total - new), (scenario.challenger, new))
        columns = {name: list[Array]() for name in self._names}
        for truth, n in sides:
            for name in self._names:
                counted = self._metric(name, truth, n, ramp) if truth else [np.zeros(runs)] * 2
                columns[name].extend(counted)
        missing = np.zeros((runs, 2), dtype=np.bool_)
        if scenario.counter_resets:
            missing |= (rng.random(runs) < scenario.counter_resets)[:, None]
        if scenario.gaps:
            gap = rng.random(runs) < scenario.gaps
            whose = rng.integers(0, 2, runs)
            missing[np.flatnonzero(gap), whose[gap]] = True
        return Drawn(
            requests=np.stack([total - new, new], axis=1).astype(np.float64),
            tables={name: Table(*column) for name, column in columns.items()},
            is_missing=missing,
        )

    def _metric(
        self, name: str, truth: Truth, n: NDArray[np.int64], ramp: RampStep
    ) -> Iterator[Array]:
        """The n and bad of one metric of one version."""
        metrics = self._scenario.policy.metrics
        if name == "cost" and truth.cost is not None and metrics.cost is not None:
            noise = self._rng.standard_normal(n.size) * truth.cost.sd_micros * np.sqrt(n)
            top = metrics.cost.max_per_request_micros
            cost = np.clip(truth.cost.mean_micros * n + noise, 0, top * n)
            yield from (n.astype(np.float64), cost / top)
            return
        if name == "quality":
            n = self._rng.binomial(n, self._scenario.judged_share)
        rate = _rate(name, truth, self._scenario) * (1.0 if name in TIMED else ramp.rate_factor)
        bad = draw_bad(self._rng, n, min(rate, 1.0), burst_size=self._scenario.burst_size)
        yield from (n.astype(np.float64), bad.astype(np.float64))


def draw_bad(
    rng: np.random.Generator, n: NDArray[np.int64], rate: float, *, burst_size: float
) -> NDArray[np.int64]:
    """How many of `n` requests are bad, each with probability `rate`, in bursts of geometric size.

    The requests of an interval, in their order, fall into groups: with probability 1/burst_size a new one begins. A
    group is bad as a whole. Given c groups of which b are bad, the requests in these are b plus a beta-binomial.
    """
    if burst_size == 1:
        return rng.binomial(n, rate)
    groups = np.where(n > 0, 1 + rng.binomial(np.maximum(n - 1, 0), 1 / burst_size), 0)
    bad = rng.binomial(groups, rate)
    part = rng.beta(np.maximum(bad, 1), np.maximum(groups - bad, 1))
    part = np.where(bad == groups, 1.0, part)
    return bad + np.where(bad > 0, rng.binomial(n - groups, part), 0)


class _Tally:
    """How each run ended."""

    def __init__(self, runs: int) -> None:
        self.codes = np.zeros(runs, dtype=np.int64)
        self.tests = np.full(runs, NOBODY)
        self.seconds = np.zeros(runs)
        self.requests = np.zeros((runs, 2))
        self.failures = np.zeros(runs)

    def report(self, names: Sequence[str]) -> dict[str, Any]:
        """Rates, and for each verdict that came what it took."""
        which = {decision: self.codes == at for at, decision in enumerate(DECISIONS)}
        rates = {decision.value: float(chosen.mean()) for decision, chosen in which.items()}
        verdicts = {
            decision.value: {
                "requests": _spread(self.requests[chosen].sum(axis=1)),
                "challenger_requests": _spread(self.requests[chosen, 1]),
                "seconds": _spread(self.seconds[chosen]),
            }
            for decision, chosen in which.items()
            if decision is not Decision.HOLD
        }
        decided = self.tests[which[Decision.ROLL_BACK]]
        return {
            "rates": rates,
            "standard_errors": {
                name: math.sqrt(rate * (1 - rate) / self.codes.size) for name, rate in rates.items()
            },
            **verdicts,
            "rolled_back_by": {name: int((decided == at).sum()) for at, name in enumerate(names)},
            "exposure": {
                "challenger_requests": _spread(self.requests[:, 1]),
                "challenger_errors": _spread(self.failures),
            },
        }


def _spread(values: Array) -> dict[str, float] | None:
    """Mean and quantiles; None without values."""
    if not values.size:
        return None
    p50, p95 = np.quantile(values, (0.5, 0.95))
    return {"mean": float(values.mean()), "p50": float(p50), "p95": float(p95)}


def _rate(name: str, truth: Truth, scenario: Scenario) -> float:
    if name in TIMED:
        latency: Latency = getattr(truth, name)
        return latency.slower_than(scenario.policy.metrics.timed()[name].slo_s)
    return truth.errors if name == "errors" else truth.quality or 0.0


def _wald(
    scenario: Scenario, tests: Sequence[ev.MetricTest], tally: _Tally
) -> dict[str, Any] | None:
    """The bound for this scenario and how many times as many requests rolling back took; None where nothing is worse."""
    rounds = scenario.requests_per_s * scenario.interval_s
    alpha, beta = scenario.policy.false_rollback_rate, MISS_RATE
    needed = (1 - beta) * math.log((1 - beta) / alpha) + beta * math.log(beta / (1 - alpha))
    step_information = {step: _information(scenario, tests, step) for step in set(scenario.steps)}
    if not any(step_information.values()):
        return None
    learned, requests = 0.0, 0.0
    for step in scenario.steps:
        gain = step_information[step] * rounds
        if learned + gain >= needed:
            requests += rounds * (needed - learned) / gain
            break
        learned, requests = learned + gain, requests + rounds
    else:
        return {"formula": WALD, "requests": None, "ratio": None}
    rolled_back = tally.codes == DECISIONS.index(Decision.ROLL_BACK)
    taken = tally.requests[rolled_back].sum(axis=1)
    ratio = float(taken.mean()) / requests if taken.size else None
    return {"formula": WALD, "requests": requests, "ratio": ratio}


def _information(scenario: Scenario, tests: Sequence[ev.MetricTest], step: RampStep) -> float:
    """Kullback-Leibler information of one request against "not worse", summed over the counted metrics."""
    share, total = step.weight / 100, 0.0
    for test in tests:
        if test.kind is ev.Kind.BOUNDED:
            continue
        factor = 1.0 if test.name in TIMED else step.rate_factor
        seen = scenario.judged_share if test.name == "quality" else 1.0
        b = min(1.0, factor * _rate(test.name, scenario.challenger, scenario))
        if scenario.champion is None:
            limit = test.limit or 0.0
            total += seen * _divergence(b, limit) if b > limit else 0.0
            continue
        a = min(1.0, factor * _rate(test.name, scenario.champion, scenario))
        if b > a:
            q = (1 - share) * a + share * b
            total += seen * ((1 - share) * _divergence(a, q) + share * _divergence(b, q))
    return total


def _divergence(p: float, q: float) -> float:
    """KL(p, q) of two Bernoulli laws, in nats."""
    parts = ((p, q), (1 - p, 1 - q))
    return sum(x * math.log(x / y) for x, y in parts if x > 0)
