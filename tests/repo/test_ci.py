"""In CI a test that does not run is a failure; elsewhere it may be skipped."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.repo.reference import ROOT

TEST = """
import pytest

def test_that_runs(): pass

@pytest.mark.xfail
def test_that_is_known_to_fail(): assert False

def test_without_its_part(): pytest.importorskip("a_part_that_is_missing")
"""
MODULE = 'import pytest\npytest.importorskip("another_missing_part")\n'


def _suite(folder, in_ci: str, **files: str) -> subprocess.CompletedProcess[str]:
    shutil.copy(ROOT / "tests" / "conftest.py", folder)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", os.devnull, str(folder)],
        cwd=folder,
        env={**os.environ, "SHIPWAY_CI": in_ci},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


@pytest.mark.parametrize(("in_ci", "code"), [("", 0), ("1", 1)])
def test_a_skipped_test_fails_in_ci_alone(tmp_path, in_ci, code) -> None:
    done = _suite(tmp_path, in_ci, test_parts=TEST)

    assert done.returncode == code, done.stdout
    assert ("In CI (SHIPWAY_CI=1) a skip is a failure" in done.stdout) == bool(code)
    assert "1 passed" in done.stdout
    assert "1 xfailed" in done.stdout


def test_a_skipped_module_fails_in_ci(tmp_path) -> None:
    done = _suite(tmp_path, "1", test_parts=MODULE)

    assert done.returncode != 0
    assert "another_missing_part" in done.stdout
