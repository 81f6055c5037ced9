"""A model at rest costs one request a look, and no request of anybody's is seen later for it."""

from collections.abc import Iterator

import pytest

from registry.mlflow_registry import MlflowRegistry
from registry.promotion import AliasTrigger, MoveAlias, TagVersion
from registry.settings import RegistrySettings
from registry.tracking import connect_mlflow
from tests.registry.bad_mlflow import MODEL, BadMlflow, a_bad_mlflow

ALIAS = AliasTrigger()
MODEL_READ, VERSION_READ = "registered-models/get", "model-versions/get"


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def mlflow() -> Iterator[BadMlflow]:
    """v6 serves; v7 and v8 are there."""
    with a_bad_mlflow() as server:
        server.aliases = {"champion": "6"}
        yield server


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registry(mlflow: BadMlflow, clock: Clock) -> MlflowRegistry:
    registry = MlflowRegistry(
        connect_mlflow(RegistrySettings(tracking_uri=mlflow.url)), clock=clock
    )
    registry.facts(MODEL, ALIAS, serving="6")
    mlflow.stages["8"] = "None"
    mlflow.calls.clear()
    return registry


def test_a_model_at_rest_is_one_request(mlflow: BadMlflow, registry: MlflowRegistry) -> None:
    first = registry.facts(MODEL, ALIAS, serving="6")
    assert registry.facts(MODEL, ALIAS, serving="6") == first
    assert set(first.versions) == {"6"}
    assert mlflow.calls == [MODEL_READ] * 2


def test_what_is_told_of_the_version_that_serves_is_read_again_after_ten_minutes(
    mlflow: BadMlflow, registry: MlflowRegistry, clock: Clock
) -> None:
    mlflow.tags["6"] = {"said": "by hand"}
    clock.now += 599
    assert registry.facts(MODEL, ALIAS, serving="6").versions["6"].tags != mlflow.tags["6"]
    clock.now += 1
    assert registry.facts(MODEL, ALIAS, serving="6").versions["6"].tags == mlflow.tags["6"]


@pytest.mark.parametrize(
    ("aliases", "serving"),
    [
        ({"champion": "6", "challenger": "6"}, "6"),
        ({"champion": "7"}, "6"),
        ({"champion": "6"}, None),
        ({"champion": "6"}, "7"),
    ],
    ids=["asked for", "another champion", "nothing serves", "another serves"],
)
def test_a_version_that_may_be_asked_for_is_read_anew(
    mlflow: BadMlflow, registry: MlflowRegistry, aliases: dict[str, str], serving: str | None
) -> None:
    mlflow.aliases = aliases
    for version in mlflow.tags:
        mlflow.tags[version] = {"shipway.approved": "true"}
    facts = registry.facts(MODEL, ALIAS, serving=serving)
    assert [one.tags for one in facts.versions.values()] == [{"shipway.approved": "true"}]


@pytest.mark.parametrize(
    "change", [TagVersion(version="6", tags={"a": "b"}), MoveAlias(alias="other", version="7")]
)
def test_what_was_written_by_ourselves_is_read_anew(
    mlflow: BadMlflow, registry: MlflowRegistry, change: TagVersion | MoveAlias
) -> None:
    registry.write(MODEL, change)
    mlflow.calls.clear()
    registry.facts(MODEL, ALIAS, serving="6")
    assert VERSION_READ in mlflow.calls
