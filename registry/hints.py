"""What somebody has just done in MLflow's registry, as Shipway's MLflow app tells it, and how hints are signed. Pure.

A hint wakes the controller; the registry is re-read for the facts. Two senders sign with one secret: MLflow's own webhooks
by MLflow's scheme, and `mlflow_app` by the same scheme under a key of its own (`plugin_secret`), so that neither can pass
for the other: a name is believed from `mlflow_app` alone.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from registry.release import APPROVAL_TAG

HINT_PATH = "/hooks/shipway"
"""Where the controller takes hints of `mlflow_app`."""


class Deed(StrEnum):
    """What was done."""

    ALIAS_SET = "alias_set"
    ALIAS_DELETED = "alias_deleted"
    STAGE_MOVED = "stage_moved"
    TAG_SET = "tag_set"
    VERSION_CREATED = "version_created"
    VERSION_DELETED = "version_deleted"
    MODEL_RENAMED = "model_renamed"
    MODEL_DELETED = "model_deleted"


_DEEDS = {
    ("POST", "registered-models/alias"): Deed.ALIAS_SET,
    ("DELETE", "registered-models/alias"): Deed.ALIAS_DELETED,
    ("POST", "model-versions/transition-stage"): Deed.STAGE_MOVED,
    ("POST", "model-versions/set-tag"): Deed.TAG_SET,
    ("POST", "model-versions/create"): Deed.VERSION_CREATED,
    ("DELETE", "model-versions/delete"): Deed.VERSION_DELETED,
    ("POST", "registered-models/rename"): Deed.MODEL_RENAMED,
    ("DELETE", "registered-models/delete"): Deed.MODEL_DELETED,
}
"""MLflow's REST API, 3.17: the method, and what stands after `/api/2.0/mlflow/` or `/ajax-api/2.0/mlflow/`."""

_NAMED_BY = {
    Deed.ALIAS_SET: "alias",
    Deed.ALIAS_DELETED: "alias",
    Deed.STAGE_MOVED: "current_stage",
    Deed.TAG_SET: "key",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Touch:
    """One deed: who did what to which model."""

    deed: Deed
    model: str
    version: str = ""
    """Empty where the deed names none: an alias deleted, a model renamed or deleted."""
    name: str = ""
    """The alias, the stage or the tag; empty for other deeds."""
    user: str | None
    """As MLflow authenticated them; None where it does not ask who calls."""
    at: datetime

    def to_json(self) -> str:
        """The hint's body."""
        return json.dumps(
            {
                "deed": self.deed,
                "model": self.model,
                "version": self.version,
                "name": self.name,
                "user": self.user,
                "at": self.at.isoformat(),
            }
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The touch that `to_json` wrote.

        Raises:
            ValueError: it is none.
        """
        try:
            document = json.loads(text)
            user = document["user"]
            return cls(
                deed=Deed(document["deed"]),
                model=str(document["model"]),
                version=str(document["version"]),
                name=str(document["name"]),
                user=None if user is None else str(user),
                at=datetime.fromisoformat(document["at"]),
            )
        except (KeyError, TypeError, RecursionError) as error:
            message = f"not a hint of Shipway's MLflow app: {error!r}"
            raise ValueError(message) from error


def hinted_model(body: bytes) -> str | None:
    """The model that a hint of either sender says was touched, or None. Good for the order of looking, and for nothing else."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    match document:
        case {"data": {"name": str(model)}} | {"model": str(model)}:
            return model
        case _:
            return None


def read_deed(method: str, path: str) -> Deed | None:
    """What a request to MLflow does that matters to Shipway, or None. A static prefix before the API makes no difference."""
    _, _, call = path.partition("api/2.0/mlflow/")
    return _DEEDS.get((method, call))


def read_touch(
    deed: Deed,
    asked: Mapping[str, Any],
    answered: Mapping[str, Any],
    *,
    user: str | None,
    at: datetime,
) -> Touch | None:
    """The touch that a request and MLflow's answer to it amount to, or None for a tag that means nothing to us.

    A stage is read from the answer: MLflow takes `production` for `Production`.
    """
    made = answered.get("model_version", {})
    words = {**asked, **made} if deed in {Deed.VERSION_CREATED, Deed.STAGE_MOVED} else asked
    version = str(words.get("version", ""))
    touch = Touch(
        deed=deed,
        model=str(asked.get("name", "")),
        # As MLflow itself writes it, who takes "07" as well.
        version=str(int(version)) if version.isdecimal() else version,
        name=str(words.get(_NAMED_BY.get(deed, ""), "")),
        user=user,
        at=at,
    )
    return None if deed is Deed.TAG_SET and touch.name != APPROVAL_TAG else touch


def sign_hint(secret: str, *, delivery: str, stamp: str, body: bytes) -> str:
    """The signature of a delivery by MLflow's scheme `v1`; `stamp` is in whole seconds since the epoch."""
    return "v1," + keyed_hash(secret, f"{delivery}.{stamp}.".encode() + body)


def plugin_secret(secret: str) -> str:
    """The key of `mlflow_app`'s hints, which signs nothing else."""
    return keyed_hash(secret, b"shipway: hints of the MLflow app")


def keyed_hash(secret: str, content: bytes) -> str:
    """HMAC-SHA256 in base64."""
    return base64.b64encode(hmac.new(secret.encode(), content, hashlib.sha256).digest()).decode()
