"""What a policy and an observations file mean, and what is refused or held. Verdicts are in test_judge_series."""

import json
from typing import Any

import numpy as np
import pytest

from deploy_targets.rollout.observations import PolicyFile, Series, parse_observations, parse_policy
from registry.errors import BadInput

THE_EXAMPLE = """
{champion: "6", challenger: "7", false_rollback_rate: 0.01, false_promotion_rate: 0.05, bursts: false,
 time_limit_s: 36000, metrics: {errors: {tolerance: 0.02, rollback_margin: 0.0}, latency: {slo_s: 1.0, tolerance: 0.05},
 quality: {tolerance: 0.05}, cost: {max_per_request_micros: 40, tolerance: 0.1}}, promote: {by: claim}}
"""
POLICY = parse_policy(THE_EXAMPLE, origin="policy.yaml")


def a_line(**changes: Any) -> str:
    line = {
        "series": "a",
        "interval": 12,
        "seconds": 10,
        "version": "7",
        "requests": 95,
        "errors": 1,
        "latency_s": {"0.5": 80, "1.0": 93, "+Inf": 95},
        "quality": {"judged": 10, "failed": 1},
        "cost_micros": 900,
    }
    return json.dumps({**line, **changes})


def parsed(*lines: str, policy: PolicyFile = POLICY) -> tuple[Series, ...]:
    return parse_observations(lines, policy, origin="obs.jsonl")


def test_the_issues_example_is_read_into_one_row_for_each_metric() -> None:
    (series,) = parsed(a_line(version="6", requests=400, errors=2, latency_s=None), a_line())
    assert series.intervals.tolist() == [12]
    assert series.requests.tolist() == [[400, 95]]
    assert series.tables["errors"].tolist() == [[400, 2, 95, 1]]
    assert series.tables["latency"].tolist() == [[0, 0, 95, 2]]
    assert series.tables["quality"].tolist() == [[10, 1, 10, 1]]
    np.testing.assert_allclose(series.tables["cost"], [[400, 22.5, 95, 22.5]])


def test_series_and_intervals_may_come_in_any_order() -> None:
    lines = [
        a_line(series=series, interval=at, version=version)
        for series in ("b", "a")
        for at in (3, 1, 2)
        for version in ("7", "6")
    ]
    b, a = parsed(*lines)
    assert (b.name, a.name) == ("b", "a")
    assert a.intervals.tolist() == [1, 2, 3]
    assert a.elapsed_s.tolist() == [10, 20, 30]


def test_intervals_that_are_missing_take_time_all_the_same() -> None:
    (series,) = parsed(a_line(interval=1), a_line(interval=5))
    assert series.elapsed_s.tolist() == [10, 50]


def test_a_version_that_is_missing_is_a_gap_and_another_version_is_left_out() -> None:
    (series,) = parsed(a_line(), a_line(version="5"))
    assert not series.requests.any()
    assert not series.held


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"requests": -1, "errors": 0}, "requests is -1.0, not a count"),
        ({"errors": -1}, "errors is -1.0, not a count"),
        ({"errors": float("nan")}, "errors is nan, not a count"),
        ({"errors": float("inf")}, "errors is inf"),
        ({"errors": 0.5}, "errors is 0.5, not a count"),
        ({"errors": 96}, "96 errors in 95 requests"),
        ({"seconds": 0}, "seconds is 0.0"),
        ({"quality": {"judged": 1, "failed": 2}}, "2 bad answers in 1 judged"),
        ({"latency_s": {"0.5": 94, "1.0": 93, "+Inf": 95}}, "does not rise"),
        ({"latency_s": {"0.5": 80, "1.0": 93}}, "must end with +Inf"),
        ({"latency_s": {"1.0": 93, "+Inf": 96}}, "at most as many requests as there were"),
        ({"latency_s": {"soon": 93, "1.0": 94, "+Inf": 95}}, "a bound that is no number: soon"),
        ({"latency_s": {"1.0": -3, "+Inf": 95}}, "latency_s is -3.0, not a count"),
        ({"cost_micros": -1}, "cost_micros is -1"),
        ({"cost_micros": 3801}, "more than max_per_request_micros (40) allows"),
    ],
)
def test_an_increment_that_cannot_be_true_holds_its_interval(
    change: dict[str, Any], reason: str
) -> None:
    (series,) = parsed(a_line(version="6"), a_line(**change))
    assert not series.requests.any()
    assert not any(table.any() for table in series.tables.values())
    (held,) = series.held
    assert held.interval == 12
    assert held.reason.startswith("version 7: ")
    assert reason in held.reason


