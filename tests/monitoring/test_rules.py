"""The alerts, on made-up series, by Prometheus' own test tool: when each fires, and when it keeps still."""

import re
from pathlib import Path

import pytest

from deploy_targets import metrics
from deploy_targets.monitoring import limits, recordings
from deploy_targets.monitoring.rules import ALERTS, RECORDINGS, rule_groups
from tests.monitoring.promtool import (
    check_rules,
    expect,
    expect_alerts,
    expect_silence,
    run_tests,
    traffic,
)
from tests.repo.reference import ROOT

ERRORS_OF_1 = 'llm_inference_errors_total{endpoint="chat", version="1", route="chat", instance="a"}'
EVERY_BURN = pytest.mark.parametrize("burn", limits.BURN_RATES, ids=lambda burn: burn.long)


def firing(alert: str, version: str = "1") -> str:
    return f'{{alertname="{alert}", version="{version}"}}'


def burning(burn: limits.BurnRate) -> str:
    is_urgent = burn.severity is limits.Severity.CRITICAL
    name = "ErrorBudgetBurnsFast" if is_urgent else "ErrorBudgetBurnsSlowly"
    return f'ALERTS{{alertstate="firing", alertname="{name}", window="{burn.long}"}}'


def test_prometheus_takes_the_rules(tmp_path: Path) -> None:
    check_rules(tmp_path, rule_groups())


def test_the_starting_guides_alerts_keep_their_names_limits_and_severities() -> None:
    rules = {rule.get("alert"): rule for rule in rule_groups()["groups"][0]["rules"]}
    assert rule_groups()["groups"][0]["name"] == "LLMMetrics"
    for name, limit, severity in (
        ("HighLatency", 1, "warning"),
        ("HighErrorRate", 0.01, "critical"),
    ):
        assert rules[name]["expr"].endswith(f"> {limit}")
        assert (rules[name]["for"], rules[name]["labels"]["severity"]) == ("5m", severity)


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: f"{alert.name} {alert.lasts}")
def test_every_alert_says_what_and_how_much_and_has_a_section_in_the_runbook(alert) -> None:
    page, section = alert.runbook.split("#")
    sections = [line[3:] for line in (ROOT / page).read_text().splitlines() if line[:3] == "## "]
    assert alert.name in sections
    assert section == alert.name.lower()
    assert {"$labels.endpoint", "$labels.namespace"} & set(
        re.findall(r"\$labels\.\w+", alert.summary)
    )
    assert "$value" in alert.description


def test_the_runbook_has_no_section_without_an_alert() -> None:
    page = (ROOT / "docs/runbook.md").read_text()
    sections = {line[3:] for line in page.splitlines() if line[:3] == "## "}
    assert sections == {alert.name for alert in ALERTS}


def test_nothing_is_recorded_that_nobody_reads() -> None:
    dashboard = (ROOT / "deploy_targets/monitoring/generated/dashboard.json").read_text()
    read = [alert.expr for alert in ALERTS] + [dashboard]
    assert [one.record for one in RECORDINGS if not any(one.record in text for text in read)] == []


def test_the_tail_limit_is_measured_not_interpolated() -> None:
    assert limits.P95_LATENCY_S in metrics.DURATION.buckets


# Mean and tail.


def test_slow_answers_fire_by_the_mean_alone(tmp_path: Path) -> None:
    expect_alerts(tmp_path, traffic(seconds={1.02: 600}), firing("HighLatency"))


def test_answers_just_below_the_limit_are_silent(tmp_path: Path) -> None:
    expect_silence(tmp_path, traffic(seconds={0.99: 600}))


def test_a_few_very_slow_answers_fire_by_the_tail_alone(tmp_path: Path) -> None:
    expect_alerts(tmp_path, traffic(seconds={0.1: 564, 6: 36}), firing("HighTailLatency"))


def test_fewer_than_one_in_twenty_do_not(tmp_path: Path) -> None:
    expect_silence(tmp_path, traffic(seconds={0.1: 576, 6: 24}))


