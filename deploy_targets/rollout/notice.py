"""What people are told of a look at an endpoint, in the words of a chat. Pure.

One text for each look. It is written for Slack's `text`, which others read as well: `<`, `>` and `&` of reasons are
escaped, so that nobody's words become a link or call a whole channel.
"""

from collections.abc import Collection, Mapping
from html import escape
from typing import Any
from urllib.parse import quote

from deploy_targets.endpoint import Endpoint
from deploy_targets.rollout.audit import Changes
from deploy_targets.rollout.gap import step_of
from deploy_targets.rollout.state import EndpointState, Phase, RolloutState
from registry.events import Event
from registry.release import Release

_MAX_REASON = 1_000
"""Characters; more than a chat shows without a click."""

_ENDED = {
    Event.ROLLOUT_PROMOTED: "has passed",
    Event.ROLLOUT_ROLLED_BACK: "was rolled back",
    Event.ROLLOUT_WITHDRAWN: "was withdrawn",
    Event.ROLLOUT_SUPERSEDED: "gave way to a newer request",
}
_UNDER_WAY = {
    Event.ROLLOUT_STARTED: "is being rolled out",
    Event.ROLLOUT_WAITS: "waits",
    Event.ROLLOUT_GOES_ON: "goes on",
    Event.ROLLOUT_SET_BACK: "was set back",
    Event.ROLLOUT_STEP_ADVANCED: "goes on",
}
_OTHER = {
    Event.PROMOTION_REFUSED: "was refused",
    Event.OVERRIDE_APPLIED: "an operator's word was carried out",
    Event.WEIGHTS_DISTURBED: "somebody else set the weights",
}
TELLABLE = (*_UNDER_WAY, *_ENDED, *_OTHER)
"""The events that can be told."""


def compose_notice(  # noqa: PLR0913 - what a text tells of
    endpoint: Endpoint,
    before: EndpointState,
    after: EndpointState,
    *,
    happened: Changes,
    wanted: Collection[Event],
    pages: Mapping[str, str],
    mlflow_url: str,
) -> str:
    """The text about what `happened` between two states; empty where nothing of it is wanted.

    `pages` leads from a rollout's id to its run in the MLflow UI, where that is known; the version's own page stands in.
    Without `mlflow_url` no link is given.
    """
    told: list[str] = []
    page = ""
    for event, fields in happened:
        if event not in wanted or (event is Event.ROLLOUT_WAITS and _waited(before)):
            continue
        rollout = _rollout_of(after, fields)
        version = fields.get("version") if rollout is None else rollout.challenger.version
        told.append(_sentence(endpoint, event, rollout, version))
        reason = str(fields.get("reason") or fields.get("verdict") or "")
        if reason:
            told.append(_escaped(reason))
        run = "" if rollout is None else pages.get(rollout.id, "")
        page = run or _page_of(endpoint, version) or page
    if not told:
        return ""
    headline = f"{endpoint.name} ({endpoint.model}): {told[0]}, {_serves(after.serving)}"
    link = [f"{mlflow_url.rstrip('/')}/{page}"] if mlflow_url and page else []
    return "\n".join([headline, *told[1:], *link])


def _waited(before: EndpointState) -> bool:
    """Another reason for a wait that was told already is no news: some reasons change with every look."""
    return before.rollout is not None and bool(before.rollout.waiting)


def _rollout_of(after: EndpointState, fields: Mapping[str, Any]) -> RolloutState | None:
    known = [ended.rollout for ended in after.unreported]
    if after.rollout is not None:
        known.append(after.rollout)
    return next((one for one in known if one.id == fields.get("rollout")), None)


def _sentence(
    endpoint: Endpoint, event: Event, rollout: RolloutState | None, version: str | None
) -> str:
    if event in _OTHER:
        subject = "" if version is None else f"v{version} "
        return subject + _OTHER[event]
    verb = _ENDED.get(event) or _UNDER_WAY[event]
    if rollout is None:
        return verb
    asked = f", asked for by {_escaped(rollout.asked_by)}" if rollout.asked_by else ""
    if event is Event.ROLLOUT_STARTED:
        return f"v{version} {verb}{asked}"
    return f"v{version} {verb}{_place(endpoint, rollout) if event in _UNDER_WAY else ''}"


def _place(endpoint: Endpoint, rollout: RolloutState) -> str:
    match rollout.phase:
        case Phase.WARMING:
            return " at weight 0"
        case Phase.STEPPING:
            return f" at {step_of(endpoint, rollout).weight} %"
        case Phase.COMPLETING:
            return " to all requests"


def _serves(release: Release | None) -> str:
    return "nothing serves" if release is None else f"v{release.version} serves"


def _page_of(endpoint: Endpoint, version: str | None) -> str:
    return (
        "" if version is None else f"#/models/{quote(endpoint.model, safe='')}/versions/{version}"
    )


def _escaped(words: str) -> str:
    return escape(words[:_MAX_REASON], quote=False)
