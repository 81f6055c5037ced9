"""A real Prometheus that scrapes one guard, with the rules that are kept in git; skips the test where it is not installed."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import psutil
import yaml

from deploy_targets import monitoring
from deploy_targets.local.process import ProcessRecord, await_ready, end_all, free_port, spawn
from deploy_targets.monitoring.manifests import pod_monitor
from tests.monitoring.promtool import program

LIMIT_S = 180
"""For a busy box; on an idle one everything here takes a few seconds."""
_RULES = Path(monitoring.__file__).parent / "generated" / "rules.yaml"


class Prometheus:
    """What it has seen; it may be killed and started again."""

    def __init__(self, folder: Path) -> None:
        """Its configuration and its data lie in `folder`."""
        self._path, self._folder = program("prometheus"), folder
        self.port = free_port(0, set())
        self._url, self._log = f"http://127.0.0.1:{self.port}", folder / "prometheus.log"
        self._record: ProcessRecord | None = None

    def start(self) -> None:
        """Returns when it answers."""
        self._record = spawn(
            (
                self._path,
                "--config.file=prometheus.json",
                "--storage.tsdb.path=data",
                f"--web.listen-address=127.0.0.1:{self.port}",
            ),
            log=self._log,
            environment={"PATH": os.environ["PATH"]},
            folder=self._folder,
        )
        self.until(self._answers)

    @property
    def processes(self) -> list[psutil.Process]:
        """Itself, while it runs."""
        found = None if self._record is None else self._record.find()
        return [] if found is None else [found]

    def _answers(self) -> bool:
        try:
            return httpx2.get(f"{self._url}/-/ready", timeout=2).is_success
        except httpx2.HTTPError:
            return False

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
    (folder / "rules.json").write_text(json.dumps(_impatient_rules()))
    configuration = _configuration(endpoint, guard_admin)
    (folder / "prometheus.json").write_text(json.dumps(configuration))
    prometheus = Prometheus(folder)
    try:
        prometheus.start()
        yield prometheus
    finally:
        end_all(prometheus.processes, patience_s=5)


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