def test_the_mean_and_the_quantiles_are_those_of_the_answers(tmp_path: Path) -> None:
    series = traffic(seconds={0.2: 300, 4: 294, 7: 6})
    one = '{endpoint="chat", version="1"}'
    for recording, value in (
        (recordings.MEAN_LATENCY, (0.2 * 300 + 4 * 294 + 7 * 6) / 600),
        (recordings.P50, 0.25),  # the bucket's upper bound: exactly half is within
        (recordings.P99, 5.0),
    ):
        query = f"round({recording.record}, 0.000001)"
        expect(tmp_path, series, query, {one: round(value, 6)})


# Failures.


def test_failures_above_the_limit_fire(tmp_path: Path) -> None:
    series = traffic(requests=1000, errors=10.1)
    expect_alerts(tmp_path, series, firing("HighErrorRate"), of="HighErrorRate")


def test_failures_just_below_the_limit_do_not(tmp_path: Path) -> None:
    expect_silence(tmp_path, traffic(requests=1000, errors=9.9), of="HighErrorRate")


def test_failures_that_last_less_than_five_minutes_do_not(tmp_path: Path) -> None:
    series = traffic(errors=None) | {ERRORS_OF_1: "0x30 600+0x30"}
    expect_silence(tmp_path, series, of="HighErrorRate")


def test_without_requests_everything_is_silent_and_nothing_is_nan(tmp_path: Path) -> None:
    series = dict.fromkeys(traffic(), "500x60")
    expect_silence(tmp_path, series)
    expect(tmp_path, series, '{__name__=~"endpoint.*:(ratio|mean|p[0-9]).*"}', {})
    rate = f'{recordings.REQUEST_RATE.record}{{endpoint="chat", version="1"}}'
    expect(tmp_path, series, recordings.REQUEST_RATE.record, {rate: 0})


def test_before_the_first_failure_the_ratio_is_zero_even_without_a_series_of_errors(
    tmp_path: Path,
) -> None:
    ratio = f'{recordings.ERROR_RATIO.record}{{endpoint="chat", version="1"}}'
    for errors in (0, None):
        series = traffic(errors=errors)
        expect(tmp_path, series, recordings.ERROR_RATIO.record, {ratio: 0})


def test_a_counter_that_is_born_with_its_first_failure_fires(tmp_path: Path) -> None:
    series = traffic(errors=None) | {ERRORS_OF_1: "_x30 60+60x30"}
    expect_alerts(tmp_path, series, firing("HighErrorRate"), of="HighErrorRate", at="50m")


def test_a_label_that_only_errors_carry_does_not_silence_it(tmp_path: Path) -> None:
    series = traffic(requests=1000, errors=14, error_types=("timeout", "broken"))
    expect_alerts(tmp_path, series, firing("HighErrorRate"), of="HighErrorRate")


def test_one_bad_version_of_two_is_named(tmp_path: Path) -> None:
    series = traffic(version="6", requests=9500) | traffic(version="7", requests=500, errors=150)
    expect_alerts(tmp_path, series, firing("HighErrorRate", "7"), of="HighErrorRate")


def test_failures_without_a_version_are_told_apart(tmp_path: Path) -> None:
    series = traffic() | traffic(version=metrics.UNATTRIBUTED, requests=60, errors=60)
    named = firing("HighErrorRate", metrics.UNATTRIBUTED)
    expect_alerts(tmp_path, series, named, of="HighErrorRate")


def test_the_replicas_of_a_guard_are_judged_together(tmp_path: Path) -> None:
    series = traffic(instance="a", requests=99_000) | traffic(instance="b", requests=100, errors=50)
    expect_silence(tmp_path, series)


def test_pinned_requests_are_left_out(tmp_path: Path) -> None:
    expect_silence(tmp_path, traffic() | traffic(route="pinned", errors=600, seconds={60: 600}))


