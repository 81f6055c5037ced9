"""The switch to a real API server: the suites run unchanged against one that they only know by its kubeconfig.

The server is the stand-in in a process of its own, for there is no real one here: it shows that nothing reaches past the API.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy_targets.local.process import await_ready, end_all, spawn
from tests.kubernetes_api.resources import crd_folder
from tests.repo.reference import ROOT

pytestmark = pytest.mark.real
LIMIT_S = 240
ASKED = (
    "tests/kubernetes_api/test_measured_answers.py",
    "tests/contracts/test_rollouts.py::test_a_good_challenger_walks_the_steps_and_only_it_is_left",
    "tests/contracts/test_rollouts.py::test_an_api_server_that_is_away_for_a_while_changes_nothing",
)


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Iterator[Path]:
    file, log = tmp_path / "kubeconfig", tmp_path / "server.log"
    environment = {"PATH": os.environ["PATH"], "SHIPWAY_CRD_DIR": str(crd_folder())}
    command = (sys.executable, "-m", "tests.kubernetes_api", str(file))
    record = spawn(command, log=log, environment=environment, folder=ROOT)
    try:
        await_ready("the API server", file.exists, record=record, log=log, limit_s=60)
        yield file
    finally:
        process = record.find()
        end_all([process] if process else [], patience_s=5)


def test_the_suites_run_unchanged_against_a_server_of_a_kubeconfig(kubeconfig: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "not real", "-p", "no:cacheprovider", *ASKED],
        cwd=ROOT,
        env={**os.environ, "SHIPWAY_TEST_KUBECONFIG": str(kubeconfig)},
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
    )

    assert done.returncode == 0, done.stdout[-5000:]
    assert "not for a real API server: 3 tests of a server that goes away" in done.stdout
    assert "skipped" not in done.stdout
