"""The adapter against a real MLflow: what a person clicks there is what Shipway reads, and the other way round."""

from collections.abc import Callable
from time import monotonic
from typing import Any
from uuid import uuid4

import pytest
from mlflow.exceptions import MlflowException

from registry.errors import NotFound, RegistryUnavailable
from registry.mlflow_registry import MlflowRegistry
from registry.promotion import (
    AliasTrigger,
    MoveAlias,
    RegistryFacts,
    StageTrigger,
    TagVersion,
    TransitionStage,
    check_gate,
)
from registry.release import DIGEST_TAG, SCORECARD_TAG, Refused, Release
from registry.settings import RegistrySettings
from registry.tracking import connect_mlflow
from tests.builders import a_version

pytestmark = pytest.mark.real

ALIAS, STAGE = AliasTrigger(), StageTrigger(stage="Production")


@pytest.fixture(scope="module")
def registry(servers: Any) -> MlflowRegistry:
    return servers.registry


@pytest.fixture(scope="module")
def client(servers: Any) -> Any:
    return servers.client


@pytest.fixture
def model() -> str:
    return f"model-{uuid4().hex[:8]}"


def register(registry: MlflowRegistry, model: str, number: str = "1") -> str:
    """A version that passes the gate, with a scorecard; returns its number."""
    version = a_version(number)
    made, _ = registry.register(model, source=version.source, run_id=None, tags=version.tags)
    return made


def move_to_stage(client: Any, model: str, version: str, stage: str) -> None:
    with pytest.warns(FutureWarning, match="stages"):
        client.transition_model_version_stage(model, version, stage)


def test_a_model_that_does_not_exist_asks_for_nothing(registry: MlflowRegistry, model: str) -> None:
    assert registry.facts(model, ALIAS) == RegistryFacts(model=model, is_gone=True)
    assert registry.facts(model, STAGE) == RegistryFacts(model=model, is_gone=True)
    assert registry.versions(model) == ()


def test_an_alias_set_in_the_ui_is_a_fact_and_its_version_comes_with_it(
    registry: MlflowRegistry, client: Any, model: str
) -> None:
    version = register(registry, model)
    register(registry, model, "2")
    client.set_registered_model_alias(model, "challenger", version)
    facts = registry.facts(model, ALIAS)
    assert facts.aliases == {"challenger": "1"}
    assert list(facts.versions) == ["1"]
    assert isinstance(check_gate(facts.versions["1"]), Release)


def test_a_stage_set_in_the_ui_is_a_fact_and_the_later_click_is_the_newer(
    registry: MlflowRegistry, client: Any, model: str
) -> None:
    for number in ("1", "2", "3"):
        register(registry, model, number)
    for version in ("2", "1"):
        move_to_stage(client, model, version, "Production")
    facts = registry.facts(model, STAGE)
    stages = {number: version.stage for number, version in facts.versions.items()}
    assert stages == {"1": "Production", "2": "Production"}
    assert facts.versions["1"].updated_ms > facts.versions["2"].updated_ms


def test_versions_come_newest_first_by_number(registry: MlflowRegistry, model: str) -> None:
    for number in range(1, 12):
        register(registry, model, str(number))
    numbers = [version.version for version in registry.versions(model)]
    assert numbers == [str(number) for number in range(11, 0, -1)]


def test_a_quote_in_a_models_name_is_no_syntax(registry: MlflowRegistry) -> None:
    model = f"o'model-{uuid4().hex[:8]}"
    register(registry, model)
    assert [version.version for version in registry.versions(model)] == ["1"]


def test_a_promote_model_copy_keeps_digest_scorecard_and_source(
    registry: MlflowRegistry, client: Any, model: str
) -> None:
    version = register(registry, model)
    copy = client.copy_model_version(f"models:/{model}/{version}", f"{model}-prod")
    twice = client.copy_model_version(f"models:/{model}-prod/{copy.version}", f"{model}-live")
    original = registry.version(model, version)
    read = registry.version(f"{model}-live", twice.version)
    assert (read.model, read.version) == (f"{model}-live", "1")
    assert read.source == original.source
    assert read.tags[DIGEST_TAG] == original.tags[DIGEST_TAG]
    assert read.tags[SCORECARD_TAG] == original.tags[SCORECARD_TAG]
    assert isinstance(check_gate(read), Release)


