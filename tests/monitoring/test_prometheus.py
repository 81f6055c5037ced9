"""A real Prometheus that scrapes a real guard: what the rules say about requests that were really sent."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from deploy_targets.local.process import await_ready, end_all, free_port, spawn
from deploy_targets.monitoring import recordings
from tests.guard.stub import ENDPOINT, StubEngine, a_chat, served
from tests.monitoring.prometheus import LIMIT_S, Prometheus, a_prometheus
from tests.repo.reference import ROOT

pytestmark = pytest.mark.real
VERSION_7 = {"endpoint": ENDPOINT, "version": "7"}


class Watched:
    """A guard in front of a stub engine, and the Prometheus that watches it."""

    def __init__(self, guard: str, prometheus: Prometheus) -> None:
        self._guard = guard
        self.until, self.ask = prometheus.until, prometheus.ask
        self._prometheus = prometheus

    def send(self, *behaviours: str) -> None:
        for behaviour in behaviours:
            url = f"{self._guard}/v1/chat/completions"
            httpx2.post(url, json=a_chat(behaviour), timeout=LIMIT_S)

    def value(self, recording: recordings.Recording) -> float | None:
        """Of version 7, which alone is asked here."""
        return self._prometheus.values(recording.record).get("7")

    def firing(self) -> dict[str, dict]:
        return self._prometheus.firing("7")


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    taken: set[int] = set()
    port, admin_port = (free_port(0, taken) for _ in range(2))
    ready = f"http://127.0.0.1:{admin_port}/readyz"
    log = tmp_path / "guard.log"

    def answers() -> bool:
        try:
            return httpx2.get(ready, timeout=2).is_success
        except httpx2.HTTPError:
            return False

    with served() as serve:
        guard = spawn(
            (sys.executable, "-m", "deploy_targets.guard"),
            log=log,
            environment={
                "PATH": os.environ["PATH"],
                "SHIPWAY_GUARD_ENDPOINT": ENDPOINT,
                "SHIPWAY_GUARD_UPSTREAM_URL": serve(StubEngine().app),
                "SHIPWAY_GUARD_PORT": str(port),
                "SHIPWAY_GUARD_ADMIN_PORT": str(admin_port),
                "SHIPWAY_GUARD_AUTH": "none",
            },
            folder=ROOT,
        )
        try:
            await_ready("guard", answers, record=guard, log=log, limit_s=LIMIT_S)
            admin = f"127.0.0.1:{admin_port}"
            with a_prometheus(tmp_path, endpoint=ENDPOINT, guard_admin=admin) as prometheus:
                yield Watched(f"http://127.0.0.1:{port}", prometheus)
        finally:
            process = guard.find()
            end_all([process] if process else [], patience_s=5)


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
