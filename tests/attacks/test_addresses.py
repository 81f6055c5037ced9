"""Addresses that others write down, and whom we would ask in their name: sources, artifacts of runs, notifications.

Redirects of a webhook: `tests/rollout/test_notifier.py`; schemas that name addresses: `test_guard.py`.
"""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from deploy_targets.rollout.notifier import Notifier
from deploy_targets.rollout.settings import NotifySettings
from pipelines.download.fetcher import Fetcher
from pipelines.download.sources import parse_source
from registry.errors import BadInput, SourceInvalid

INSIDE = [
    "http://169.254.169.254/latest/meta-data/",
    "http://[fd00:ec2::254]/latest/",
    "http://metadata.google.internal/computeMetadata/v1/",
    "https://127.0.0.1:6443/api/v1/secrets",
    "file:///etc",
    "/etc",
    "ftp://127.0.0.1/x",
    "dbfs:/x",
    "gopher://127.0.0.1:6379/_FLUSHALL",
    "../../etc",
]


class Untouched:
    """A client that nobody may use."""

    def __getattr__(self, name: str) -> Any:
        message = f"{name} was asked for"
        raise AssertionError(message)


def a_fetcher(*, registry: object = None, tracking: object = None) -> Fetcher:
    nobody = cast("Any", Untouched())
    return Fetcher(
        nobody, cast("Any", registry or nobody), cast("Any", tracking or nobody), nobody, nobody
    )


@pytest.mark.parametrize(
    "text",
    [*(one for one in INSIDE if "://" in one and not one.startswith("file:")), "package://os/../../etc/passwd"],
)  # fmt: skip
def test_a_source_that_is_an_address_inside_of_a_network_names_nothing(text) -> None:
    with pytest.raises(SourceInvalid):
        parse_source(text)


@pytest.mark.parametrize("source", INSIDE)
def test_a_version_whose_source_is_such_an_address_is_not_fetched(source) -> None:
    """Whoever may register a version writes its source."""
    version = SimpleNamespace(source=source, tags={})
    registry = SimpleNamespace(version=lambda *_: version)
    with pytest.raises(SourceInvalid, match="cannot be fetched from here"):
        a_fetcher(registry=registry).find(parse_source("models:/chat/7"))


@pytest.mark.parametrize("root", INSIDE)
def test_a_run_whose_artifacts_lie_at_such_an_address_is_not_asked(root) -> None:
    """Whoever may make an experiment says where its runs' artifacts lie."""
    tracking = SimpleNamespace(artifact_address=lambda _: root)
    with pytest.raises(SourceInvalid, match="which is not asked"):
        a_fetcher(tracking=tracking).find(parse_source("runs:/0123abcd/model"))


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://127.0.0.1.example.com/",
        "http://127.0.0.1@169.254.169.254/",
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
        "https:///nowhere",
    ],
)
def test_a_notifiers_address_that_is_not_https_or_here_is_refused(url) -> None:
    with pytest.raises(BadInput):
        Notifier(url, NotifySettings(), mlflow_url="")
