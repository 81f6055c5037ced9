"""The one folder in which a local stack keeps everything: files by name, and the secrets and keys made on first start."""

import base64
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic_settings import BaseSettings, SettingsConfigDict

from registry.errors import ComponentNotReady, TargetUnavailable


class HomeSettings(BaseSettings):
    """Environment variables with the prefix SHIPWAY_."""

    model_config = SettingsConfigDict(env_prefix="SHIPWAY_", frozen=True, extra="ignore")

    home: Path = Path(".shipway")
    """The state folder."""


class Secrets(BaseModel):
    """Made once, kept in `secrets.json` for its owner alone, never logged."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    s3_access_key: str
    s3_secret_key: str
    filer_key: str
    """Signs SeaweedFS' own tokens; without it the filer hands every object to anyone."""
    ray_token: str
    webhook_secret: str
    webhook_encryption_key: str
    """MLflow keeps webhook secrets encrypted under it (Fernet)."""
    mlflow_flask_key: str
    api_key: str
    """What a client of the guard shows; the guard itself keeps only its hash."""

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """Nothing: a value that is printed by mistake must not end in a log."""
        return ()

    @classmethod
    def make(cls) -> "Secrets":
        """New ones, of 256 random bits each."""
        return cls(
            s3_access_key=secrets.token_hex(10),
            s3_secret_key=secrets.token_hex(32),
            filer_key=secrets.token_hex(32),
            ray_token=secrets.token_hex(32),
            webhook_secret=secrets.token_hex(32),
            webhook_encryption_key=base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            mlflow_flask_key=secrets.token_hex(32),
            api_key=f"sk-shipway-{secrets.token_urlsafe(32)}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningFiles:
    """Where the local stack's signing keys lie."""

    key_file: Path
    """The private key, for its owner alone."""
    trusted: Path
    """The folder of public keys; more may be laid into it."""


@dataclass(frozen=True, slots=True)
class Home:
    """Paths below the state folder."""

    path: Path

    @property
    def stack_file(self) -> Path:
        """Pids, ports and addresses of what runs."""
        return self.path / "stack.json"

    @property
    def state_file(self) -> Path:
        """The states of all rollouts (SQLite)."""
        return self.path / "state.db"

    @property
    def models(self) -> Path:
        """Verified copies of artifacts, by digest."""
        return self.path / "models"

    @property
    def data(self) -> Path:
        """The demo's texts and tasks."""
        return self.path / "data"

    @property
    def ray_temp(self) -> Path:
        """Ray's session files. Outside the home, since a Unix socket's path may have 107 characters only."""
        digest = hashlib.sha256(str(self.path.resolve()).encode()).hexdigest()[:12]
        return Path("/tmp") / f"shipway-{digest}" / "ray"  # noqa: S108 - named by a hash of the home; see below

    def make_ray_temp(self) -> Path:
        """That folder, within one that only its owner may enter: Ray opens its own to everybody.

        Raises:
            ComponentNotReady: somebody else has made a folder of that name.
        """
        private = self.ray_temp.parent
        private.mkdir(mode=0o700, exist_ok=True)
        found = private.lstat()
        if not stat.S_ISDIR(found.st_mode) or (found.st_uid, found.st_mode & 0o77) != (
            os.getuid(),
            0,
        ):
            message = f"{private} does not belong to this user alone. Remove it, then try again."
            raise ComponentNotReady(message)
        self.ray_temp.mkdir(exist_ok=True)
        return self.ray_temp

    def remove_ray_temp(self) -> None:
        """Removes Ray's session files."""
        shutil.rmtree(self.ray_temp.parent, ignore_errors=True)

    def mark(self, part: str = "") -> str:
        """What the processes of a part bear; of all parts of this home, where none is named."""
        return f"{self.path.resolve()}|{part}{'|' if part else ''}"

    def folder(self, name: str) -> Path:
        """The folder `name`, made if it is not there. The whole home is its owner's alone: models and logs lie in it."""
        if not self.path.exists():
            self.path.mkdir(mode=0o700, parents=True)
        folder = self.path / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def log(self, part: str) -> Path:
        """Where a part's output goes."""
        return self.folder("logs") / f"{part}.log"

    def endpoint(self, name: str) -> Path:
        """Envoy's files and the guard's keys of one endpoint."""
        return self.folder(f"endpoints/{name}")

    def signing(self) -> "SigningFiles":
        """The key pair that signs versions here, made on the first call."""
        from registry.signing import SigningKey, make_private_key

        folder = self.folder("signing")
        files = SigningFiles(
            key_file=folder / "private.pem", trusted=self.folder("signing/trusted")
        )
        if not files.key_file.exists():
            write_private(files.key_file, make_private_key())
            # What an earlier private key left there would trust nobody.
            (files.trusted / "stack.pem").unlink(missing_ok=True)
        if not (files.trusted / "stack.pem").exists():
            write_private(files.trusted / "stack.pem", SigningKey.read(files.key_file).public)
        return files

    def secrets(self) -> Secrets:
        """The secrets, made on the first call."""
        file = self.folder("") / "secrets.json"
        if not file.exists():
            write_private(file, Secrets.make().model_dump_json(indent=1))
        return Secrets.model_validate_json(file.read_text())


def write_private(path: Path, text: str) -> None:
    """Writes a file for its owner alone, at once and whole."""
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def write_json(path: Path, document: object) -> None:
    """Writes a JSON document at once and whole: whoever watches the file never reads half of it.

    Raises:
        TargetUnavailable: it cannot be written, as on a full disk; the last one stays.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(json.dumps(document, indent=1))
        partial.replace(path)
    except OSError as error:
        message = f"{path} cannot be written ({error.strerror}). Is there room on its disk?"
        raise TargetUnavailable(message) from error