@pytest.mark.parametrize("again", [a_line(), a_line(errors=0), a_line(errors=-1)])
def test_an_increment_that_is_there_twice_is_not_counted_at_all(again: str) -> None:
    (series,) = parsed(a_line(), a_line(version="6"), again)
    assert not series.requests.any()
    assert series.held[0].reason == "version 7: it is there twice"


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        "[]",
        a_line()[:-1],
        a_line(interval=1.5),
        a_line(errors="1"),
        a_line(errors=None),
        a_line(latency={"1.0": 3}),
        json.dumps({"series": "a", "interval": 1, "seconds": 10, "version": "7", "requests": 3}),
    ],
)
def test_a_line_that_cannot_be_read_is_named(line: str) -> None:
    with pytest.raises(BadInput, match=r"obs\.jsonl, line 3 cannot be read"):
        parsed(a_line(), "", line)


def test_an_objective_that_is_no_bucket_bound_is_refused_at_the_line_that_shows_it() -> None:
    with pytest.raises(BadInput, match=r"line 2: metrics\.latency\.slo_s is 1, .* \(0\.5, 2\)"):
        parsed(a_line(latency_s=None), a_line(version="6", latency_s={"0.5": 1, "2": 2, "+Inf": 3}))


def test_first_token_and_per_token_are_histograms_of_their_own() -> None:
    policy = parse_policy(
        "{champion: 6, challenger: 7, metrics: {first_token: {slo_s: 0.2}, per_token: {slo_s: 0.05}}}",
        origin="policy.yaml",
    )
    first, each = {"0.2": 90, "+Inf": 95}, {"0.05": 80, "+Inf": 94}
    lines = [
        a_line(version=version, first_token_s=first, per_token_s=each) for version in ("6", "7")
    ]
    (series,) = parsed(*lines, policy=policy)
    assert series.tables["first_token"].tolist() == [[95, 5, 95, 5]]
    assert series.tables["per_token"].tolist() == [[94, 14, 94, 14]]
    assert series.histograms["per_token"].bounds == (0.05, float("inf"))


def test_histograms_add_up_over_intervals_and_are_dropped_when_their_bounds_change() -> None:
    lines = [a_line(interval=at, version=version) for at in (1, 2) for version in ("6", "7")]
    (series,) = parsed(*lines, a_line(interval=3))
    assert series.histograms["latency"].within[:, 1].tolist() == [
        [80, 93, 95],
        [160, 186, 190],
        [160, 186, 190],
    ]
    (series,) = parsed(*lines, a_line(interval=3, latency_s={"1.0": 93, "+Inf": 95}))
    assert not series.histograms


def test_no_observation_is_refused() -> None:
    with pytest.raises(BadInput, match="holds no observation"):
        parsed("", "  ")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{challenger: '7', champion: '7'}", "name two"),
        ("{challenger: '7'}", "champion: Field required"),
        ("{challenger: '7', champion: '6', false_rollback_rate: 0.5}", "less than 0.5"),
        ("{challenger: '7', champion: '6', false_promotion_rate: 0.6}", "less than 0.5"),
        (
            "{challenger: '7', champion: '6', metrics: {errors: {tolerance: 0}}}",
            "give a tolerance above 0, or promote: {by: exposure, requests: N}",
        ),
        (
            "{challenger: '7', champion: '6', metrics: {errors: {tolerance: 0.1, rollback_margin: 0.2}}}",
            "lower rollback_margin or raise tolerance",
        ),
        ("{challenger: '7', champion: '6', metrics: {errors: null}}", "no metric is left"),
        (
            "{challenger: '7', champion: null, metrics: {errors: null, quality: {}}}",
            "without a champion a metric needs a limit",
        ),
        ("{challenger: '7', champion: '6', metric: {}}", "metric: Extra inputs"),
        ("{challenger: '7', champion: '6', promote: {by: luck}}", "promote"),
        ("{", "is not valid YAML"),
        ("[]", "is not a valid policy"),
    ],
)
def test_a_policy_that_contradicts_itself_is_refused_with_the_way_out(text: str, told: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_policy(text, origin="policy.yaml")
    assert "policy.yaml" in str(caught.value)
    assert told in str(caught.value)


def test_zero_tolerance_is_fine_where_exposure_promotes() -> None:
    text = (
        "{champion: 6, challenger: 7, metrics: {errors: {tolerance: 0}}, promote: {by: exposure}}"
    )
    assert parse_policy(text, origin="policy.yaml").versions == ("6", "7")
