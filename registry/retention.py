"""What may be deleted? Versions that no alias, rollout or retention rule needs, and bytes that no version needs. Pure.

When in doubt something is kept: what is young, what has a stage, what a state of Shipway names, and bytes that were
written lately, since a pipeline may be about to register them.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from registry.release import SOURCE_TAG, ModelVersion


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How much is kept beyond what is needed."""

    keep_last: int = 5
    """The newest versions of each model."""
    keep_for: timedelta = timedelta(days=30)
    """Whatever was changed or written within this time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbage:
    """What nothing needs: versions of registered models, and artifact folders in S3."""

    versions: tuple[ModelVersion, ...]
    sources: tuple[str, ...]


def plan_collection(
    versions: Collection[ModelVersion],
    *,
    aliased: Collection[tuple[str, str]],
    in_use: Collection[tuple[str, str]],
    stored: Mapping[str, datetime],
    rule: Retention,
    now: datetime,
) -> Garbage:
    """The garbage among all `versions` of all models.

    `aliased` and `in_use` (by an endpoint's state) are pairs of model and version; `stored` is each artifact folder in
    S3 with the time of its last write. A version that Shipway did not make (its source is elsewhere) is never garbage.
    """
    young = now - rule.keep_for
    ours = [version for version in versions if version.source in stored]
    newest: set[tuple[str, str]] = set()
    for model in {version.model for version in ours}:
        of_model = [version for version in ours if version.model == model]
        of_model.sort(key=lambda version: int(version.version), reverse=True)
        newest |= {(model, version.version) for version in of_model[: rule.keep_last]}
    needed = {*aliased, *in_use, *newest}
    doomed = {
        (version.model, version.version)
        for version in ours
        if (version.model, version.version) not in needed
        and version.stage in {"None", "Archived"}
        and datetime.fromtimestamp(version.updated_ms / 1000, tz=now.tzinfo) < young
    }
    doomed -= _bases(versions, doomed)
    kept = [version for version in versions if (version.model, version.version) not in doomed]
    # "Promote model" copies a version into another model, and what a copy is can be read only through its origin.
    copied = {(version.source, version.model) for version in kept}
    garbage = tuple(
        version
        for version in ours
        if (version.model, version.version) in doomed
        and not any(source == version.source and model != version.model for source, model in copied)
    )
    gone = {(version.model, version.version) for version in garbage}
    kept = [version for version in versions if (version.model, version.version) not in gone]
    # A retraining begins at the unquantized base, so that stays as long as what was made of it.
    needed_sources = {version.source for version in kept}
    needed_sources |= {version.tags.get(SOURCE_TAG, "") for version in kept}
    sources = (
        source
        for source, written in stored.items()
        if source not in needed_sources and written < young
    )
    return Garbage(versions=garbage, sources=tuple(sorted(sources)))


def _bases(
    versions: Collection[ModelVersion], doomed: Collection[tuple[str, str]]
) -> set[tuple[str, str]]:
    """The versions that those which are not `doomed` were made of, and what these were made of in turn."""
    made_of = {
        (version.model, version.version): _named(version.tags.get(SOURCE_TAG, ""))
        for version in versions
    }
    found: set[tuple[str, str]] = set()
    for pair in made_of.keys() - set(doomed):
        base = made_of[pair]
        while base is not None and base not in found:
            found.add(base)
            base = made_of.get(base)
    return found


def _named(source: str) -> tuple[str, str] | None:
    """Model and version of `models:/name/version`."""
    model, _, version = source.removeprefix("models:/").rpartition("/")
    return (model, version) if source.startswith("models:/") and model else None
