"""`shipway simulate`: how a policy fares in a scenario, by seeded traffic through the very code that judges. Pure.

A scenario says what both versions are really like and how traffic reaches them; `simulate` draws many rollouts side by
side and reports how often each verdict came, after how much, and what it cost the users, beside the fewest requests
that any test with these error rates could do with (Wald's bound).
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, Self

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from deploy_targets.judge_policy import Declared, Share
from deploy_targets.rollout import batch
from deploy_targets.rollout import evidence as ev
from deploy_targets.rollout.judge import DECISIONS, NOBODY, metric_tests
from deploy_targets.rollout.observations import PolicyFile, faults_of
from deploy_targets.rollout.sequential import Array, Table
from deploy_targets.rollout.state import Decision
from registry.errors import BadInput

MISS_RATE = 0.05
"""How often the test of Wald's bound may miss a bad challenger."""

WALD = (
    "((1-b) ln((1-b)/a) + b ln(b/(1-a))) / I requests, a = false_rollback_rate, b = 0.05; for each metric that is worse "
    "I = (1-s) KL(p_champion, q) + s KL(p_challenger, q) with q = (1-s) p_champion + s p_challenger and s the "
    "challenger's share, or KL(p_challenger, limit) without a champion; I is summed over metrics, and over the ramp"
)


class Latency(Declared):
    """A lognormal distribution of durations."""

    median_s: Annotated[float, Field(gt=0)]
    """Half of the requests take longer."""
    sigma: Annotated[float, Field(gt=0)] = 0.5
    """Of the logarithm."""

    def slower_than(self, seconds: float) -> float:
        """The share of requests that take longer."""
        return 0.5 * math.erfc(math.log(seconds / self.median_s) / (self.sigma * math.sqrt(2)))


class Cost(Declared):
    """Costs of single requests, millionths of the currency; cut off at 0 and at the policy's maximum."""

    mean_micros: Annotated[float, Field(ge=0)]
    """Of a request."""
    sd_micros: Annotated[float, Field(ge=0)] = 0.0
    """Standard deviation between requests."""


class Truth(Declared):
    """What a version is really like."""

    errors: Share = 0.0
    """The share of failed requests."""
    latency: Latency | None = None
    """How long requests take."""
    quality: Share | None = None
    """The share of bad answers."""
    cost: Cost | None = None
    """What requests cost."""


class RampStep(Declared):
    """A stretch of the rollout."""

    weight: Annotated[float, Field(gt=0, le=100)]
    """The challenger's share of requests, in percent."""
    seconds: Annotated[float, Field(gt=0)] = math.inf
    """How long; the last step lasts until the end."""
    rate_factor: Annotated[float, Field(gt=0)] = 1.0
    """Multiplies the rates of errors and bad answers of both versions in this stretch."""


class SimulatedPolicy(PolicyFile):
    """The policy of `shipway judge`; the names of the versions may be left out."""

    champion: str | None = "champion"
    """Its name; null for a first release."""
    challenger: str = "challenger"
    """Its name."""


class Scenario(Declared):
    """Two versions, their traffic, and the policy that judges it."""

    policy: SimulatedPolicy = SimulatedPolicy()
    """The rules that are tried."""
    champion: Truth | None = Truth(errors=0.01)
    """None for a first release; its policy then says `champion: null` too."""
    challenger: Truth
    """What is being released."""
    requests_per_s: Annotated[float, Field(gt=0)] = 10.0
    """Of the endpoint; their number in an interval is Poisson."""
    interval_s: Annotated[float, Field(gt=0)] = 10.0
    """Between two looks."""
    duration_s: Annotated[float, Field(gt=0)] | None = None
    """When the run is cut off without a verdict; the policy's time limit unless said otherwise."""
    ramp: Annotated[tuple[RampStep, ...], Field(min_length=1)] = (RampStep(weight=50),)
    """The weights, one after the other."""
    judged_share: Annotated[float, Field(gt=0, le=1)] = 0.1
    """The share of answers whose quality is judged."""
    burst_size: Annotated[float, Field(ge=1)] = 1.0
    """Requests of one version come in groups of this mean (geometric), which fail together or not at all."""
    share_drift: Share = 0.0
    """The real share swings around the weight by this much of it, once in 100 intervals, each run in its own phase."""
    counter_resets: Share = 0.0
    """The chance that the counters begin again in an interval, which then says nothing."""
    gaps: Share = 0.0
    """The chance that one version's numbers of an interval are missing."""

    @model_validator(mode="after")
    def _fits_its_policy(self) -> Self:
        if (self.champion is None) != (self.policy.champion is None):
            message = (
                "champion is null in one place only; write it in the scenario and in its policy"
            )
            raise ValueError(message)
        for name in self.policy.metrics.given():
            for side, truth in (("champion", self.champion), ("challenger", self.challenger)):
                if truth is not None and getattr(truth, name) is None:
                    message = f"the policy judges {name}, so {side}.{name} is needed"
                    raise ValueError(message)
        return self

    @property
    def steps(self) -> tuple[RampStep, ...]:
        """The ramp's step of each interval."""
        length = self.duration_s or self.policy.time_limit_s
        ends = np.cumsum([step.seconds for step in self.ramp])
        count = math.ceil(length / self.interval_s)
        middles = (np.arange(count) + 0.5) * self.interval_s
        places: list[int] = np.searchsorted(ends, middles).tolist()
        return tuple(self.ramp[min(place, len(self.ramp) - 1)] for place in places)


class Drawn(NamedTuple):
    """What happened in one interval of R runs, seen or not."""

    requests: Array
    """(R, 2) The champion's and the challenger's."""
    tables: Mapping[str, Table]
    """By metric, as if nothing was missing."""
    is_missing: NDArray[np.bool_]
    """(R, 2) Whose numbers nobody saw."""


Record = Callable[[int, batch.Rows, Drawn], None]


def parse_scenario(text: str, *, origin: str) -> Scenario:
    """The scenario that the YAML `text` declares; `origin` is named in errors.

    Raises:
        BadInput: not YAML, an unknown key, a value out of range, or parts that do not fit together.
    """
    try:
        return Scenario.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        message = f"{origin} is not valid YAML: {error}. Mend it and try again."
        raise BadInput(message) from error
    except ValidationError as error:
        message = f"{origin} is not a valid scenario:\n{faults_of(error)}\nMend it and try again."
        raise BadInput(message) from error


def simulate(
    scenario: Scenario, *, runs: int, seed: int, record: Record | None = None
) -> dict[str, Any]:
    """The report over `runs` rollouts, as JSON values. The same seed gives the same report.

    `record` is told everything that was drawn, so that it can be judged again.
    """
    policy = scenario.policy
    tests = metric_tests(policy, has_champion=policy.champion is not None, is_reported=False)
    traffic = Traffic(scenario, tests, runs=runs, seed=seed, record=record)
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


class Traffic:
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
        rate = _rate(name, truth, self._scenario) * (1.0 if name == "latency" else ramp.rate_factor)
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
    latency = scenario.policy.metrics.latency
    if name == "latency" and truth.latency is not None and latency is not None:
        return truth.latency.slower_than(latency.slo_s)
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
        factor = 1.0 if test.name == "latency" else step.rate_factor
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