# The error budget.


@EVERY_BURN
def test_a_budget_that_burns_too_fast_fires(tmp_path: Path, burn) -> None:
    series = traffic(requests=10_000, errors=10_000 * burn.error_ratio * 1.01)
    labels = f'{{endpoint="chat", window="{burn.long}"}}'
    expect(tmp_path, series, f"count by (endpoint, window) ({burning(burn)})", {labels: 1})


@EVERY_BURN
def test_a_budget_that_burns_just_slower_does_not(tmp_path: Path, burn) -> None:
    series = traffic(requests=10_000, errors=10_000 * burn.error_ratio * 0.99)
    expect(tmp_path, series, f"count_over_time({burning(burn)}[7d])", {})


@EVERY_BURN
def test_it_ends_soon_after_the_failures_end(tmp_path: Path, burn) -> None:
    minutes = {"m": 1, "h": 60}[burn.short[-1]] * int(burn.short[:-1])
    bad = 60
    series = traffic(requests=10_000, errors=None, minutes=bad + minutes + 2)
    series |= {ERRORS_OF_1: f"0+1000x{bad} {bad * 1000}x{minutes + 2}"}
    labels = f'{{endpoint="chat", window="{burn.long}"}}'
    query = f"count by (endpoint, window) ({burning(burn)})"
    expect(tmp_path, series, query, {labels: 1}, at=f"{bad}m")
    expect(tmp_path, series, query, {}, at=f"{bad + minutes + 1}m")
    expect(  # although the long window still holds
        tmp_path,
        series,
        f"count ({recordings.endpoint_error_ratio(burn.long).record} > {burn.error_ratio})",
        {"{}": 1},
        at=f"{bad + minutes + 1}m",
    )


def test_failures_that_have_just_begun_are_too_few_for_the_long_window(tmp_path: Path) -> None:
    series = traffic(requests=10_000, errors=None) | {ERRORS_OF_1: "0x55 0+300x5"}
    expect_silence(tmp_path, series, of="ErrorBudgetBurnsFast")


def test_the_windows_are_as_long_as_they_say(tmp_path: Path) -> None:
    requests = traffic(requests=100, errors=None, minutes=96 * 60)
    series = {name: requests[name] for name in requests if name.startswith(metrics.REQUESTS.name)}
    series |= {ERRORS_OF_1: f"0x{72 * 60} 0+10x{24 * 60}"}  # the last of four days fails at 10 %
    for window, ratio in (("6h", 0.1), ("1d", 0.1), ("3d", 0.033)):
        query = f"round({recordings.endpoint_error_ratio(window).record}, 0.001)"
        expect(tmp_path, series, query, {'{endpoint="chat"}': ratio}, at="96h", every="24h")


