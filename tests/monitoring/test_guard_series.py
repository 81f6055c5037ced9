"""What is recorded of tokens, cost, cache, limits and queues, and the alerts on it, by Prometheus' own test tool."""

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from deploy_targets import metrics
from deploy_targets.guard.counters import Counters
from deploy_targets.monitoring import guard_recordings, limits
from deploy_targets.monitoring.dashboards import dashboard_json
from deploy_targets.monitoring.recordings import (
    ERROR_RATIO,
    REQUEST_RATE,
    Recording,
    endpoint_error_ratio,
)
from deploy_targets.monitoring.rules import rule_groups
from tests.monitoring.promtool import Series, expect, expect_alerts, expect_silence, traffic

VERSION = '{endpoint="chat", version="1"}'


def grown(name: str, by: float, labels: str, *, minutes: int = 60) -> Series:
    """A counter of the endpoint that grows by so much a minute, on one of two guards."""
    return {f'{name}{{endpoint="chat", {labels}, instance="a"}}': f"0+{by:.10g}x{minutes}"}


def of_version(name: str, by: float, *, route: str = "chat") -> Series:
    return grown(name, by, f'version="1", route="{route}"')


def waits(name: str, *, seconds: float, count: float) -> Series:
    """A histogram of streams that all take so long."""
    bounds = [f"{bound:g}" for bound in metrics.FIRST_TOKEN.buckets] + ["+Inf"]
    series = of_version(f"{name}_count", count)
    for bound in bounds:
        within = count if float(bound) >= seconds else 0
        series |= grown(f"{name}_bucket", within, f'version="1", route="chat", le="{bound}"')
    return series


def test_tokens_and_cost_are_those_of_the_split_and_not_of_pinned_requests(tmp_path: Path) -> None:
    series = traffic(requests=600)
    for name, each in (
        (metrics.PROMPT_TOKENS.name, 20),
        (metrics.COMPLETION_TOKENS.name, 100),
        (metrics.COST.name, 35),
    ):
        series |= of_version(name, 600 * each) | of_version(name, 10**9, route="pinned")
    for recording, value in (
        (guard_recordings.PROMPT_RATE, 200),
        (guard_recordings.COMPLETION_RATE, 1000),
        (guard_recordings.COST_PER_REQUEST, 35),
    ):
        expect(tmp_path, series, f"round({recording.record}, 0.001)", {VERSION: value})


@pytest.mark.parametrize(
    "recording", guard_recordings.GUARD_RECORDINGS, ids=lambda recording: recording.record
)
def test_an_endpoint_at_rest_has_no_nan(tmp_path: Path, recording: Recording) -> None:
    counters = (metrics.REQUESTS, metrics.COST, metrics.QUEUE_FULL, metrics.PROMPT_TOKENS)
    series: Series = {}
    for one in counters:
        series |= of_version(one.name, 0)
    series |= grown(metrics.CACHE.name, 0, 'result="hit"')
    series |= grown(metrics.CACHE.name, 0, 'result="miss"')
    series |= of_version(metrics.QUALITY_JUDGED.name, 0) | of_version(metrics.QUALITY_BAD.name, 0)
    series |= of_version(metrics.REQUESTS.name, 0, route="retry")
    series |= waits(metrics.FIRST_TOKEN.name, seconds=1, count=0)
    likeness = metrics.SHADOW_LIKENESS.name
    series |= grown(f"{likeness}_bucket", 0, 'version="1", le="+Inf"')
    series |= grown(f"{likeness}_count", 0, 'version="1"')
    expect(tmp_path, series, f"{recording.record} != {recording.record}", {})


def test_the_share_of_hits_is_of_what_could_have_been_there(tmp_path: Path) -> None:
    series: Series = {}
    for result, times in (("hit", 60), ("miss", 20), ("paused", 20), ("skipped", 900)):
        series |= grown(metrics.CACHE.name, times, f'result="{result}"')
    record = guard_recordings.HIT_RATIO.record
    expect(tmp_path, series, f"round({record}, 0.001)", {'{endpoint="chat"}': 0.6})


def test_guards_are_added_up(tmp_path: Path) -> None:
    name = metrics.IN_FLIGHT.name
    series = {f'{name}{{endpoint="chat", instance="{one}"}}': "3x60" for one in "ab"}
    expect(
        tmp_path,
        series,
        f"sum by (endpoint) ({guard_recordings.AT_ONCE.record})",
        {'{endpoint="chat"}': 6},
    )


def test_streams_that_begin_late_fire_and_those_in_time_do_not(tmp_path: Path) -> None:
    name = metrics.FIRST_TOKEN.name
    late = '{alertname="SlowFirstToken", version="1"}'
    expect_alerts(tmp_path, waits(name, seconds=8, count=60), late)
    expect_silence(tmp_path, waits(name, seconds=limits.FIRST_TOKEN_S, count=60))


def test_the_limit_of_the_first_token_is_measured_not_interpolated() -> None:
    assert limits.FIRST_TOKEN_S in metrics.FIRST_TOKEN.buckets


@pytest.mark.parametrize(("turned_away", "is_firing"), [(7, True), (6, False)])
def test_a_full_queue_fires_beyond_one_request_in_a_hundred(
    tmp_path: Path, turned_away: float, *, is_firing: bool
) -> None:
    series = traffic(requests=600) | of_version(metrics.QUEUE_FULL.name, turned_away)
    labels = ('{alertname="QueueFull", version="1"}',) if is_firing else ()
    expect_alerts(tmp_path, series, *labels, of="QueueFull")


