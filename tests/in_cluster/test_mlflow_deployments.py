"""MLflow's own command line against a real MLflow server and a controller's cluster, by the entry point that we declare."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.builders import a_version
from tests.in_cluster.outside import Outside
from tests.repo.reference import ROOT

pytestmark = pytest.mark.real


class Person:
    """Somebody with MLflow's command line."""

    def __init__(self, outside: Outside, servers: Any, folder: Path) -> None:
        self.model = f"model-{uuid4().hex[:8]}"
        outside.file.write_text(outside.file.read_text().replace("smollm2", self.model))
        for number in "12":
            version = a_version(number, passed=number != "2", reasons=("worse",))
            servers.registry.register(
                self.model, source=version.source, run_id=None, tags=version.tags
            )
        self._environment = {
            **os.environ,
            **outside.environment,
            **servers.environment,
            "SHIPWAY_ENDPOINTS": str(outside.file),
            # Comes before what is installed, which may be older than pyproject.toml.
            "PYTHONPATH": os.pathsep.join([str(_as_declared(folder)), str(ROOT)]),
        }

    def run(self, command: str, *more: str) -> subprocess.CompletedProcess[str]:
        mlflow = str(Path(sys.executable).with_name("mlflow"))
        return subprocess.run(
            [mlflow, "deployments", command, "-t", "shipway", *more],
            cwd=ROOT,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )


def _as_declared(folder: Path) -> Path:
    """A folder in which Python finds the entry points of pyproject.toml as if they were installed from there."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    lines = [
        line
        for group, names in groups.items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in names.items()))
    ]
    found = folder / "declared" / "shipway-0.1.0.dist-info"
    found.mkdir(parents=True)
    (found / "METADATA").write_text("Metadata-Version: 2.1\nName: shipway\nVersion: 0.1.0\n")
    (found / "entry_points.txt").write_text("\n".join(lines))
    return found.parent


@pytest.fixture
def person(cluster: Any, servers: Any, tmp_path: Path) -> Person:
    return Person(Outside(cluster, tmp_path), servers, tmp_path)


def test_a_version_is_asked_for_listed_and_told_by_mlflows_own_commands(
    person: Person, servers: Any
) -> None:
    done = person.run("create", "--name", "chat", "-m", f"models:/{person.model}/1")
    assert "transformers deployment chat is created" in done.stdout, done
    assert servers.registry.aliases(person.model) == {"challenger": "1"}

    assert f"'model': '{person.model}'" in person.run("list").stdout
    got = person.run("get", "--name", "chat").stdout
    assert "name: chat" in got
    assert "phase: idle" in got, "no controller runs here"
    told = person.run("help").stdout
    assert "mlflow deployments create  -t shipway --name chat" in told


def test_a_version_that_failed_its_gate_is_refused_in_the_words_of_the_core(
    person: Person, servers: Any
) -> None:
    done = person.run("update", "--name", "chat", "-m", f"models:/{person.model}/2")
    assert done.returncode != 0
    assert "worse" in done.stderr
    assert servers.registry.aliases(person.model) == {}
