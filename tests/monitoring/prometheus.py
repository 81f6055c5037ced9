"""A real Prometheus that scrapes one guard, with the rules that are kept in git; skips the test where it is not installed."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import yaml

from deploy_targets import monitoring
from deploy_targets.local.process import ProcessRecord, await_ready, end_all, free_port, spawn
from deploy_targets.monitoring.manifests import pod_monitor
from tests.monitoring.promtool import program

LIMIT_S = 180
"""For a busy box; on an idle one everything here takes a few seconds."""
_RULES = Path(monitoring.__file__).parent / "generated" / "rules.yaml"


class Prometheus:
    """What it has seen."""

    def __init__(self, url: str, record: ProcessRecord, log: Path) -> None:
        self._url, self._record, self._log = url, record, log

    def ask(self, query: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each sample that the query yields now."""
        found = self._get("query", query=query)["result"]
        return [(one["metric"], float(one["value"][1])) for one in found]

    def values(self, record: str) -> dict[str, float]:
        """A recorded series by version."""
        return {labels["version"]: value for labels, value in self.ask(record)}

    def firing(self, version: str) -> dict[str, dict[str, Any]]:
        """The alerts of that version, by name."""
        return {
            one["labels"]["alertname"]: one
            for one in self._get("alerts")["alerts"]
            if one["state"] == "firing" and one["labels"].get("version") == version
        }

    def until(self, holds: Callable[[], bool]) -> None:
        """Returns when the condition holds; fails with Prometheus' log when it never does."""
        await_ready("the condition", holds, record=self._record, log=self._log, limit_s=LIMIT_S)

    def _get(self, page: str, **parameters: str) -> Any:
        answer = httpx2.get(f"{self._url}/api/v1/{page}", params=parameters, timeout=LIMIT_S)
        return answer.raise_for_status().json()["data"]


@contextmanager
def a_prometheus(folder: Path, *, endpoint: str, guard_admin: str) -> Iterator[Prometheus]:
    """One that looks every second at the guard's page, until the end of the block."""
    path = program("prometheus")
    port = free_port(0, set())
    url = f"http://127.0.0.1:{port}"
    (folder / "rules.json").write_text(json.dumps(_impatient_rules()))
    configuration = _configuration(endpoint, guard_admin)
    (folder / "prometheus.json").write_text(json.dumps(configuration))
    log = folder / "prometheus.log"
    record = spawn(
        (
            path,
            "--config.file=prometheus.json",
            "--storage.tsdb.path=data",
            f"--web.listen-address=127.0.0.1:{port}",
        ),
        log=log,
        environment={"PATH": os.environ["PATH"]},
        folder=folder,
    )

    def answers() -> bool:
        try:
            return httpx2.get(f"{url}/-/ready", timeout=2).is_success
        except httpx2.HTTPError:
            return False

    try:
        await_ready("prometheus", answers, record=record, log=log, limit_s=LIMIT_S)
        yield Prometheus(url, record, log)
    finally:
        process = record.find()
        end_all([process] if process else [], patience_s=5)


def _configuration(endpoint: str, guard_admin: str) -> dict[str, Any]:
    """What the operator makes of our PodMonitor, its own label `endpoint` included; looks every second."""
    (page,) = pod_monitor().body["spec"]["podMetricsEndpoints"]
    ours = [
        {"source_labels": one["sourceLabels"], "target_label": one["targetLabel"]}
        for one in page["relabelings"]
    ]
    pod = {"__meta_kubernetes_pod_label_app_kubernetes_io_instance": endpoint}
    job = {
        "job_name": "guard",
        "honor_labels": page["honorLabels"],
        "metrics_path": page["path"],
        "static_configs": [{"targets": [guard_admin], "labels": pod}],
        "relabel_configs": [{"target_label": "endpoint", "replacement": page["port"]}, *ours],
    }
    look = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    return {"global": look, "rule_files": ["rules.json"], "scrape_configs": [job]}


def _impatient_rules() -> dict[str, Any]:
    """Our rules, but alerts fire at once: nobody wants to wait five minutes here."""
    rules: dict[str, Any] = yaml.safe_load(_RULES.read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            if "for" in rule:
                rule["for"] = "0s"
    return rules
