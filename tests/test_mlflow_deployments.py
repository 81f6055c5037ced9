"""MLflow's own way in: the plugin's client, MLflow's errors, and real predictions through a real guard."""

import io
import json
import queue
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from starlette.responses import Response

from deploy_targets.endpoint import Endpoint, EndpointFile
from deploy_targets.mlflow_deployments import ShipwayDeployments, run_local
from deploy_targets.rollout.status import Status, summarise
from registry.errors import NotFound
from registry.release import ModelVersion
from tests.builders import a_state, a_version, an_endpoint
from tests.fakes import FakeRegistry
from tests.guard.stub import KEY, keys_json, served
from tests.guard.world import World


class Aliases(dict[str, str]):
    """Also asked as MLflow's adapter is."""

    def __call__(self, model: str) -> dict[str, str]:
        return dict(self)


class Registry(FakeRegistry):
    """One that aliases and versions can be looked up in."""

    def __init__(self, *versions: ModelVersion) -> None:
        super().__init__(*versions)
        self.aliases = Aliases()

    def version(self, model: str, version: str) -> ModelVersion:
        self._answer()
        if version not in self.versions:
            message = f"There is no version {version} of the registered model {model}."
            raise NotFound(message)
        return self.versions[version]


@dataclass
class Plane:
    """A control plane on fakes."""

    file: EndpointFile
    known: Registry
    guard: str = ""

    def registry(self) -> Any:
        return self.known

    def status(self, endpoint: Endpoint) -> Status:
        return summarise(endpoint, a_state("6"), None)

    def guard_url(self, endpoint: Endpoint) -> str:
        return self.guard


@pytest.fixture
def plane() -> Plane:
    versions = (a_version("6"), a_version("7"), a_version("8", passed=False, reasons=("worse",)))
    declared = {"apiVersion": "shipway/v1", "endpoints": [an_endpoint().model_dump(mode="json")]}
    return Plane(EndpointFile.model_validate(declared), Registry(*versions))


@pytest.fixture
def client(plane: Plane) -> ShipwayDeployments:
    def open_plane(file: Path) -> Any:
        assert file == Path("endpoints.yaml")
        return plane

    return ShipwayDeployments("shipway", open_plane=open_plane)


def refused(raised: pytest.ExceptionInfo[MlflowException], code: str, *words: str) -> None:
    assert raised.value.error_code == code
    assert all(word in str(raised.value) for word in words), raised.value


@pytest.mark.parametrize("deed", ["create_deployment", "update_deployment"])
def test_both_ask_for_the_version_as_promote_does(
    client: ShipwayDeployments, plane: Plane, deed: str
) -> None:
    done = getattr(client, deed)("chat", "models:/smollm2/7")
    assert (done["name"], done["version"], done["flavor"]) == ("chat", "7", "transformers")
    assert plane.known.aliases == {"challenger": "7"}


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("runs:/0a1b/model", "mlflow run . -e release"),
        ("s3://shipway/models/7", "names no registered version"),
        ("models:/smollm2@challenger", "like models:/smollm2/7"),
        ("models:/smollm2/Production", "like models:/smollm2/7"),
        ("models:/m-0a1b2c", "names no registered version"),
        ("models:/other/7", "chat serves smollm2"),
        (None, "An update without --model-uri"),
    ],
)
def test_what_names_no_version_of_the_endpoints_model_is_refused_with_what_to_do(
    client: ShipwayDeployments, plane: Plane, uri: str | None, words: str
) -> None:
    with pytest.raises(MlflowException) as raised:
        client.update_deployment("chat", uri)
    refused(raised, "INVALID_PARAMETER_VALUE", words)
    assert plane.known.writes == []


def test_errors_of_the_core_leave_as_mlflows_with_the_same_message(
    client: ShipwayDeployments, plane: Plane
) -> None:
    with pytest.raises(MlflowException) as raised:
        client.create_deployment("chat", "models:/smollm2/8")
    refused(raised, "INVALID_STATE", "worse")
    with pytest.raises(MlflowException) as raised:
        client.create_deployment("chat", "models:/smollm2/9")
    refused(raised, "RESOURCE_DOES_NOT_EXIST", "no version 9")
    with pytest.raises(MlflowException) as raised:
        client.get_deployment("talk")
    refused(raised, "RESOURCE_DOES_NOT_EXIST", "It declares: chat.")
    plane.known.is_away = True
    with pytest.raises(MlflowException) as raised:
        client.create_deployment("chat", "models:/smollm2/7")
    refused(raised, "TEMPORARILY_UNAVAILABLE", "MLflow is away")
    assert plane.known.writes == []


def test_what_the_endpoint_file_says_cannot_be_said_here_as_well(
    client: ShipwayDeployments,
) -> None:
    for options in ({"flavor": "pyfunc"}, {"config": {"file": "a.yaml"}}, {"endpoint": "chat"}):
        with pytest.raises(MlflowException) as raised:
            client.create_deployment("chat", "models:/smollm2/7", **options)
        refused(raised, "INVALID_PARAMETER_VALUE", "the endpoint file says")
    with pytest.raises(MlflowException) as raised:
        ShipwayDeployments("shipway:/prod")
    refused(raised, "INVALID_PARAMETER_VALUE", "SHIPWAY_ENDPOINTS names the endpoint file")