def test_one_failure_in_a_quiet_hour_wakes_nobody(tmp_path: Path) -> None:
    minutes = range(3 * 60)
    series = traffic(errors=None, minutes=len(minutes))
    series |= {
        name: " ".join(str(minute // 6) for minute in minutes)
        for name in series
        if name.startswith(metrics.REQUESTS.name)
    }
    series |= {ERRORS_OF_1: "0x90 1x90"}
    expect_silence(tmp_path, series, at="179m")


# Blindness.


def test_an_endpoint_that_is_no_longer_scraped_fires(tmp_path: Path) -> None:
    series = {name: f"{values} stale" for name, values in traffic(minutes=30).items()}
    expect_alerts(
        tmp_path,
        series,
        '{alertname="MetricsMissing", endpoint="chat"}',
        by="endpoint",
        at="40m",
    )


def test_a_guard_that_was_restarted_at_once_does_not(tmp_path: Path) -> None:
    again = traffic(instance="b", minutes=30)
    series = {name: f"{values} stale" for name, values in traffic(minutes=30).items()}
    series |= {name: f"_x32 {values}" for name, values in again.items()}
    expect_silence(tmp_path, series)


# What people read.


def test_an_alert_tells_its_numbers(tmp_path: Path) -> None:
    run_tests(
        tmp_path,
        traffic(requests=1000, errors=300, seconds={2.5: 1000}),
        alert_rule_test=[
            {
                "eval_time": "60m",
                "alertname": name,
                "exp_alerts": [
                    {
                        "exp_labels": {"endpoint": "chat", "version": "1", "severity": severity},
                        "exp_annotations": {
                            "summary": summary,
                            "description": description,
                            "runbook": f"docs/runbook.md#{name.lower()}",
                        },
                    }
                ],
            }
            for name, severity, summary, description in (
                (
                    "HighErrorRate",
                    "critical",
                    "Failures of version 1 of endpoint chat",
                    "30% of its requests failed over 5 minutes; the limit is 1%.",
                ),
                (
                    "HighLatency",
                    "warning",
                    "Slow answers from version 1 of endpoint chat",
                    "The mean answer took 2.50 s over 5 minutes; the limit is 1 s.",
                ),
            )
        ],
    )


# The controller itself.


def controller(
    *, leader: str = "1x60", looks: str = "0+10x60", waits: str = "0x60", failed: str = "0x60"
) -> dict[str, str]:
    """What two replicas tell, minute by minute; the second follows."""
    one, other = 'namespace="shipway", pod="a"', 'namespace="shipway", pod="b"'
    return {
        f"shipway_leader{{{one}}}": leader,
        f"shipway_leader{{{other}}}": "0x60",
        f'shipway_reconcile_seconds_count{{{one}, result="done"}}': looks,
        f'shipway_reconcile_seconds_count{{{other}, result="done"}}': "0x60",
        f"shipway_oldest_unserved_change_seconds{{{one}}}": waits,
        f'shipway_reconcile_failures_total{{{one}, endpoint="chat"}}': failed,
    }


def of_namespace(alert: str) -> str:
    return f'{{alertname="{alert}", namespace="shipway"}}'


def test_a_controller_that_looks_and_leaves_nothing_waiting_is_silent(tmp_path: Path) -> None:
    expect_silence(tmp_path, controller(waits="100x60", failed="0+0.4x60"))


@pytest.mark.parametrize(
    "leader", ["1x40 0x19", "1x40 _x19"], ids=["none of them leads", "the leader's pod is gone"]
)
def test_nobody_leads(tmp_path: Path, leader: str) -> None:
    expect_alerts(tmp_path, controller(leader=leader), of_namespace("NobodyLeads"), by="namespace")


def test_a_change_of_leaders_is_no_alert(tmp_path: Path) -> None:
    expect_silence(tmp_path, controller(leader="1x30 0x2 1x27"), of="NobodyLeads")


def test_a_leader_whose_looks_stand_still(tmp_path: Path) -> None:
    series = controller(looks="0+10x30 300x29")
    expect_alerts(tmp_path, series, of_namespace("ControllerDoesNotLook"), by="namespace")


def test_a_controller_of_another_namespace_does_not_look_in_its_place(tmp_path: Path) -> None:
    busy = {'shipway_reconcile_seconds_count{namespace="other", result="done"}': "0+10x60"}
    series = controller(looks="300x60") | busy
    expect_alerts(tmp_path, series, of_namespace("ControllerDoesNotLook"), by="namespace")


def test_looks_that_fail_fire_for_their_endpoint(tmp_path: Path) -> None:
    labels = '{alertname="LooksFail", endpoint="chat"}'
    expect_alerts(tmp_path, controller(failed="0+2x60"), labels, by="endpoint")


def test_a_change_that_waits_fires_and_one_that_was_served_does_not(tmp_path: Path) -> None:
    series = controller(waits="0x40 60+60x19")
    expect_alerts(tmp_path, series, of_namespace("ChangeWaits"), by="namespace")
    expect_silence(tmp_path, controller(waits="0x40 60+60x5 0x13"), of="ChangeWaits")