def test_a_copy_whose_origin_was_deleted_is_refused_and_hides_no_other_version(
    registry: MlflowRegistry, client: Any, model: str
) -> None:
    version = register(registry, model)
    client.copy_model_version(f"models:/{model}/{version}", f"{model}-prod")
    register(registry, f"{model}-prod", "2")
    registry.delete_version(model, version)
    assert [v.version for v in registry.versions(f"{model}-prod")] == ["2", "1"]
    assert isinstance(check_gate(registry.version(f"{model}-prod", "1")), Refused)


def test_a_version_made_of_a_logged_model_is_refused_and_hides_no_other_version(
    registry: MlflowRegistry, client: Any, model: str
) -> None:
    logged = client.create_logged_model("0", name="elsewhere")
    client.create_registered_model(model)
    source = f"models:/{logged.model_id}"
    client.create_model_version(model, source=source, model_id=logged.model_id)
    ours = register(registry, model, "2")
    client.set_registered_model_alias(model, "challenger", "1")
    assert [v.version for v in registry.versions(model)] == [ours, "1"]
    assert isinstance(check_gate(registry.facts(model, ALIAS).versions["1"]), Refused)


def test_a_version_deleted_under_an_alias_is_no_version_of_the_facts(
    registry: MlflowRegistry, client: Any, model: str
) -> None:
    version = register(registry, model)
    client.set_registered_model_alias(model, "challenger", version)
    registry.delete_version(model, version)
    facts = registry.facts(model, ALIAS)
    assert facts.versions == {}
    assert facts.aliases in ({}, {"challenger": version})


def test_a_run_registers_its_version_once_however_often_it_is_repeated(
    registry: MlflowRegistry, servers: Any, model: str
) -> None:
    tracking = servers.tracking
    experiment = tracking.experiment("registering")
    with tracking.run(experiment_id=experiment, name="version") as run_id:
        made = [
            registry.register(model, source="s3://shipway/models/1", run_id=run_id, tags={})
            for _ in range(2)
        ]
    with tracking.run(experiment_id=experiment, name="version") as run_id:
        another = registry.register(model, source="s3://shipway/models/1", run_id=run_id, tags={})
    assert made == [("1", True), ("1", False)]
    assert another == ("2", True)
    assert registry.version(model, "2").run_id == run_id


@pytest.mark.parametrize("times", [1, 2])
def test_every_change_is_written_and_may_be_repeated(
    registry: MlflowRegistry, model: str, times: int
) -> None:
    version = register(registry, model)
    register(registry, model, "2")
    for _ in range(times):
        registry.write(model, MoveAlias(alias="champion", version=version))
        registry.write(model, TagVersion(version=version, tags={"a": "1", "b": "2"}))
        registry.write(model, MoveAlias(alias="challenger", version="2"))
        registry.write(model, MoveAlias(alias="challenger", version=None))
        with pytest.warns(FutureWarning, match="stages"):
            registry.write(model, TransitionStage(version=version, stage="Archived"))
    assert registry.aliases(model) == {"champion": version}
    read = registry.version(model, version)
    assert read.stage == "Archived"
    assert {"a": "1", "b": "2"}.items() <= read.tags.items()


@pytest.mark.parametrize(("was", "expected"), [("1", {}), ("2", {"challenger": "1"})])
def test_an_alias_that_was_moved_meanwhile_is_left_to_its_new_version(
    registry: MlflowRegistry, model: str, was: str, expected: dict[str, str]
) -> None:
    register(registry, model)
    registry.write(model, MoveAlias(alias="challenger", version="1"))
    registry.write(model, MoveAlias(alias="challenger", version=None, was=was))
    assert registry.aliases(model) == expected


def test_an_alias_that_was_set_meanwhile_is_not_overwritten(
    registry: MlflowRegistry, model: str
) -> None:
    register(registry, model)
    register(registry, model, "2")
    registry.write(model, MoveAlias(alias="challenger", version="1", was=""))
    registry.write(model, MoveAlias(alias="challenger", version="2", was=""))
    assert registry.aliases(model) == {"challenger": "1"}


def test_all_models_are_listed(registry: MlflowRegistry, model: str) -> None:
    register(registry, model)
    assert model in registry.models()


