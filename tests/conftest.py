"""What holds for every test: nothing leaks in from the shell, and in CI a skip is a failure.

MLflow and S3 are started once, when the first test asks for `servers`; models and other parts by their folder. The API
server of `cluster` is the stand-in, or with SHIPWAY_TEST_KUBECONFIG the one of that file (`make test-kubernetes`).
"""

import os
from collections import Counter
from collections.abc import Generator
from typing import Any

import hypothesis
import pytest

_OURS = ("SHIPWAY_", "MLFLOW_", "AWS_")
_KUBECONFIG = "SHIPWAY_TEST_KUBECONFIG"
_KEPT = ("SHIPWAY_CI", "SHIPWAY_CRD_DIR", _KUBECONFIG)

_LEFT_OUT = pytest.StashKey[Counter[str]]()
_FAST_S = 300
"""A test without servers or models takes seconds; the rest is for a box that is busy with many others."""

# The box may be busy with models beside us: how long an example takes says nothing. The examples are the same in each run,
# so that a run fails by what was changed; the long runs of `make test-faults` draw new ones.
hypothesis.settings.register_profile(
    "shipway",
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("shipway")


def pytest_configure() -> None:
    """Forget a stack that the shell points to: no test may write into somebody's registry."""
    for name in tuple(os.environ):
        if name.startswith(_OURS) and name not in _KEPT:
            del os.environ[name]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """End a hanging test early where nothing real is started; the others have pyproject's longer limit.

    A real API server is asked nothing for which the stand-in itself is needed; the end of the run says what, and why.
    """
    for item in items:
        if not any(item.iter_markers("real")) and not any(item.iter_markers("timeout")):
            item.add_marker(pytest.mark.timeout(_FAST_S))
        for mark in item.iter_markers("promise"):
            item.user_properties.append(("promise", mark.args[0]))
            item.user_properties.append(("about", mark.kwargs.get("about", "parts")))
    if _KUBECONFIG in os.environ:
        left_out = [item for item in items if item.get_closest_marker("stand_in")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)
        config.stash[_LEFT_OUT] = Counter(_reason(item) for item in left_out)


def _reason(item: pytest.Item) -> str:
    marker: Any = item.get_closest_marker("stand_in")
    return marker.args[0]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say what a real API server was not asked."""
    for reason, count in config.stash.get(_LEFT_OUT, Counter[str]()).most_common():
        terminalreporter.line(f"not for a real API server: {count} tests of {reason}")


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("SHIPWAY_CI") == "1":
        reason: Any = report.longrepr
        report.outcome = "failed"
        report.longrepr = (
            f"{reason[2] if reason else 'Skipped without a reason'}. In CI (SHIPWAY_CI=1) a skip is a failure: "
            "let `make setup` install what is missing, or remove the test."
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn the skip of a test into its failure, in CI."""
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn the skip of a whole module into its failure, in CI."""
    report = yield
    _refuse_skip(report)
    return report


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Generator[Any]:
    """A real MLflow and a real S3 (`tests.servers.Servers`)."""
    from tests.servers import start_servers

    with start_servers(tmp_path_factory.mktemp("servers")) as running:
        yield running


@pytest.fixture(scope="session")
def real_kubeconfig() -> str | None:
    """The file of a real API server that serves all kinds, where one is to be asked."""
    from tests.contracts.custom_resources import schema_folder
    from tests.kubernetes_api.real_cluster import install_kinds
    from tests.kubernetes_api.resources import read_catalogue

    kubeconfig = os.environ.get(_KUBECONFIG)
    if kubeconfig is not None:
        install_kinds(kubeconfig, read_catalogue(schema_folder()))
    return kubeconfig


@pytest.fixture
def cluster(real_kubeconfig: str | None) -> Generator[Any]:
    """A Kubernetes API server with the operators' CRDs, stand-in or real (`tests.kubernetes_api.cluster.Cluster`)."""
    from tests.contracts.custom_resources import schema_folder
    from tests.kubernetes_api.cluster import a_cluster
    from tests.kubernetes_api.real_cluster import a_real_cluster
    from tests.kubernetes_api.resources import read_catalogue

    kind = (
        a_cluster(read_catalogue(schema_folder()))
        if real_kubeconfig is None
        else a_real_cluster(real_kubeconfig)
    )
    with kind as running:
        yield running
