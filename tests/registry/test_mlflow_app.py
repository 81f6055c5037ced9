"""Shipway's app in real MLflow servers: with and without MLflow's login, under uvicorn and under gunicorn."""

from collections.abc import Iterator
from pathlib import Path
from statistics import median
from time import monotonic, sleep
from typing import Any

import httpx2
import pytest
from flask import Flask, jsonify
from mlflow import MlflowClient

from deploy_targets.local.home import Home
from deploy_targets.local.process import free_port
from registry.asked_by import approved_by, asked_by
from registry.courier import Courier
from registry.hints import Touch
from registry.mlflow_app import watch
from registry.mlflow_registry import MlflowRegistry
from registry.promotion import AliasTrigger, StageTrigger, Trigger
from registry.release import APPROVAL_TAG, ASKED_BY_TAG
from registry.settings import RegistrySettings
from registry.tracking import connect_mlflow
from tests.builders import a_version
from tests.servers import Receiver, start_mlflow

PASSWORD = "correct horse battery staple"
ADMIN = ("admin", PASSWORD)
ALICE = ("alice", "alice's long password")
API = "api/2.0/mlflow"


class Person:
    """One user of an MLflow server that asks who calls."""

    def __init__(self, url: str, login: tuple[str, str]) -> None:
        self.url, self._login = url, login

    def call(self, method: str, path: str, **body: Any) -> httpx2.Response:
        return httpx2.request(
            method, f"{self.url}/{API}/{path}", json=body, auth=self._login, timeout=60
        )


class Login:
    """A server with a login, what a person does there, and what its registry and the controller know then."""

    def __init__(self, url: str, secret: str, receiver: Receiver) -> None:
        self.admin, self.alice = Person(url, ADMIN), Person(url, ALICE)
        self.secret, self.receiver = secret, receiver
        self.registry = MlflowRegistry(connect_mlflow(RegistrySettings(tracking_uri=url)))

    def who(self, model: str, trigger: Trigger) -> str | None:
        """Who asked for version 1, once it is written."""
        began = monotonic()
        while (actor := asked_by(self.registry.version(model, "1"), trigger, self.secret)) is None:
            assert monotonic() - began < 60
            sleep(0.02)
        return actor.user


