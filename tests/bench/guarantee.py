"""`make bench-guarantee`: the stated rates and what they cost, by simulation, beside what others do.

Prints the tables of docs/guarantee.md, and writes them there with `--write`. Every number comes from `shipway
simulate`'s own code with a fixed seed. The peers judge traffic of the same scenarios, drawn by the same code.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import beta, norm

from deploy_targets.rollout.evidence import MetricTest
from deploy_targets.rollout.judge import metric_tests
from deploy_targets.rollout.scenario import Scenario
from deploy_targets.rollout.simulate import SimulatedTraffic, simulate
from tests.bench.peers import CONFSEQ, SLOW_RUNS, STATED, Watched, peers

PAGE = Path(__file__).parents[2] / "docs" / "guarantee.md"
BEGIN, END = "<!-- numbers: begin -->", "<!-- numbers: end -->"
SEED = 20261125
FOREVER = {"by": "exposure", "requests": 10**9}
RAMP = [
    {"weight": 5, "seconds": 1200, "rate_factor": 0.5},
    {"weight": 25, "seconds": 1200, "rate_factor": 1.0},
    {"weight": 50, "rate_factor": 2.0},
]
LATENCY = {"slo_s": 1.0}
FIVE_PERCENT_SLOW = {"median_s": 1.0, "sigma": 0.5}
THREE = {"latency": LATENCY, "quality": {}}


def scenario(*, policy: dict[str, Any] | None = None, **changes: Any) -> Scenario:
    """An hour at 10 requests/s, looked at every 10 s; nothing but evidence ends a rollout before."""
    rules = {"promote": FOREVER, "time_limit_s": 3600, "false_rollback_rate": STATED}
    versions = {"champion": {"errors": 0.01}, "challenger": {"errors": 0.01}}
    return Scenario.model_validate({**versions, **changes, "policy": {**rules, **(policy or {})}})


def slow(share: float) -> dict[str, float]:
    """A latency of which this share is above 1 s."""
    return {"median_s": float(np.exp(-0.5 * norm.isf(share))), "sigma": 0.5}


def three(errors: float) -> dict[str, Any]:
    """A version with all three metrics, of which only errors vary."""
    return {"errors": errors, "latency": slow(0.05), "quality": 0.2}


HARMLESS = {
    "independent, 50 %": scenario(),
    "independent, 5 %": scenario(ramp=[{"weight": 5}]),
    "share drifts by half of itself": scenario(ramp=[{"weight": 25}], share_drift=0.5),
    "ramp 5, 25, 50 % while the error rate goes 0.5, 1, 2 %": scenario(ramp=RAMP),
    "counters reset in 5 % of the intervals": scenario(counter_resets=0.05),
    "a version is missing in 10 % of the intervals": scenario(gaps=0.1),
    "three metrics, ramp": scenario(
        policy={"metrics": THREE}, champion=three(0.01), challenger=three(0.01), ramp=RAMP
    ),
    "bursts: true, no bursts, ramp": scenario(policy={"bursts": True}, ramp=RAMP),
    "bursts: true, of 2, 50 %": scenario(policy={"bursts": True}, burst_size=2),
    "bursts: true, of 2, 5 %": scenario(
        policy={"bursts": True}, burst_size=2, ramp=[{"weight": 5}]
    ),
    "bursts: true, of 2, ramp": scenario(policy={"bursts": True}, burst_size=2, ramp=RAMP),
    "bursts: true, of 5, 50 %": scenario(policy={"bursts": True}, burst_size=5),
    "bursts: true, of 5, 5 %": scenario(
        policy={"bursts": True}, burst_size=5, ramp=[{"weight": 5}]
    ),
    "bursts: true, of 5, ramp": scenario(policy={"bursts": True}, burst_size=5, ramp=RAMP),
}
BROKEN = {
    "bursts: false, of 2, 50 %": scenario(burst_size=2),
    "bursts: false, of 5, 50 %": scenario(burst_size=5),
}


def at_the_edge(*, policy: dict[str, Any] | None = None, **changes: Any) -> Scenario:
    """A challenger that is worse by exactly the tolerance, and a policy that hardly ever rolls back before it errs."""
    rules = {"promote": {"by": "claim"}, "false_rollback_rate": 1e-9, "time_limit_s": 7200}
    return scenario(policy={**rules, **(policy or {})}, challenger={"errors": 0.03}, **changes)


STEADY = [{"weight": 5, "seconds": 1200}, {"weight": 25, "seconds": 1200}, {"weight": 50}]
EDGES = {
    "independent, 50 %": at_the_edge(),
    "independent, 5 %": at_the_edge(ramp=[{"weight": 5}]),
    "ramp 5, 25, 50 %": at_the_edge(ramp=STEADY),
    "share drifts, resets and gaps": at_the_edge(share_drift=0.5, counter_resets=0.05, gaps=0.1),
    "bursts: true, of 2, ramp": at_the_edge(policy={"bursts": True}, burst_size=2, ramp=STEADY),
    "bursts: true, of 5, ramp": at_the_edge(policy={"bursts": True}, burst_size=5, ramp=STEADY),
    "bursts: true, of 5, 5 %": at_the_edge(
        policy={"bursts": True}, burst_size=5, ramp=[{"weight": 5}]
    ),
}

EFFECTS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "errors 1 → 3 %": ({}, {"errors": 0.01}, {"errors": 0.03}),
    "errors 1 → 2 %": ({}, {"errors": 0.01}, {"errors": 0.02}),
    "errors 0.1 → 1 %": ({}, {"errors": 0.001}, {"errors": 0.01}),
    "slower than 1 s 5 → 10 %": (
        {"errors": None, "latency": LATENCY},
        {"latency": slow(0.05)},
        {"latency": slow(0.1)},
    ),
    "bad answers 20 → 25 %, all judged": (
        {"errors": None, "quality": {}},
        {"quality": 0.2},
        {"quality": 0.25},
    ),
    "errors 1 → 3 %, three metrics": (THREE, three(0.01), three(0.03)),
    "errors 1 → 2 %, three metrics": (THREE, three(0.01), three(0.02)),
    "errors 0.1 → 1 %, three metrics": (THREE, three(0.001), three(0.01)),
}


def effect(name: str, weight: float, **changes: Any) -> Scenario:
    """One of `EFFECTS` at that weight, until it is found."""
    metrics, champion, challenger = EFFECTS[name]
    policy = {"metrics": metrics, "time_limit_s": 10**6, **changes.pop("policy", {})}
    ramp = [{"weight": weight}]
    versions = {"champion": champion, "challenger": challenger}
    return scenario(policy=policy, **versions, ramp=ramp, judged_share=1, **changes)


def watch(described: Scenario, *, runs: int) -> Watched:
    """All that happens in an hour, whatever a judge would say."""
    tests: tuple[MetricTest, ...] = metric_tests(
        described.policy, has_champion=True, is_reported=False
    )
    traffic = SimulatedTraffic(described, tests, runs=runs, seed=SEED)
    rows = np.arange(runs)
    tables = [traffic.interval(step, rows).tables[0] for step in range(len(described.steps))]
    return Watched(*(np.stack(parts, axis=1) for parts in zip(*tables, strict=True)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One table of the page."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """The title, then the table."""
        lines = [self.head, tuple("---" for _ in self.head), *self.rows]
        return "\n".join([f"**{self.title}**", "", *(f"| {' | '.join(line)} |" for line in lines)])


def lower_bound(count: int, runs: int) -> float:
    """The one-sided 99 % lower bound on a rate (Clopper and Pearson 1934)."""
    return float(beta.ppf(0.01, count, runs - count + 1)) if count else 0.0


def rates(title: str, verdict: str, scenarios: dict[str, Scenario], *, runs: int) -> Table:
    """How often that verdict came where it is wrong."""
    rows: list[tuple[str, ...]] = []
    for name, described in scenarios.items():
        rate = simulate(described, runs=runs, seed=SEED)["rates"][verdict]
        lower = lower_bound(round(rate * runs), runs)
        rows.append((name, f"{rate:.2%}", f"{lower:.2%}"))
        _say(f"{title}: {rows[-1]}")
    return Table(
        title=title, head=("scenario", "measured", "99 % lower bound of it"), rows=tuple(rows)
    )


def _cells(report: dict[str, Any]) -> tuple[str, str, str, str]:
    found, wald = report["roll_back"], report["wald"]
    return (
        f"{found['requests']['mean']:,.0f} / {found['requests']['p95']:,.0f}",
        f"{found['challenger_requests']['mean']:,.0f}",
        f"{wald['requests']:,.0f}",
        f"{wald['ratio']:.2f}",
    )


def efficiency(*, runs: int) -> Table:
    """How many requests until a worse challenger is rolled back."""
    rows: list[tuple[str, ...]] = []
    for name in EFFECTS:
        for weight in (50, 5):
            report = simulate(effect(name, weight), runs=runs, seed=SEED)
            rows.append((name, f"{weight} %", *_cells(report)))
            _say(f"efficiency: {rows[-1]}")
    head = ("effect", "weight", "requests, mean / p95", "challenger's, mean", "Wald", "ratio")
    return Table(title="Requests to rollback, and Wald's bound", head=head, rows=tuple(rows))


def time_to_promotion(*, runs: int) -> Table:
    """How many requests until a challenger like its champion is shown to be worse by less than the tolerance."""
    rows: list[tuple[str, ...]] = []
    for name, policy, size in (
        ("errors 1 %", {}, 1.0),
        ("errors 1 %, bursts: true, of 1", {"bursts": True}, 1.0),
        ("errors 1 %, bursts: true, of 5", {"bursts": True}, 5.0),
    ):
        for label, ramp in (("50 %", [{"weight": 50}]), ("5 %", [{"weight": 5}]), ("ramp", STEADY)):
            rules = {"promote": {"by": "claim"}, "time_limit_s": 10**6, **policy}
            report = simulate(
                scenario(policy=rules, ramp=ramp, burst_size=size), runs=runs, seed=SEED
            )
            found = report["promote"]
            spread = f"{found['requests']['mean']:,.0f} / {found['requests']['p95']:,.0f}"
            minutes = f"{found['seconds']['mean'] / 60:,.0f} min"
            rows.append((name, label, f"{report['rates']['promote']:.1%}", spread, minutes))
            _say(f"promotion: {rows[-1]}")
    head = ("both versions", "weight", "promoted", "requests, mean / p95", "time at 10 requests/s")
    return Table(
        title="Requests to promotion by claim, tolerance 2 points", head=head, rows=tuple(rows)
    )


def price_of_bursts(*, runs: int) -> Table:
    """What `bursts: true` costs."""
    rows: list[tuple[str, ...]] = []
    for size in (1, 2, 5):
        for weight in (50, 5):
            described = effect(
                "errors 1 → 3 %", weight, policy={"bursts": True}, burst_size=float(size)
            )
            requests, challenger, _, _ = _cells(simulate(described, runs=runs, seed=SEED))
            rows.append((str(size), f"{weight} %", requests, challenger))
            _say(f"bursts: {rows[-1]}")
    head = ("mean burst", "weight", "requests, mean / p95", "challenger's, mean")
    return Table(
        title="Requests to rollback with bursts: true, errors 1 → 3 %", head=head, rows=tuple(rows)
    )


def beside_others(*, runs: int) -> Table:
    """Shipway and its peers, on an hour of the same traffic."""
    rows: list[tuple[str, ...]] = []
    for weight in (50, 5):
        ramp = [{"weight": weight}]
        good = scenario(ramp=ramp)
        bad = scenario(ramp=ramp, challenger={"errors": 0.03})
        seen_good, seen_bad = watch(good, runs=runs), watch(bad, runs=runs)
        false = simulate(good, runs=runs, seed=SEED)["rates"]["roll_back"]
        report = simulate(bad, runs=runs, seed=SEED)
        found = report["rates"]["roll_back"]
        mean = report["roll_back"]["requests"]["mean"]
        rows.append((f"{weight} %", "Shipway", f"{false:.2%}", f"{found:.1%}", f"{mean:,.0f}"))
        for name, peer in peers(weight / 100).items():
            intervals = seen_good.champion_n.shape[1]
            some = SLOW_RUNS if name == CONFSEQ else runs
            wrong = (peer(Watched(*(part[:some] for part in seen_good))) < intervals).mean()
            ends = peer(Watched(*(part[:some] for part in seen_bad)))
            hit = np.flatnonzero(ends < intervals)
            totals = np.cumsum(seen_bad.champion_n + seen_bad.challenger_n, axis=1)
            taken = totals[hit, ends[hit]].mean() if hit.size else float("nan")
            told = "-" if np.isnan(taken) else f"{taken:,.0f}"
            rows.append((f"{weight} %", name, f"{wrong:.2%}", f"{hit.size / some:.1%}", told))
        _say(f"peers at {weight} %: done")
    head = (
        "weight",
        "rule",
        "rolls back a version alike (1 %, 1 %)",
        "finds 1 → 3 % within the hour",
        "requests until then, mean",
    )
    return Table(title="An hour at 10 requests/s, judged by others", head=head, rows=tuple(rows))


def tables(*, runs: int) -> Iterator[Table]:
    """All tables of the page."""
    yield rates("False rollbacks at a stated 1 %", "roll_back", HARMLESS, runs=runs)
    yield rates("What breaks it", "roll_back", BROKEN, runs=runs)
    yield rates("False promotions by claim at a stated 5 %", "promote", EDGES, runs=runs)
    yield efficiency(runs=runs)
    yield price_of_bursts(runs=max(1, runs // 10))
    yield time_to_promotion(runs=max(1, runs // 10))
    yield beside_others(runs=max(1, runs // 4))


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def main(arguments: Sequence[str]) -> int:
    """Prints the tables; writes them into the page where asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20_000)
    parser.add_argument("--write", action="store_true", help=f"put them into {PAGE.name}")
    chosen = parser.parse_args(arguments)
    started = time.monotonic()
    text = "\n\n".join(table.markdown() for table in tables(runs=chosen.runs))
    sys.stdout.write(f"{text}\n")
    _say(f"{time.monotonic() - started:.0f} s")
    if chosen.write:
        page = PAGE.read_text()
        before, rest = page.split(BEGIN)
        after = rest.split(END)[1]
        PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