@pytest.mark.parametrize(
    ("what", "alert"),
    [
        ("budgets", "BudgetsUnknown"),
        ("rates", "RatesNotShared"),
        ("settlements", "RatesNotShared"),
        ("users", "UsersUnknown"),
        ("answers", "UsersUnknown"),
    ],
)
def test_a_redis_that_does_not_answer_fires_for_what_it_was_needed(
    tmp_path: Path, what: str, alert: str
) -> None:
    series = grown(metrics.LIMITS_LOST.name, 1, f'what="{what}"')
    expect_alerts(tmp_path, series, f'{{alertname="{alert}", what="{what}"}}', by="what")


def test_limits_that_were_never_lost_are_silent(tmp_path: Path) -> None:
    series: Series = {}
    for what in metrics.LOST:
        series |= grown(metrics.LIMITS_LOST.name, 0, f'what="{what}"')
    expect_silence(tmp_path, series)


EMITTED = sorted(
    one.name
    for one in vars(metrics).values()
    if isinstance(one, metrics.Series) and one.name.startswith("llm_")
)


@pytest.mark.parametrize("name", EMITTED)
def test_every_series_of_the_guard_is_watched(name: str) -> None:
    """One that is emitted and read by nobody would be forgotten."""
    assert name in str(rule_groups())


def test_series_are_made_of_what_is_declared_alone() -> None:
    """Or one that is made up beside the others would be watched by nobody, and no test would know."""
    registry = CollectorRegistry()
    Counters(registry, endpoint="chat")
    made = {one.name for one in registry.collect() if one.name.startswith("llm_")}
    assert made <= {name.removesuffix("_total") for name in EMITTED}


@pytest.mark.parametrize(
    "recording", guard_recordings.GUARD_RECORDINGS, ids=lambda recording: recording.record
)
def test_every_recording_of_the_guard_is_drawn(recording: Recording) -> None:
    assert recording.record in dashboard_json()


def test_a_second_try_is_in_no_series_but_its_own(tmp_path: Path) -> None:
    series = traffic(requests=600) | of_version(metrics.REQUESTS.name, 60, route="retry")
    series |= of_version(metrics.ERRORS.name, 15, route="retry")
    for recording, value in (
        (REQUEST_RATE, 10),
        (ERROR_RATIO, 0),
        (guard_recordings.RETRY_RATE, 1),
        (guard_recordings.RETRY_ERROR_RATIO, 0.25),
    ):
        expect(tmp_path, series, f"round({recording.record}, 0.001)", {VERSION: value})


@pytest.mark.parametrize(("lost", "ratio"), [(0, 0.0), (15, 0.025), (60, 0.1)])
def test_what_a_second_try_has_answered_is_no_failure_of_the_endpoint(
    tmp_path: Path, lost: float, ratio: float
) -> None:
    series = traffic(requests=600, errors=60)
    series |= grown(metrics.REQUESTS.name, 60, 'version="2", route="retry"')
    series |= grown(metrics.ERRORS.name, lost, 'version="2", route="retry"')
    record = endpoint_error_ratio("1h").record
    expect(tmp_path, series, f"round({record}, 0.001)", {'{endpoint="chat"}': ratio})


def test_the_share_of_bad_answers_is_of_those_that_were_judged(tmp_path: Path) -> None:
    series = traffic(requests=600)
    for name, each in ((metrics.QUALITY_JUDGED.name, 100), (metrics.QUALITY_BAD.name, 5)):
        series |= of_version(name, each) | of_version(name, 100, route="again")
        series |= of_version(name, 10**6, route="shadow") | of_version(name, 10**6, route="pinned")
    record = guard_recordings.BAD_RATIO.record
    expect(tmp_path, series, f"round({record}, 0.001)", {VERSION: 0.525})


def test_what_is_said_of_answers_is_told_by_version(tmp_path: Path) -> None:
    for series, label, recording in (
        (metrics.QUALITY_SIGNALS, "signal", guard_recordings.SIGNAL_RATE),
        (metrics.FEEDBACK, "verdict", guard_recordings.FEEDBACK_RATE),
        (metrics.FEEDBACK_REPLACED, "verdict", guard_recordings.REPLACED_RATE),
        (metrics.SHADOW_COMPARED, "result", guard_recordings.SHADOW_RATE),
        (metrics.JUDGE_ANSWERS, "result", guard_recordings.JUDGE_RATE),
    ):
        grows = grown(series.name, 60, f'version="1", {label}="x"')
        expected = {f'{{endpoint="chat", version="1", {label}="x"}}': 1.0}
        expect(tmp_path, grows, f"round({recording.record}, 0.001)", expected)
    grows = grown(metrics.RECORDS.name, 60, 'result="written"')
    record = guard_recordings.RECORD_RATE.record
    expect(tmp_path, grows, f"round({record}, 0.001)", {'{endpoint="chat", result="written"}': 1.0})


def test_likeness_is_that_of_half_of_the_mirrored_answers(tmp_path: Path) -> None:
    name, series = metrics.SHADOW_LIKENESS.name, dict[str, str]()
    for bound in metrics.SHADOW_LIKENESS.buckets:
        within = 60 if bound >= 0.8 else 0
        series |= grown(f"{name}_bucket", within, f'version="1", le="{bound:g}"')
    series |= grown(f"{name}_bucket", 60, 'version="1", le="+Inf"')
    series |= grown(f"{name}_count", 60, 'version="1"')
    record = guard_recordings.LIKENESS_P50.record
    expect(tmp_path, series, f"round({record}, 0.001)", {VERSION: 0.75})
