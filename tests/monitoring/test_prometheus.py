"""A real Prometheus that scrapes a real guard: what the rules say about requests that were really sent."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from deploy_targets.local.process import ProcessRecord, await_ready, end_all, free_port, spawn
from deploy_targets.monitoring import recordings
from deploy_targets.monitoring.manifests import pod_monitor
from deploy_targets.monitoring.rules import rule_groups
from tests.guard.stub import ENDPOINT, StubEngine, a_chat, served
from tests.monitoring.promtool import program
from tests.repo.reference import ROOT

pytestmark = pytest.mark.real
LIMIT_S = 60
"""For a busy box; on an idle one everything here takes a few seconds."""
VERSION_7 = {"endpoint": ENDPOINT, "version": "7"}


def prometheus_configuration(guard_admin: str) -> dict[str, Any]:
    """What the operator makes of our PodMonitor, its own label `endpoint` included; looks every second."""
    (page,) = pod_monitor().body["spec"]["podMetricsEndpoints"]
    ours = [
        {"source_labels": one["sourceLabels"], "target_label": one["targetLabel"]}
        for one in page["relabelings"]
    ]
    pod = {"__meta_kubernetes_pod_label_app_kubernetes_io_instance": ENDPOINT}
    job = {
        "job_name": "guard",
        "honor_labels": page["honorLabels"],
        "metrics_path": page["path"],
        "static_configs": [{"targets": [guard_admin], "labels": pod}],
        "relabel_configs": [{"target_label": "endpoint", "replacement": page["port"]}, *ours],
    }
    look = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    return {"global": look, "rule_files": ["rules.json"], "scrape_configs": [job]}


def impatient_rules() -> dict[str, Any]:
    """Our rules, but alerts fire at once: nobody wants to wait five minutes here."""
    rules = rule_groups()
    for group in rules["groups"]:
        for rule in group["rules"]:
            if "for" in rule:
                rule["for"] = "0s"
    return rules


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A guard in front of a stub engine, and the Prometheus that watches it."""

    guard: str
    prometheus: str
    until: Callable[[Callable[[], bool]], None]
    """Returns when the condition holds; fails with Prometheus' log when it never does."""

    def send(self, *behaviours: str) -> None:
        for behaviour in behaviours:
            httpx2.post(
                f"{self.guard}/v1/chat/completions", json=a_chat(behaviour), timeout=LIMIT_S
            )

    def ask(self, query: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each sample that the query yields now."""
        found = self._get("query", query=query)["result"]
        return [(one["metric"], float(one["value"][1])) for one in found]

    def value(self, recording: recordings.Recording) -> float | None:
        """Of version 7, which alone is asked here."""
        samples = self.ask(recording.record)
        return next((value for labels, value in samples if labels["version"] == "7"), None)

    def firing(self) -> dict[str, dict[str, Any]]:
        alerts = self._get("alerts")["alerts"]
        return {
            one["labels"]["alertname"]: one
            for one in alerts
            if one["state"] == "firing" and one["labels"].get("version") == "7"
        }

    def _get(self, page: str, **parameters: str) -> Any:
        answer = httpx2.get(f"{self.prometheus}/api/v1/{page}", params=parameters, timeout=LIMIT_S)
        return answer.raise_for_status().json()["data"]


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    program("prometheus")
    taken: set[int] = set()
    port, admin_port, prometheus_port = (free_port(0, taken) for _ in range(3))
    (tmp_path / "rules.json").write_text(json.dumps(impatient_rules()))
    configuration = prometheus_configuration(f"127.0.0.1:{admin_port}")
    (tmp_path / "prometheus.json").write_text(json.dumps(configuration))
    records: dict[str, ProcessRecord] = {}

    def start(name: str, *command: str, folder: Path, ready: str, **environment: str) -> None:
        def answers() -> bool:
            try:
                return httpx2.get(ready, timeout=2).is_success
            except httpx2.HTTPError:
                return False

        environment |= {"PATH": os.environ["PATH"]}
        log = tmp_path / f"{name}.log"
        records[name] = spawn(command, log=log, environment=environment, folder=folder)
        await_ready(name, answers, record=records[name], log=log, limit_s=LIMIT_S)

    def until(holds: Callable[[], bool]) -> None:
        log = tmp_path / "prometheus.log"
        record = records["prometheus"]
        await_ready("the condition", holds, record=record, log=log, limit_s=LIMIT_S)

    with served() as serve:
        try:
            start(
                "guard",
                *(sys.executable, "-m", "deploy_targets.guard"),
                folder=ROOT,
                ready=f"http://127.0.0.1:{admin_port}/readyz",
                SHIPWAY_GUARD_ENDPOINT=ENDPOINT,
                SHIPWAY_GUARD_UPSTREAM_URL=serve(StubEngine().app),
                SHIPWAY_GUARD_PORT=str(port),
                SHIPWAY_GUARD_ADMIN_PORT=str(admin_port),
                SHIPWAY_GUARD_AUTH="none",
            )
            start(
                "prometheus",
                program("prometheus"),
                "--config.file=prometheus.json",
                "--storage.tsdb.path=data",
                f"--web.listen-address=127.0.0.1:{prometheus_port}",
                folder=tmp_path,
                ready=f"http://127.0.0.1:{prometheus_port}/-/ready",
            )
            yield Watched(
                guard=f"http://127.0.0.1:{port}",
                prometheus=f"http://127.0.0.1:{prometheus_port}",
                until=until,
            )
        finally:
            alive = [process for record in records.values() if (process := record.find())]
            end_all(alive, patience_s=5)


def test_failures_that_really_happen_are_recorded_and_fire(watched: Watched) -> None:
    unseen = 'llm_inference_errors_total{version="unattributed", route="chat"}'
    watched.until(lambda: bool(watched.ask(unseen)))
    ((labels, value),) = watched.ask(unseen)
    assert (labels["endpoint"], value) == (ENDPOINT, 0)
    assert "exported_endpoint" not in labels
    assert [labels["endpoint"] for labels, _ in watched.ask("up")] == [ENDPOINT]

    # Three answers and a failure, again and again, until Prometheus has read the counters at least twice.
    def flow() -> bool:
        watched.send("ok", "ok", "ok", "500")
        return "HighErrorRate" in watched.firing()

    watched.until(flow)
    alert = watched.firing()["HighErrorRate"]
    assert alert["labels"].items() >= {**VERSION_7, "severity": "critical"}.items()
    assert alert["annotations"]["summary"] == "Failures of version 7 of endpoint chat"

    a_quarter = pytest.approx(0.25, abs=0.1)  # a reading may fall between two requests of four

    def settled() -> bool:
        flow()
        return watched.value(recordings.ERROR_RATIO) == a_quarter

    watched.until(settled)
    mean, median = watched.value(recordings.MEAN_LATENCY), watched.value(recordings.P50)
    assert mean is not None
    assert 0 < mean < 1
    assert median is not None
    assert 0 < median < 1
    budget = recordings.endpoint_error_ratio("3d").record  # of another group, evaluated by itself
    near = [({"__name__": budget, "endpoint": ENDPOINT}, a_quarter)]
    watched.until(lambda: watched.ask(budget) == near)
    assert "HighLatency" not in watched.firing()


def test_requests_that_are_all_answered_fire_nothing(watched: Watched) -> None:
    def flow() -> bool:
        watched.send("ok")
        return (watched.value(recordings.REQUEST_RATE) or 0) > 0

    watched.until(flow)
    watched.until(lambda: watched.value(recordings.ERROR_RATIO) == 0)
    assert watched.firing() == {}
