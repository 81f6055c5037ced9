"""What `up` remembers and hands on; `tests.flows.test_the_stack` starts it for real."""

import json
import socket
from hashlib import sha256
from pathlib import Path

import pytest

from deploy_targets.local import parts, stack
from deploy_targets.local.home import Home, Secrets
from deploy_targets.local.process import find_marked
from registry.errors import ComponentNotReady, EndpointFileInvalid

ENDPOINTS = """
apiVersion: shipway/v1
endpoints: [{name: chat, model: smollm2}]
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "endpoints.yaml"
    file.write_text(ENDPOINTS)
    return file


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands in for the folder of the parts' programs: each is there and does nothing for a while."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("weed", "ray", "mlflow", "envoy"):
        write_program(folder / name, "exec sleep 600")
    monkeypatch.setattr(parts, "BIN", folder)
    return folder


def write_program(path: Path, code: str) -> None:
    path.write_text(f"#!/bin/sh\n{code}\n")
    path.chmod(0o755)


def test_a_part_inherits_no_account_or_server_of_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "MLFLOW_TRACKING_URI", "RAY_ADDRESS")
    for name in (*foreign, "SHIPWAY_POLL_S", "LANG"):
        monkeypatch.setenv(name, "x")

    inherited = stack.inherited_environment()

    assert [name for name in foreign if name in inherited] == []
    assert {"SHIPWAY_POLL_S", "LANG", "PATH"} <= inherited.keys()


def test_the_guards_keys_file_holds_no_key() -> None:
    secrets = Secrets.make()
    text = stack.keys_document(secrets)
    assert secrets.api_key not in text
    (entry,) = json.loads(text)["keys"]
    assert entry["sha256"] == sha256(secrets.api_key.encode()).hexdigest()


def test_nothing_was_started_where_nothing_is_remembered(home: Home) -> None:
    assert stack.load_stack(home) is None
    stack.down(home, announce=print)
    assert stack.load_stack(home) is None


def test_a_damaged_memory_is_said_to_be_one(home: Home) -> None:
    home.folder("")
    home.stack_file.write_text('{"ports": 1}')
    with pytest.raises(ComponentNotReady, match=r"stack.json is not one of this version"):
        stack.load_stack(home)


@pytest.mark.parametrize("text", [None, "apiVersion: shipway/v2", "- ["])
def test_with_an_endpoint_file_that_is_none_nothing_is_started(
    home: Home, file: Path, text: str | None
) -> None:
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    with pytest.raises(EndpointFileInvalid, match=str(file)):
        stack.up(home, file, announce=print)
    assert not home.path.exists()


@pytest.mark.real
def test_a_part_that_ends_at_once_is_named_with_its_log_and_down_ends_the_others(
    home: Home, file: Path, programs: Path
) -> None:
    write_program(programs / "weed", "echo no such disk; exit 3")

    with pytest.raises(ComponentNotReady) as told:
        stack.up(home, file, announce=print)

    assert "s3 ended while it was starting" in str(told.value)
    assert f"{home.log('s3')}:\nno such disk" in str(told.value)
    info = stack.load_stack(home)
    assert info is not None
    assert info.alive()["ray"]
    stack.down(home, announce=print)
    assert find_marked(f"{home.path.resolve()}|") == []
    assert stack.load_stack(home).processes == {}


@pytest.mark.real
def test_a_program_that_is_not_installed_is_named(home: Home, file: Path, programs: Path) -> None:
    (programs / "mlflow").unlink()

    with pytest.raises(ComponentNotReady, match=r"bin/mlflow cannot be started.*mlflow.log"):
        stack.up(home, file, announce=print)

    stack.down(home, announce=print)


@pytest.mark.real
def test_ports_stay_from_one_up_to_the_next_unless_somebody_has_taken_one(
    home: Home, file: Path, programs: Path
) -> None:
    write_program(programs / "weed", "exit 3")

    def ports_of_an_up() -> dict[str, int]:
        with pytest.raises(ComponentNotReady):
            stack.up(home, file, announce=print)
        stack.down(home, announce=print)
        info = stack.load_stack(home)
        assert info is not None
        return dict(info.ports)

    first = ports_of_an_up()
    assert ports_of_an_up() == first
    with socket.create_server(("127.0.0.1", first["chat.guard"])):
        moved = ports_of_an_up()
    assert {name for name in first if moved[name] != first[name]} == {"chat.guard"}


@pytest.mark.real
def test_the_orphans_of_a_stack_that_was_killed_do_not_cost_it_its_ports(
    home: Home, file: Path, programs: Path
) -> None:
    listen = (
        "import os, socket, sys, time; "
        "s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); "
        "os.close(1); time.sleep(600)"
    )
    write_program(
        programs / "mlflow",
        f'port="${{3#--port=}}"; "{parts.sys.executable}" -c "{listen}" "$port" & exit 0',
    )
    write_program(programs / "weed", "sleep 2; exit 3")
    ports: list[int] = []

    for _ in range(2):
        with pytest.raises(ComponentNotReady):
            stack.up(home, file, announce=print)
        info = stack.load_stack(home)
        assert info is not None
        ports.append(info.ports["mlflow"])
        for name, record in info.processes.items():
            if name != "mlflow" and (process := record.find()) is not None:
                process.kill()
                process.wait()

    stack.down(home, announce=print)
    assert ports[0] == ports[1]
