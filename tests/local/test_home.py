"""The state folder is its owner's alone, and its secrets are made once."""

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy_targets.local.home import Home, HomeSettings, Secrets, write_json, write_private
from registry.errors import TargetUnavailable
from registry.signing import SigningKey, TrustedKeys


@pytest.fixture(autouse=True)
def _open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_nobody_else_may_look_into_the_home_or_its_secrets(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.secrets()
    assert mode(home.path) == 0o700
    assert mode(home.path / "secrets.json") == 0o600


def test_secrets_are_made_once_and_each_is_another() -> None:
    one, other = Secrets.make().model_dump(), Secrets.make().model_dump()
    values = [*one.values(), *other.values()]
    assert len(set(values)) == len(values)
    assert min(map(len, values)) >= 20


def test_secrets_stay(tmp_path: Path) -> None:
    assert Home(tmp_path / "home").secrets() == Home(tmp_path / "home").secrets()


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    secrets = Secrets.make()
    assert not [value for value in secrets.model_dump().values() if value in repr(secrets)]


def test_the_signing_key_is_made_once_for_its_owner_alone_and_its_public_half_beside_it(
    tmp_path: Path,
) -> None:
    files = Home(tmp_path / "home").signing()
    key = SigningKey.read(files.key_file)
    assert mode(files.key_file) == 0o600
    assert TrustedKeys.read(files.trusted).ids == (key.id,)
    (files.trusted / "stack.pem").unlink()
    again = Home(tmp_path / "home").signing()
    assert SigningKey.read(again.key_file).id == key.id
    assert TrustedKeys.read(again.trusted).ids == (key.id,)
    again.key_file.unlink()
    renewed = Home(tmp_path / "home").signing()
    assert TrustedKeys.read(renewed.trusted).ids == (SigningKey.read(renewed.key_file).id,)


def test_a_private_file_is_private_even_where_an_open_one_was(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text("old")
    path.chmod(0o644)
    (tmp_path / "keys.json.partial").write_text("left by a crash")

    write_private(path, "new")

    assert (path.read_text(), mode(path)) == ("new", 0o600)
    assert list(tmp_path.iterdir()) == [path]


def test_a_document_replaces_the_last_one_whole(tmp_path: Path) -> None:
    path = tmp_path / "routes.json"
    for document in ({"a": 1}, {"b": [2]}):
        write_json(path, document)
        assert json.loads(path.read_text()) == document
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.promise("the last one stays, and the next look tries again", about="disks")
def test_a_document_that_finds_no_room_leaves_the_last_one_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "routes.json"
    write_json(path, {"v6": 100})

    def write_half(self: Path, text: str) -> int:
        self.write_bytes(text[:3].encode())
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", write_half)
    with pytest.raises(TargetUnavailable, match="No space left on device"):
        write_json(path, {"v7": 100})
    assert json.loads(path.read_text()) == {"v6": 100}


def test_rays_folder_leaves_room_for_its_sockets_however_deep_the_home_lies() -> None:
    deep = Home(Path("/" + "d" * 200))
    assert (
        len(f"{deep.ray_temp}/session_2026-11-25_03-15-54_123456_1234567/sockets/plasma_store")
        < 107
    )
    assert deep.ray_temp != Home(Path("/" + "e" * 200)).ray_temp


def test_the_home_is_the_one_that_the_environment_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert HomeSettings().home == Path(".shipway")
    monkeypatch.setenv("SHIPWAY_HOME", str(tmp_path))
    assert HomeSettings().home == tmp_path