def test_a_deletion_is_refused_and_says_what_to_do_instead(client: ShipwayDeployments) -> None:
    with pytest.raises(MlflowException) as raised:
        client.delete_deployment("chat")
    refused(raised, "INVALID_STATE", "take it out of the endpoint file", "`shipway rollback chat`")


def test_what_is_listed_and_got_is_json(client: ShipwayDeployments) -> None:
    listed = json.loads(json.dumps(client.list_deployments()))
    assert listed == [{"name": "chat", "model": "smollm2", "target": "local"}]
    got = json.loads(json.dumps(client.get_deployment("chat")))
    assert (got["name"], got["serving"], got["phase"], got["traffic"]) == (
        "chat",
        "6",
        "idle",
        None,
    )


def test_run_local_is_for_the_local_stack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SHIPWAY_CONTROL_PLANE", "kubernetes")
    with pytest.raises(MlflowException, match="run-local means the local stack"):
        run_local("chat", "models:/smollm2/7")
    monkeypatch.setenv("SHIPWAY_CONTROL_PLANE", "local")
    monkeypatch.setenv("SHIPWAY_HOME", str(tmp_path))
    with pytest.raises(MlflowException, match="Run `shipway up` first"):
        run_local("chat", "models:/smollm2/7")


@pytest.fixture
def guard(tmp_path: Path, plane: Plane, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A real one, in front of an engine that answers "Paris."; the client has its key."""
    keys_file = tmp_path / "keys.json"
    keys_file.write_text(keys_json(owner=KEY))
    world = World(queue.Queue())
    world.start(keys_file=keys_file, upstream_url=None, timeout_s=10)
    plane.guard = world.url
    monkeypatch.setenv("SHIPWAY_API_KEY", KEY)
    yield world
    world.stop()


def read_as_mlflow_does(document: object) -> pd.DataFrame:
    """As `mlflow deployments predict -I` hands a file to a plugin."""
    return pd.read_json(io.StringIO(json.dumps(document)))


CHAT = {
    "messages": [{"role": "system", "content": "Be terse."}, {"role": "user", "content": "Hello"}],
    "max_tokens": 8,
    "temperature": 0,
}


@pytest.mark.parametrize("as_table", [False, True])
def test_a_chat_request_passes_the_guard_whole(
    client: ShipwayDeployments, guard: World, *, as_table: bool
) -> None:
    answer = client.predict("chat", read_as_mlflow_does(CHAT) if as_table else CHAT)
    assert json.loads(answer.to_json()) == {"predictions": ["Paris."], "versions": ["7"]}
    assert json.loads(guard.stub.bodies[0]) == {**CHAT, "model": "chat"}


def test_each_prompt_of_a_table_is_asked(client: ShipwayDeployments, guard: World) -> None:
    table = read_as_mlflow_does([{"prompt": "one"}, {"prompt": "two"}])
    answer = client.predict(endpoint="chat", inputs=table)
    assert answer.get_predictions()[0].tolist() == ["Paris.", "Paris."]
    asked = [json.loads(body)["messages"] for body in guard.stub.bodies]
    assert asked == [[{"role": "user", "content": word}] for word in ("one", "two")]


@pytest.mark.parametrize(
    "inputs", [None, "Hello", {}, {"prompt": "x"}, [], [{"a": "x", "b": "y"}], [{"n": 1}]]
)
def test_what_is_no_request_is_refused_before_it_is_sent(
    client: ShipwayDeployments, guard: World, inputs: Any
) -> None:
    given = read_as_mlflow_does(inputs) if isinstance(inputs, list) else inputs
    with pytest.raises(MlflowException, match="Give an OpenAI chat request"):
        client.predict("chat", given)
    with pytest.raises(MlflowException, match="Leave `stream` out"):
        client.predict("chat", {**CHAT, "stream": True})
    assert guard.stub.bodies == []


def test_what_the_guard_refuses_leaves_as_mlflows_error_without_the_key(
    client: ShipwayDeployments, guard: World, plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHIPWAY_API_KEY", "sk-wrong")
    with pytest.raises(MlflowException) as raised:
        client.predict("chat", CHAT)
    refused(raised, "UNAUTHENTICATED", "answered 401")
    assert "sk-wrong" not in str(raised.value)
    plane.guard = "http://127.0.0.1:1"
    with pytest.raises(MlflowException) as raised:
        client.predict("chat", CHAT)
    refused(raised, "TEMPORARILY_UNAVAILABLE", "does not answer")


@pytest.mark.parametrize(
    ("status", "body"), [(520, "who knows"), (200, "<html>"), (200, "[]"), (200, '{"choices": []}')]
)
def test_what_no_guard_answers_leaves_as_mlflows_error_too(
    client: ShipwayDeployments, plane: Plane, status: int, body: str
) -> None:
    with served() as serve:
        plane.guard = serve(Response(body, status))
        with pytest.raises(MlflowException) as raised:
            client.predict("chat", CHAT)
    refused(raised, "INTERNAL_ERROR", body)
