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


ENGINES = """
import pytest

def test_that_runs(): pass

@pytest.mark.engines
def test_of_an_engine(): pytest.skip("its environment is missing")
"""


def _suite(
    folder, in_ci: str, *words: object, config: object = os.devnull, **files: str
) -> subprocess.CompletedProcess[str]:
    shutil.copy(ROOT / "tests" / "conftest.py", folder)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", config, folder, *words],
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


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [((), 0, "1 passed, 1 deselected"), (("-m", "engines"), 1, "its environment is missing")],
)
def test_ci_leaves_the_tests_of_engines_out_rather_than_skip_them(
    tmp_path, words, code, said
) -> None:
    config = ROOT / "pyproject.toml"
    done = _suite(tmp_path, "1", "--rootdir", tmp_path, *words, config=config, test_parts=ENGINES)

    assert done.returncode == code, done.stdout
    assert said in done.stdout
