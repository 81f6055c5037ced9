"""The person outside, in whose environment a test runs, and the controllers that end with it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes.config import kube_config

from tests.in_cluster.outside import Outside, Processes


@pytest.fixture
def outside(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Outside:
    person = Outside(cluster, tmp_path)
    for name, value in person.environment.items():
        monkeypatch.setenv(name, value)
    # The client reads KUBECONFIG when it is imported; a process of its own does that later.
    monkeypatch.setattr(
        kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", person.environment["KUBECONFIG"]
    )
    return person


@pytest.fixture
def processes(outside: Outside, tmp_path: Path) -> Iterator[Processes]:
    started = Processes(outside, tmp_path)
    try:
        yield started
    finally:
        started.kill_all()
