"""What holds for every test: nothing leaks in from the shell, and in CI a skip is a failure.

Servers and models are started by the conftest.py of the folder that needs them.
"""

import os
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest

_OURS = ("SHIPWAY_", "MLFLOW_", "AWS_")
_KEPT = ("SHIPWAY_CI", "SHIPWAY_CRD_DIR")

# The box may be busy with models beside us: how long an example takes says nothing.
hypothesis.settings.register_profile("shipway", deadline=None, print_blob=True)
hypothesis.settings.load_profile("shipway")


def pytest_configure() -> None:
    """Forget a stack that the shell points to: no test may write into somebody's registry."""
    for name in tuple(os.environ):
        if name.startswith(_OURS) and name not in _KEPT:
            del os.environ[name]


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("SHIPWAY_CI") == "1":
        reason: Any = report.longrepr
        report.outcome = "failed"
        report.longrepr = (
            f"Skipped, which SHIPWAY_CI=1 forbids: {reason[2] if reason else 'no reason'}. "
            "Make `make setup` install what is missing, or remove the test."
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    """Turn the skip of a test into its failure, in CI."""
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Iterator[None]:
    """Turn the skip of a whole module into its failure, in CI."""
    report = yield
    _refuse_skip(report)
    return report
