"""The real promtool and prometheus, found or skipped, and series of a guard for promtool's own unit tests."""

import json
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from deploy_targets import metrics
from deploy_targets.monitoring.rules import rule_groups

Series = dict[str, str]
"""What a metric did, minute by minute, in promtool's notation, by the metric with its labels."""


def program(name: str) -> str:
    """The path of promtool or prometheus; the test is skipped where it is not installed."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed: `apt-get install prometheus` brings it")
    return path


def promtool(*arguments: object) -> None:
    done = subprocess.run(
        [program("promtool"), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def check_rules(folder: Path, groups: Mapping[str, Any]) -> None:
    rules = folder / "rules.json"
    rules.write_text(json.dumps(groups))
    promtool("check", "rules", "--lint=all", "--lint-fatal", rules)


def run_tests(
    folder: Path, series: Series, *, every: str = "1m", **checks: Iterable[Mapping[str, Any]]
) -> None:
    """Feeds `series` to our rules, evaluates them so often, and compares; JSON is YAML enough for promtool."""
    (folder / "rules.json").write_text(json.dumps(rule_groups()))
    document = {
        "rule_files": ["rules.json"],
        "evaluation_interval": every,
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": name, "values": values} for name, values in series.items()
                ],
                **{name: list(entries) for name, entries in checks.items()},
            }
        ],
    }
    tests = folder / "tests.json"
    tests.write_text(json.dumps(document))
    promtool("test", "rules", tests)


def expect(
    folder: Path,
    series: Series,
    query: str,
    samples: Mapping[str, float],
    *,
    at: str = "60m",
    every: str = "1m",
) -> None:
    """Asserts what `query` yields at that time: values by label set."""
    wanted = [{"labels": labels, "value": value} for labels, value in samples.items()]
    look = {"expr": query, "eval_time": at, "exp_samples": wanted}
    run_tests(folder, series, every=every, promql_expr_test=[look])


def expect_alerts(
    folder: Path, series: Series, *labels: str, of: str = "", by: str = "version", at: str = "60m"
) -> None:
    """Asserts which alerts fire at that time: exactly one for each of `labels`, of the alert `of` where it is named."""
    chosen = f', alertname="{of}"' if of else ""
    query = f'count by (alertname, {by}) (ALERTS{{alertstate="firing"{chosen}}})'
    expect(folder, series, query, dict.fromkeys(labels, 1), at=at)


def expect_silence(folder: Path, series: Series, *, of: str = "", at: str = "60m") -> None:
    """Asserts that until that time no alert, or not the alert `of`, has ever fired."""
    chosen = f', alertname="{of}"' if of else ""
    expect(folder, series, f'count_over_time(ALERTS{{alertstate="firing"{chosen}}}[7d])', {}, at=at)


def traffic(  # what a minute of a guard's counters looks like
    *,
    requests: float = 600,
    errors: float | None = 0,
    seconds: Mapping[float, float] | None = None,
    minutes: int = 60,
    version: str = "1",
    route: str = metrics.CHAT_ROUTE,
    instance: str = "a",
    error_types: tuple[str, ...] = ("",),
) -> Series:
    """Counters that grow by so much a minute; `seconds` says how many answers take how long, all 0.1 s by default."""
    labels = f'endpoint="chat", version="{version}", route="{route}", instance="{instance}"'

    def grow(name: str, by: float, more: str = "") -> tuple[str, str]:
        return f"{name}{{{labels}{more}}}", f"0+{by:.10g}x{minutes}"

    times = seconds or {0.1: requests}
    duration = metrics.DURATION.name
    series = dict(
        [
            grow(metrics.REQUESTS.name, requests),
            grow(f"{duration}_sum", sum(time * count for time, count in times.items())),
            grow(f"{duration}_count", sum(times.values())),
        ]
    )
    for bound in (*metrics.DURATION.buckets, float("inf")):
        within = sum(count for time, count in times.items() if time <= bound)
        le = "+Inf" if bound == float("inf") else f"{bound:g}"
        series |= [grow(f"{duration}_bucket", within, f', le="{le}"')]
    if errors is not None:
        for kind in error_types:
            more = f', error_type="{kind}"' if kind else ""
            series |= [grow(metrics.ERRORS.name, errors / len(error_types), more)]
    return series
