"""`shipway simulate`: the judge's own code over drawn traffic, and the promise by it. The bench has 20,000 runs each."""

import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom
from typer.testing import CliRunner

from deploy_targets.cli import app
from deploy_targets.rollout.batch import Rows
from deploy_targets.rollout.judge import DECISIONS
from deploy_targets.rollout.judge_series import judge_series
from deploy_targets.rollout.observations import parse_observations
from deploy_targets.rollout.scenario import Scenario, parse_scenario
from deploy_targets.rollout.simulate import (
    Drawn,
    draw_bad,
    simulate,
    summary,
)
from registry.errors import BadInput

RAMP = [
    {"weight": 5, "seconds": 600, "rate_factor": 0.5},
    {"weight": 25, "seconds": 600},
    {"weight": 50, "rate_factor": 2},
]
FOREVER = {"by": "exposure", "requests": 10**9}


def a_scenario(**changes: Any) -> Scenario:
    return Scenario.model_validate({"challenger": {"errors": 0.01}, **changes})


def an_hour(*, bursts: bool = False, **changes: Any) -> Scenario:
    """An hour at 10 requests/s in which nothing but evidence of harm ends a rollout."""
    policy = {"bursts": bursts, "promote": FOREVER, "time_limit_s": 3600}
    return a_scenario(policy=policy, **changes)


class Recorder:
    """Writes what was drawn as the lines of an observations file, until a run has ended."""

    def __init__(self, slo_s: float, top_micros: float) -> None:
        self.lines: dict[int, list[str]] = defaultdict(list)
        self._slo_s, self._top = slo_s, top_micros

    def __call__(self, step: int, rows: Rows, drawn: Drawn) -> None:
        for at, run in enumerate(rows.tolist()):
            for side, version in enumerate(("champion", "challenger")):
                if not drawn.is_missing[at, side]:
                    self.lines[run].append(self._line(run, step, version, side, at, drawn))

    def _line(self, run: int, step: int, version: str, side: int, at: int, drawn: Drawn) -> str:
        def pair(name: str) -> tuple[float, float]:
            n, bad = drawn.tables[name][2 * side : 2 * side + 2]
            return float(n[at]), float(bad[at])

        n, slow = pair("latency")
        judged, failed = pair("quality")
        line = {
            "series": str(run),
            "interval": step,
            "seconds": 10,
            "version": version,
            "requests": n,
            "errors": pair("errors")[1],
            "latency_s": {str(self._slo_s): n - slow, "+Inf": n},
            "quality": {"judged": judged, "failed": failed},
            "cost_micros": pair("cost")[1] * self._top,
        }
        return json.dumps(line)


@pytest.mark.parametrize("bursts", [False, True])
@pytest.mark.parametrize("promote", [{"by": "claim"}, {"by": "exposure", "requests": 700}])
def test_it_gives_the_very_verdicts_that_judge_gives(
    promote: dict[str, Any],
    *,
    bursts: bool,
) -> None:
    """Everything that was drawn is written down and judged again: same verdict, interval and metric for each run."""
    metrics = {
        "latency": {"slo_s": 1.0},
        "quality": {"rollback_margin": 0.02},
        "cost": {"max_per_request_micros": 40},
    }
    version = {
        "errors": 0.01,
        "latency": {"median_s": 0.5, "sigma": 0.4},
        "quality": 0.2,
        "cost": {"mean_micros": 20, "sd_micros": 5},
    }
    scenario = a_scenario(
        policy={"metrics": metrics, "promote": promote, "bursts": bursts, "time_limit_s": 3000},
        champion=version,
        challenger={**version, "errors": 0.02},
        ramp=RAMP,
        burst_size=2,
        share_drift=0.3,
        counter_resets=0.02,
        gaps=0.05,
    )
    runs = 40
    recorder = Recorder(1.0, 40)
    report = simulate(scenario, runs=runs, seed=5, record=recorder)
    policy = scenario.policy
    text = [line for run in range(runs) for line in recorder.lines[run]]
    verdicts = judge_series(parse_observations(text, policy, origin="drawn"), policy)
    counted = {
        decision.value: sum(one.verdict is decision for one in verdicts) / runs
        for decision in DECISIONS
    }
    assert report["rates"] == pytest.approx(counted)
    assert counted["hold"] == 0
    for decision in ("roll_back", "promote"):
        steps = [one.interval for one in verdicts if one.verdict == decision]
        mean = np.mean([(step or 0) + 1 for step in steps]) * 10 if steps else None
        assert mean == pytest.approx(
            report[decision]["seconds"] and report[decision]["seconds"]["mean"]
        )


