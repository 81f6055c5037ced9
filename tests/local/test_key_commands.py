"""`shipway keys`: a key is told once, works at once, and is gone at once."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from deploy_targets.cli import app
from deploy_targets.guard.access_control import parse_keys
from deploy_targets.guard.errors import KeyRefused
from deploy_targets.guard_policy import Limits
from registry.errors import BadInput, NotFound


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def keys(*words: str, file: Path) -> str:
    done = CliRunner().invoke(
        app,
        ["keys", words[0], "chat", *words[1:], "--keys-file", str(file)],
        catch_exceptions=False,
    )
    assert done.exit_code == 0
    return done.output.strip()


def test_a_new_key_is_told_once_and_let_in_by_its_hash(file: Path) -> None:
    key = keys("create", "anna", "--requests-per-minute", "5", "--operator", file=file)
    assert len(key) > 43
    assert key not in file.read_text()
    assert file.stat().st_mode & 0o077 == 0
    caller = parse_keys(file.read_text()).admit(f"Bearer {key}", endpoint="chat")
    assert (caller.name, caller.may_pin) == ("anna", True)
    assert caller.limits == Limits(requests_per_minute=5)


def test_two_keys_are_never_alike(file: Path) -> None:
    assert keys("create", "anna", file=file) != keys("create", "ben", file=file)


def test_a_revoked_key_is_let_in_no_more_and_the_others_are(file: Path) -> None:
    anna, ben = keys("create", "anna", file=file), keys("create", "ben", file=file)
    keys("revoke", "anna", file=file)
    ring = parse_keys(file.read_text())
    assert ring.admit(f"Bearer {ben}", endpoint="chat").name == "ben"
    with pytest.raises(KeyRefused):
        ring.admit(f"Bearer {anna}", endpoint="chat")


def test_the_list_shows_no_hash(file: Path) -> None:
    keys("create", "anna", "--opens", "chat", "--micros-per-day", "9", file=file)
    told = keys("list", file=file)
    assert "anna" in told
    assert "micros_per_day 9" in told
    (entry,) = json.loads(keys("list", "--json", file=file))["keys"]
    assert entry["endpoints"] == ["chat"]
    assert json.loads(file.read_text())["keys"][0]["sha256"] not in told + json.dumps(entry)


@pytest.mark.parametrize("words", [("create", "anna"), ("create", "no name"), ("revoke", "nobody")])
def test_what_cannot_be_done_changes_nothing(file: Path, words: tuple[str, ...]) -> None:
    keys("create", "anna", file=file)
    before = file.read_text()
    with pytest.raises(BadInput):
        keys(*words, file=file)
    assert file.read_text() == before


def test_a_file_that_is_none_is_refused(file: Path) -> None:
    file.write_text("{")
    with pytest.raises(BadInput, match="cannot be read as a file of keys"):
        keys("create", "anna", file=file)


def test_without_a_file_it_is_the_local_stacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHIPWAY_HOME", str(tmp_path))
    with pytest.raises(NotFound, match="has no endpoint 'chat'"):
        CliRunner().invoke(app, ["keys", "list", "chat"], catch_exceptions=False)


def test_the_keys_file_of_others_is_read_as_before() -> None:
    old: dict[str, Any] = {"keys": [{"name": "team-a", "sha256": "0" * 64}]}
    (entry,) = parse_keys(json.dumps(old)).entries
    assert (entry[1].name, entry[1].may_pin, entry[1].endpoints) == ("team-a", False, None)