@pytest.fixture(scope="module")
def login(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Login]:
    folder = tmp_path_factory.mktemp("login")
    port, secret = free_port(0, set()), Home(folder).secrets().webhook_secret
    environment = {"MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD}
    app = "--app-name=shipway-basic-auth"
    with (
        Receiver(port, secret) as receiver,
        start_mlflow(folder, app, environment=environment, controller_port=port) as url,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("MLFLOW_TRACKING_USERNAME", ADMIN[0])
        patch.setenv("MLFLOW_TRACKING_PASSWORD", ADMIN[1])
        running = Login(url, secret, receiver)
        name, password = ALICE
        assert running.admin.call("POST", "users/create", username=name, password=password)
        yield running


def a_model(person: Person, name: str) -> str:
    version = a_version("1")
    assert person.call("POST", "registered-models/create", name=name).is_success
    made = person.call("POST", "model-versions/create", name=name, source=version.source)
    assert made.is_success, made.text
    return name


@pytest.mark.real
def test_a_deed_is_told_within_a_second(login: Login) -> None:
    """In the median, for one may meet a busy box."""
    took_s: list[float] = []
    with login.receiver.hints() as hints:
        first = {"name": a_model(login.alice, "quick"), "version": "1", "alias": "challenger"}
        hints("plugin", 1)
        for number in range(2, 7):
            login.alice.call("POST", "registered-models/alias", **first)
            began = monotonic()
            hints("plugin", number)
            took_s.append(monotonic() - began)

    assert median(took_s) < 1


@pytest.mark.real
def test_every_deed_is_told_with_the_user_who_logged_in(login: Login) -> None:
    with login.receiver.hints() as hints:
        model = a_model(login.alice, "told")
        alice, of = login.alice, {"name": model}
        first = {**of, "version": "1"}
        alice.call("POST", "registered-models/alias", **first, alias="challenger")
        stage = {**first, "stage": "production", "archive_existing_versions": False}
        alice.call("POST", "model-versions/transition-stage", **stage)
        alice.call("DELETE", "registered-models/alias", **of, alias="challenger")
        alice.call("POST", "model-versions/set-tag", **first, key=APPROVAL_TAG, value="yes")
        alice.call("POST", "model-versions/set-tag", **first, key="owner", value="alice")
        alice.call("DELETE", "model-versions/delete", **first)
        alice.call("DELETE", "registered-models/delete", **of)
        told = hints("plugin", 7)

    assert [(one["deed"], one.get("version"), one.get("name"), one["user"]) for one in told] == [
        ("version_created", "1", None, "alice"),
        ("alias_set", "1", "challenger", "alice"),
        ("stage_moved", "1", "Production", "alice"),
        ("alias_deleted", None, "challenger", "alice"),
        ("tag_set", "1", APPROVAL_TAG, "alice"),
        ("version_deleted", "1", None, "alice"),
        ("model_deleted", None, None, "alice"),
    ]
    assert {one["model"] for one in told} == {"told"}


@pytest.mark.real
def test_the_name_stands_on_the_version_and_nobody_can_write_another(login: Login) -> None:
    model = a_model(login.alice, "named")
    first = {"name": model, "version": "1"}
    login.alice.call("POST", "registered-models/alias", **first, alias="challenger")
    login.admin.call("POST", "model-versions/transition-stage", **first, stage="Production")
    login.admin.call("POST", "model-versions/set-tag", **first, key=APPROVAL_TAG, value="yes")

    assert login.who(model, AliasTrigger()) == "alice"
    assert login.who(model, StageTrigger()) == "admin"
    began = monotonic()
    while (approval := approved_by(login.registry.version(model, "1"), login.secret)) is None:
        assert monotonic() - began < 60
    assert approval.user == "admin"

    key = f"{ASKED_BY_TAG}.alias.challenger"
    genuine = login.registry.version(model, "1").tags[key]
    forged = genuine.replace("alice", "admin")
    assert login.alice.call("POST", "model-versions/set-tag", **first, key=key, value=forged)
    assert asked_by(login.registry.version(model, "1"), AliasTrigger(), login.secret) is None


@pytest.mark.real
def test_what_mlflow_refuses_is_told_to_nobody(login: Login) -> None:
    with login.receiver.hints() as made:
        model = a_model(login.admin, "refused")
        made("plugin", 1)
    first = {"name": model, "version": "1", "alias": "challenger"}
    stranger = Person(login.admin.url, ("mallory", "no such password"))

    with login.receiver.hints() as hints:
        codes = [
            one.call("POST", "registered-models/alias", **first).status_code
            for one in (stranger, login.alice)  # unknown; known, and may only read
        ]
        missing = {**first, "version": "99"}
        codes.append(login.admin.call("POST", "registered-models/alias", **missing).status_code)
        login.admin.call("DELETE", "registered-models/delete", name=model)
        told = hints("plugin", 1)

    assert codes == [401, 403, 404]
    assert [one["deed"] for one in told] == ["model_deleted"]


@pytest.mark.real
@pytest.mark.timeout(300)
def test_it_listens_under_gunicorn_too_and_without_a_login_names_nobody(tmp_path: Path) -> None:
    port, secret = free_port(0, set()), Home(tmp_path).secrets().webhook_secret
    with (
        Receiver(port, secret) as receiver,
        start_mlflow(
            tmp_path, "--gunicorn-opts=--timeout=100", environment={}, controller_port=port
        ) as url,
        receiver.hints() as hints,
    ):
        client = MlflowClient(tracking_uri=url)
        client.create_registered_model("m")
        client.create_model_version("m", source="s3://shipway/models/1", await_creation_for=0)
        client.set_model_version_tag(
            "m", "1", f"{ASKED_BY_TAG}.alias.challenger", "of a time with a login"
        )
        client.set_registered_model_alias("m", "challenger", "1")
        told = hints("plugin", 2)
        assert ["user" in one for one in told] == [False, False]
        version = MlflowRegistry(client).version("m", "1")

    assert not [key for key in version.tags if key.startswith(ASKED_BY_TAG)]


@pytest.mark.real
def test_mlflow_answers_as_fast_and_as_well_when_no_controller_is_there(servers: Any) -> None:
    """The session's MLflow runs the app as well, and nobody listens at its controller's port."""
    client: Any = servers.client
    client.create_registered_model("unheard")
    client.create_model_version("unheard", source="s3://shipway/models/1", await_creation_for=0)
    took_s: list[float] = []

    for _ in range(20):
        began = monotonic()
        client.set_registered_model_alias("unheard", "challenger", "1")
        took_s.append(monotonic() - began)

    assert median(took_s) < 0.5
    assert dict(client.get_registered_model("unheard").aliases) == {"challenger": "1"}


def test_no_fault_of_ours_reaches_mlflows_client() -> None:
    class Broken(Courier):
        def hand_over(self, touch: Touch) -> None:
            raise MemoryError

    app = Flask(__name__)
    app.add_url_rule(
        f"/{API}/registered-models/alias", "alias", lambda: jsonify({}), methods=["POST"]
    )
    watch(app, Broken(print, print))

    answer = app.test_client().post(
        f"/{API}/registered-models/alias", json={"name": "m", "alias": "a", "version": "1"}
    )

    assert (answer.status_code, answer.get_json()) == (200, {})