@pytest.mark.parametrize(
    "scenario",
    [
        an_hour(),
        an_hour(share_drift=0.5),
        an_hour(ramp=RAMP),
        an_hour(counter_resets=0.1, gaps=0.1),
        an_hour(bursts=True, burst_size=2),
        an_hour(bursts=True, burst_size=5, ramp=RAMP),
        an_hour(bursts=True, burst_size=5, ramp=[{"weight": 5}]),
    ],
    ids=["iid", "drift", "ramp", "gaps", "bursts-of-2", "bursts-of-5-ramp", "bursts-of-5-at-5"],
)
def test_a_challenger_alike_is_rolled_back_no_more_often_than_stated(scenario: Scenario) -> None:
    report = simulate(scenario, runs=2_000, seed=20261125)
    assert report["rates"]["roll_back"] * 2_000 <= binom(2_000, 0.01).ppf(0.999)


def test_the_stated_rate_holds_with_quality_among_the_metrics() -> None:
    """As the guard measures it: every answer is judged, one in ten is bad, and some intervals are lost."""
    metrics = {"latency": {"slo_s": 1.0}, "quality": {}}
    version = {"errors": 0.01, "latency": {"median_s": 0.5, "sigma": 0.4}, "quality": 0.1}
    changes: dict[str, Any] = {
        "policy": {"metrics": metrics, "promote": FOREVER, "time_limit_s": 3600},
        "champion": version,
        "judged_share": 1.0,
        "gaps": 0.1,
        "ramp": RAMP,
    }
    alike = simulate(a_scenario(**changes, challenger=version), runs=2_000, seed=20261126)
    assert alike["rates"]["roll_back"] * 2_000 <= binom(2_000, 0.01).ppf(0.999)
    worse = a_scenario(**changes, challenger={**version, "quality": 0.2})
    found = simulate(worse, runs=200, seed=1)
    assert found["rates"]["roll_back"] > 0.95
    assert found["rolled_back_by"]["quality"] >= 0.95 * 200


def test_bursts_break_the_test_for_independent_failures() -> None:
    """Or the robust one would be for nothing."""
    report = simulate(an_hour(burst_size=5), runs=500, seed=1)
    assert report["rates"]["roll_back"] > 0.3


@pytest.mark.parametrize("bursts", [False, True])
def test_a_challenger_at_the_edge_is_promoted_no_more_often_than_stated(*, bursts: bool) -> None:
    policy = {"bursts": bursts, "time_limit_s": 7200, "false_rollback_rate": 1e-12}
    scenario = a_scenario(policy=policy, challenger={"errors": 0.03})
    report = simulate(scenario, runs=2_000, seed=20261125)
    assert report["rates"]["promote"] * 2_000 <= binom(2_000, 0.05).ppf(0.999)
    good = simulate(a_scenario(policy=policy), runs=200, seed=1)
    assert good["rates"]["promote"] > 0.95


@pytest.mark.parametrize(("weight", "bound", "most"), [(50, 1566, 1.4), (5, 6857, 1.5)])
def test_a_threefold_error_rate_is_found_nearly_as_fast_as_theory_allows(
    weight: int, bound: float, most: float
) -> None:
    scenario = a_scenario(
        policy={"promote": FOREVER}, challenger={"errors": 0.03}, ramp=[{"weight": weight}]
    )
    report = simulate(scenario, runs=6_000, seed=20261125)
    assert report["rates"]["roll_back"] == 1
    assert report["wald"]["requests"] == pytest.approx(bound, abs=1)
    assert report["wald"]["ratio"] <= most


def test_walds_bound_follows_the_ramp_and_is_silent_where_nothing_is_worse() -> None:
    worse = {"challenger": {"errors": 0.03}, "policy": {"promote": FOREVER}}
    slow = simulate(a_scenario(**worse, ramp=[{"weight": 5}]), runs=10, seed=1)["wald"]
    ramp = [{"weight": 5, "seconds": 100}, {"weight": 50}]
    quicker = simulate(a_scenario(**worse, ramp=ramp), runs=10, seed=1)["wald"]
    assert quicker["requests"] < slow["requests"]
    assert simulate(a_scenario(), runs=10, seed=1)["wald"] is None


