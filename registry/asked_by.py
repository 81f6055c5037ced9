"""Who asked for a version? A signed tag on it, which Shipway's MLflow app writes and the controller reads. Pure.

MLflow keeps no actor. `mlflow_app` knows the authenticated user of each request and leaves the name where the request
itself is, so that it outlives lost hints and restarts. Whoever may write tags could write that one too: it counts only
with a signature over model, version, request, user and time under the secret that MLflow's server and the controller
share. What remains possible is to put back an older tag of the same version and request: hence `Actor.at`.
"""

import hmac
import json
from dataclasses import dataclass
from datetime import datetime

from registry.hints import Deed, Touch, keyed_hash
from registry.promotion import AliasTrigger, StageTrigger, Trigger
from registry.release import APPROVAL_TAG, ASKED_BY_TAG, ModelVersion

_KINDS = {Deed.ALIAS_SET: "alias", Deed.STAGE_MOVED: "stage", Deed.TAG_SET: "tag"}
"""The deeds that are a request, or an answer to one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """An authenticated user, and when they asked."""

    user: str
    at: datetime


def asked_by(version: ModelVersion, trigger: Trigger, secret: str) -> Actor | None:
    """Who last made the request of `trigger` for `version`, or None where nobody can be named.

    The caller compares `at` with the time since which the request stands: what is older belongs to an earlier one.
    """
    match trigger:
        case AliasTrigger(alias=alias):
            return _actor(version, f"alias.{alias}", secret)
        case StageTrigger(stage=stage):
            return _actor(version, f"stage.{stage}", secret)


def approved_by(version: ModelVersion, secret: str) -> Actor | None:
    """Who last set the approval tag that `version` bears, or None where it bears none or nobody can be named."""
    if APPROVAL_TAG not in version.tags:
        return None
    return _actor(version, f"tag.{APPROVAL_TAG}", secret)


def name_tag(touch: Touch, secret: str) -> tuple[str, str | None] | None:
    """The tag, key and value, that says who did `touch`; None for a deed that asks for nothing.

    Without a user its value is None: the tag is to be removed, for the name of an earlier request no longer holds.
    """
    kind = _KINDS.get(touch.deed)
    if kind is None or not touch.version:
        return None
    request, at = f"{kind}.{touch.name}", touch.at.isoformat()
    key = f"{ASKED_BY_TAG}.{request}"
    if touch.user is None:
        return key, None
    value = {
        "user": touch.user,
        "at": at,
        "signature": _sign(secret, touch.model, touch.version, request, touch.user, at),
    }
    return key, json.dumps(value)


def _actor(version: ModelVersion, request: str, secret: str) -> Actor | None:
    try:
        value = json.loads(version.tags[f"{ASKED_BY_TAG}.{request}"])
        user, at, signature = value["user"], value["at"], str(value["signature"])
        expected = _sign(secret, version.model, version.version, request, user, at)
        is_ours = hmac.compare_digest(expected.encode(), signature.encode())
        return Actor(user=user, at=datetime.fromisoformat(at)) if is_ours and user else None
    except (KeyError, TypeError, ValueError, RecursionError):
        # Absent, or not of our making: anybody may write a tag.
        return None


def _sign(secret: str, *said: str | None) -> str:
    """Over a JSON list, so that no two lists of words look alike."""
    return keyed_hash(secret, b"shipway: asked by " + json.dumps(said).encode())
