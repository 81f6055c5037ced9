"""What a person sees who set a variable wrong, or whose word raced the controller's: what to do, never a traceback."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from deploy_targets import cli, operator_word
from deploy_targets.cluster import connect
from deploy_targets.rollout import store
from deploy_targets.rollout.state import EndpointState
from deploy_targets.rollout.store import SqliteStore
from registry.errors import BadInput, StateConflict
from registry.s3 import connect_s3
from registry.settings import RegistrySettings
from registry.tracking import connect_mlflow
from tests.builders import an_endpoint


@pytest.fixture
def shipway(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, str]]:
    """Runs a command; its exit code and what it said."""

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["shipway", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out + said.err

    monkeypatch.setenv("SHIPWAY_HOME", str(tmp_path / "home"))
    return run


def test_a_word_that_a_variable_does_not_know_is_named_with_the_variable(
    shipway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHIPWAY_CONTROL_PLANE", "k8s")
    code, said = shipway("status")
    assert (code, "Traceback" in said) == (2, False)
    assert "SHIPWAY_CONTROL_PLANE cannot be used: input should be 'local' or 'kubernetes'" in said


def test_lease_times_that_contradict_one_another_are_named(
    shipway, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deploy_targets.rollout.settings import ControllerSettings

    monkeypatch.setattr(cli, "compose", lambda _: ControllerSettings())
    monkeypatch.setenv("SHIPWAY_LEASE_RETRY_S", "99")
    code, said = shipway("hold", "chat", "--reason", "x")
    assert code == 2
    assert said.startswith("SHIPWAY_LEASE_RETRY_S (99) must be below")


def test_an_error_that_is_about_no_setting_is_not_dressed_up_as_one() -> None:
    with pytest.raises(ValueError, match="validation error") as found:
        an_endpoint(blind_limit_s=-1)
    assert cli._wrong_setting(found.value) is None


@pytest.mark.parametrize("text", ["foo: [", "just text", "- a", "contexts: 3"])
def test_a_kubeconfig_that_is_none_is_named_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    file = tmp_path / "config"
    file.write_text(text)
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(file))
    with pytest.raises(BadInput, match="KUBECONFIG is not a kubeconfig"):
        connect("some")


def test_an_address_of_s3_that_is_none_is_named_with_its_variable() -> None:
    with pytest.raises(BadInput, match="AWS_ENDPOINT_URL_S3 is no address"):
        connect_s3(RegistrySettings(s3_endpoint_url="nonsense"), keys=("k", "s"))


def test_an_address_of_mlflow_of_an_unknown_kind_is_named_with_its_variable() -> None:
    with pytest.raises(BadInput, match="MLFLOW_TRACKING_URI cannot be used"):
        connect_mlflow(RegistrySettings(tracking_uri="ftp://x"))


def test_a_folder_that_cannot_be_written_is_named(shipway, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = str(tmp_path / "file" / "below")
    code, said = shipway("render", "--all", "--source", "s3://m/1", "-o", folder)
    assert code == 2
    assert f"{folder} cannot be written" in said


def test_where_no_stack_was_started_no_other_parts_are_said_to_run(shipway) -> None:
    code, said = shipway("status")
    assert (code, said) == (1, "No stack was started here. Run `shipway up` first.\n")


class Plane:
    """A controller's world whose controller saves at the same moment as the operator."""

    def __init__(self, store: SqliteStore, *, races: int) -> None:
        self._store, self._races = store, races
        self.file = SimpleNamespace(named=lambda _: an_endpoint())
        self.registry = None

    def store(self):
        return self

    def load(self, endpoint: str):
        return self._store.load(endpoint)

    def save(self, state, *, expected: str) -> str:
        if self._races:
            self._races -= 1
            self._store.save(self._store.load("chat").state, expected=expected)
        return self._store.save(state, expected=expected)

    def wake_controller(self) -> str:
        return ""


def test_a_hold_that_races_the_controllers_save_is_given_again(
    shipway, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = SqliteStore(tmp_path / "state.db")
    monkeypatch.setattr(cli, "compose", lambda _: Plane(store, races=3))
    code, said = shipway("hold", "chat", "--reason", "the fair is on")
    assert (code, said.startswith("Held")) == (0, True)
    assert store.load("chat").state.hold is not None
    monkeypatch.setattr(cli, "compose", lambda _: Plane(store, races=3))
    assert shipway("resume", "chat")[0] == 0
    assert store.load("chat").state.hold is None
    monkeypatch.setattr(cli, "compose", lambda _: Plane(store, races=4))
    assert shipway("hold", "chat", "--reason", "the fair is on")[0] == 1


def test_what_is_no_longer_meant_is_not_asked_for_again() -> None:
    asked: list[str] = []

    def ask() -> str:
        asked.append("")
        raise StateConflict

    meant = iter(["chat-v7", None])
    with pytest.raises(StateConflict):
        operator_word.saved(ask, meant=lambda: next(meant))
    assert len(asked) == 1


def test_a_database_that_somebody_else_locks_is_told_as_such(
    shipway, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "state.db"
    monkeypatch.setattr(store, "_BUSY_S", 0.05)
    states = SqliteStore(path)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    monkeypatch.setattr(
        cli, "compose", lambda _: states.save(EndpointState(endpoint="chat"), expected="")
    )
    code, said = shipway("status")
    assert code == 1
    assert said.startswith("The state database state.db cannot be used (database is locked).")
    holder.close()