@pytest.mark.parametrize(
    "ask",
    [
        lambda registry, model: registry.aliases(f"no-{model}"),
        lambda registry, model: registry.version(model, "99"),
        lambda registry, model: registry.version(model, "seven"),
        lambda registry, model: registry.version(f"no-{model}", "1"),
        lambda registry, model: registry.delete_version(model, "99"),
        lambda registry, model: registry.write(model, MoveAlias(alias="a", version="99")),
        lambda registry, model: registry.write(model, TagVersion(version="99", tags={"a": "b"})),
        lambda registry, model: registry.write(f"no-{model}", MoveAlias(alias="a", version=None)),
    ],
)
def test_what_does_not_exist_is_not_found_rather_than_unavailable(
    registry: MlflowRegistry, model: str, ask: Callable[[MlflowRegistry, str], object]
) -> None:
    register(registry, model)
    with pytest.raises(NotFound, match="MLflow does not have"):
        ask(registry, model)


def test_a_server_that_is_away_is_unavailable_in_bounded_time() -> None:
    away = RegistrySettings(tracking_uri="http://127.0.0.1:1")
    registry = MlflowRegistry(connect_mlflow(away))
    began = monotonic()
    with pytest.raises(RegistryUnavailable, match=r"shipway status"):
        registry.facts("smollm2", ALIAS)
    assert monotonic() - began < 30


def a_hook(registry: MlflowRegistry, name: str, port: int) -> None:
    registry.ensure_webhook(
        name=name,
        url=f"http://127.0.0.1:{port}/hooks/mlflow",
        secret="s3cret",
        events=("model_version_alias.created",),
    )


def test_a_webhook_is_set_right_by_the_next_one_of_its_name_and_others_are_left_alone(
    registry: MlflowRegistry, client: Any
) -> None:
    other, name = f"other-{uuid4().hex[:8]}", f"shipway-{uuid4().hex[:8]}"
    twins = [
        client.create_webhook(name, f"http://127.0.0.1:{port}/", ["model_version.created"])
        for port in (1, 2)
    ]
    client.update_webhook(twins[0].webhook_id, status="DISABLED")
    for hook, port in ((other, 1), (name, 2), (name, 3)):
        a_hook(registry, hook, port)
    hooks = {hook.name: hook for hook in registry.webhooks()}
    assert (hooks[name].url, hooks[name].is_active) == ("http://127.0.0.1:3/hooks/mlflow", True)
    assert hooks[name].events == ("model_version_alias.created",)
    assert hooks[other].url == "http://127.0.0.1:1/hooks/mlflow"
    ids = {hook.webhook_id for hook in client.list_webhooks(100) if hook.name == name}
    assert len(ids) == 1
    assert ids < {twin.webhook_id for twin in twins}
    # MLflow delivers with few threads, which one call of a dead address keeps for ten seconds.
    assert registry.remove_webhook(other)
    assert registry.remove_webhook(name)


def test_a_webhook_is_removed_once(registry: MlflowRegistry) -> None:
    name = f"shipway-{uuid4().hex[:8]}"
    a_hook(registry, name, 1)
    assert registry.remove_webhook(name)
    assert not registry.remove_webhook(name)
    with pytest.raises(NotFound, match="shipway webhook install"):
        registry.try_webhook(name)


def test_a_host_that_mlflow_does_not_answer_to_is_told_with_what_to_set() -> None:
    class Refusing:
        def get_registered_model(self, _: str) -> None:
            message = "API request failed with error code 403: Invalid Host header - possible DNS rebinding"
            raise MlflowException(message)

    with pytest.raises(RegistryUnavailable, match="--allowed-hosts"):
        MlflowRegistry(Refusing()).aliases("m")  # type: ignore[arg-type]


def test_a_version_that_came_with_its_model_is_not_asked_for_again(servers, monkeypatch) -> None:
    name = f"newest-{uuid4().hex}"
    servers.client.create_registered_model(name)
    for number in ("1", "2"):
        servers.client.create_model_version(
            name, source=f"s3://shipway/models/{number}", tags={"digest": number}
        )
    servers.client.set_registered_model_alias(name, "champion", "2")
    asked: list[str] = []
    original = servers.client.get_model_version

    def counted(model: str, version: str):
        asked.append(version)
        return original(model, version)

    monkeypatch.setattr(servers.client, "get_model_version", counted)
    facts = servers.registry.facts(name, ALIAS)
    assert (facts.versions["2"].tags, asked) == ({"digest": "2"}, [])
    servers.client.set_registered_model_alias(name, "challenger", "1")
    facts = servers.registry.facts(name, ALIAS)
    assert (facts.versions["1"].tags, asked) == ({"digest": "1"}, ["1"])