def test_exposure_counts_what_users_met_gaps_included() -> None:
    policy = {"promote": FOREVER, "time_limit_s": 1000}
    scenario = a_scenario(policy=policy, gaps=0.9, ramp=[{"weight": 25}])
    report = simulate(scenario, runs=200, seed=1)
    assert report["rates"]["inconclusive"] == 1
    assert report["exposure"]["challenger_requests"]["mean"] == pytest.approx(2_500, rel=0.02)
    assert report["exposure"]["challenger_errors"]["mean"] == pytest.approx(25, rel=0.1)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_bursts_keep_the_rate_and_have_their_size(size: int) -> None:
    """The variance of the number of bad ones among n in geometric groups is close to n p (1-p) (2 size - 1)."""
    n = np.full(100_000, 200)
    bad = draw_bad(np.random.default_rng(1), n, 0.05, burst_size=size)
    assert bad.mean() == pytest.approx(10, rel=0.01)
    assert bad.var() == pytest.approx(9.5 * (2 * size - 1), rel=0.06)
    assert bad.max() <= 200


def test_a_latency_distribution_gives_the_share_beyond_an_objective() -> None:
    truth = a_scenario(challenger={"latency": {"median_s": 1.0, "sigma": 0.5}}).challenger
    assert truth.latency is not None
    assert truth.latency.slower_than(1.0) == pytest.approx(0.5)
    assert truth.latency.slower_than(math.e) == pytest.approx(0.02275, rel=1e-3)


def test_the_same_seed_gives_the_same_report_and_another_one_another(tmp_path: Path) -> None:
    file = tmp_path / "scenario.yaml"
    file.write_text("challenger: {errors: 0.05}\n")

    def told(seed: int) -> dict[str, Any]:
        arguments = ["simulate", "--scenario", str(file), "--runs", "50", "--json"]
        return json.loads(CliRunner().invoke(app, [*arguments, "--seed", str(seed)]).stdout)

    assert told(1) == told(1)
    assert told(1)["roll_back"] != told(2)["roll_back"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"challenger": {"errors": 0.05}}, "roll_back     100.00% ± 0.00%   after "),
        ({"challenger": {"errors": 0.05}}, "times that"),
        ({}, "no counted metric of the challenger is worse"),
        ({"challenger": {"errors": 0.011}, "duration_s": 100}, "lies beyond its end"),
    ],
)
def test_the_report_is_told_to_people_too(changes: dict[str, Any], told: str) -> None:
    report = simulate(a_scenario(policy={"promote": FOREVER}, **changes), runs=50, seed=1)
    assert told in "\n".join(summary(report))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{champion: {errors: 0.01}}", "challenger: Field required"),
        ("{challenger: {}, champion: null}", "champion is null in one place only"),
        (
            "{challenger: {}, policy: {metrics: {latency: {slo_s: 1}}}}",
            "the policy judges latency, so champion.latency is needed",
        ),
        ("{challenger: {errors: 2}}", "challenger.errors"),
        ("{challenger: {}, ramp: []}", "ramp"),
        ("]", "not valid YAML"),
        ("{challenger: {}, requests_per_s: 1.0e+18}", "requests_per_s"),
        ("{challenger: {}, requests_per_s: 90000, interval_s: 10}", "shorten interval_s"),
        ("{challenger: {}, interval_s: 1.0e-9}", "lengthen interval_s"),
        ("{challenger: {latency: {median_s: .inf}}}", "median_s"),
    ],
)
def test_a_scenario_that_does_not_fit_together_is_refused(text: str, told: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_scenario(text, origin="scenario.yaml")
    assert told in str(caught.value)


def test_a_first_release_is_simulated_by_its_limit() -> None:
    scenario = a_scenario(policy={"champion": None}, champion=None, challenger={"errors": 0.1})
    report = simulate(scenario, runs=200, seed=1)
    assert report["rates"]["roll_back"] > 0.9
    assert report["wald"]["ratio"] < 2
