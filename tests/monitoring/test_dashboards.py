"""The dashboard reads what is recorded, in PromQL that Prometheus takes, and its numbers are those of the traffic."""

import json
import re
from pathlib import Path

import pytest

from deploy_targets.monitoring import limits
from deploy_targets.monitoring.dashboards import dashboard_json
from deploy_targets.monitoring.rules import RECORDINGS
from tests.monitoring.promtool import check_rules, expect, traffic

PANELS = {panel["title"]: panel for panel in json.loads(dashboard_json())["panels"]}


def queries(panel: str) -> list[str]:
    return [target["expr"].replace("$endpoint", "chat") for target in PANELS[panel]["targets"]]


def test_it_reads_recorded_series_only() -> None:
    recorded = {one.record for one in RECORDINGS}
    read = {name for title in PANELS for name in re.findall(r"\w+:\w+:\w+", str(queries(title)))}
    assert read
    assert read <= recorded


def test_prometheus_takes_every_query(tmp_path: Path) -> None:
    exprs = [expr for title in PANELS for expr in queries(title)]
    rules = [{"record": f"panel:{number}", "expr": expr} for number, expr in enumerate(exprs)]
    check_rules(tmp_path, {"groups": [{"name": "dashboard", "rules": rules}]})


@pytest.mark.parametrize("title", PANELS)
def test_every_panel_has_its_place_its_lines_and_its_source(title: str) -> None:
    panel = PANELS[title]
    letters = [target["refId"] for target in panel["targets"]]
    assert letters == list("ABCDEFGH")[: len(letters)]
    assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])
    places = [tuple(one["gridPos"].values()) for one in PANELS.values()]
    assert len(set(places)) == len({one["id"] for one in PANELS.values()}) == len(PANELS)


@pytest.mark.parametrize(
    ("title", "limit"),
    [
        ("Failed requests", limits.ERROR_RATIO),
        ("Mean time of an answer", limits.MEAN_LATENCY_S),
        ("95 % of the answers within", limits.P95_LATENCY_S),
        ("Failed requests of the endpoint", limits.ERROR_BUDGET),
    ],
)
def test_the_lines_are_where_the_alerts_begin(title: str, limit: float) -> None:
    steps = PANELS[title]["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert [step["value"] for step in steps] == [None, limit]


def test_the_share_of_requests_is_the_weight_as_clients_meet_it(tmp_path: Path) -> None:
    series = traffic(version="6", requests=950) | traffic(version="7", requests=50)
    (share,) = queries("Share of requests")
    by_version = {
        '{endpoint="chat", version="6"}': 0.95,
        '{endpoint="chat", version="7"}': 0.05,
    }
    expect(tmp_path, series, f"round({share}, 0.0001)", by_version)


def test_failures_and_requests_are_told_by_version(tmp_path: Path) -> None:
    series = traffic(version="6", requests=600) | traffic(version="7", requests=60, errors=15)
    for title, values in (("Requests", (10, 1)), ("Failed requests", (0, 0.25))):
        (query,) = queries(title)
        labels = ('{endpoint="chat", version="6"}', '{endpoint="chat", version="7"}')
        expected = dict(zip(labels, values, strict=True))
        expect(tmp_path, series, f"round({query}, 0.0001)", expected)
