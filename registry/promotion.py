"""May this version be deployed, what is asked for, and what must the registry say next? Pure decisions.

`check_gate` turns a model version into a `Release` or a refusal. `read_request` reads what the aliases (or a legacy
stage) ask for. `plan_registry` lists the writes that close the gap between what the registry says and what serves.
All of it works from the gap, never from an event, so that it may run any number of times.

Three rules. `champion` always names what serves: a hand-moved champion is put back, and what it named becomes the
request. A version that was turned down is not asked for again until its request was seen withdrawn. Where a stage
is the request, on success the version that served is archived, on rollback the new one goes back where it came from.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import assert_never

from registry.errors import IntegrityError
from registry.gate import Champion, Gate, check_again
from registry.release import (
    DIGEST_TAG,
    GATE_TAG,
    REASON_TAG,
    SCORECARD_TAG,
    STATUS_TAG,
    Digest,
    ModelVersion,
    Refused,
    Release,
    parse_digest,
)
from registry.scorecard import Scorecard

CHAMPION = "champion"
TURNED_DOWN = "turned_down"
PROMOTED = "promoted"


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasTrigger:
    """Setting this alias is the request."""

    alias: str = "challenger"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTrigger:
    """Moving a version to this legacy stage is the request."""

    stage: str = "Production"


Trigger = AliasTrigger | StageTrigger


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryFacts:
    """One read of a registered model: all its aliases, and every version that an alias or a stage names."""

    model: str
    aliases: Mapping[str, str] = field(default_factory=dict[str, str])
    versions: Mapping[str, ModelVersion] = field(default_factory=dict[str, ModelVersion])
    is_gone: bool = False
    """There is no such registered model, at present."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What Shipway itself knows when it reads the registry."""

    serving: str | None
    """The version that has all the traffic."""
    settled_champion: str | None = None
    """The last version that served and was seen under the alias `champion`; it lags behind `serving` until a
    promotion's own alias move has been seen, so that the old name is not taken for a hand's work."""
    serving_reason: str = ""
    in_rollout: str | None = None
    rejected: Mapping[str, str] = field(default_factory=dict[str, str])
    """Version to reason, for those turned down whose request still stands."""
    stage_before: Mapping[str, str] = field(default_factory=dict[str, str])
    """The last stage seen of versions outside the trigger's stage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveAlias:
    """Point `alias` at `version`, or delete it."""

    alias: str
    version: str | None
    was: str | None = None
    """What the alias named when this was decided, "" for nothing: where it names another version by now, somebody has
    just clicked, and nothing is written. None writes in any case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransitionStage:
    """Move `version` to the legacy `stage`."""

    version: str
    stage: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TagVersion:
    """Write `tags` on `version`."""

    version: str
    tags: Mapping[str, str]


RegistryChange = MoveAlias | TransitionStage | TagVersion


def check_gate(version: ModelVersion, *, serving: ModelVersion | None = None) -> Release | Refused:
    """The release that `version` is, or every reason why it may not be deployed.

    Its gate is decided again from the scores and margins that are kept on it, and against the version that is `serving`,
    where that is given: a rollback, which leads to what is older, does not give it.
    """
    reasons: list[str] = []
    digest = None
    name = f"{version.model} v{version.version}"
    try:
        digest = parse_digest(version.tags[DIGEST_TAG])
    except KeyError:
        reasons.append(
            f"{name} has no digest (tag {DIGEST_TAG}), so nobody can say which bytes were evaluated. "
            "Register it with `mlflow run . -e release`."
        )
    except IntegrityError as error:
        reasons.append(str(error))
    gate = version.tags.get(GATE_TAG)
    if gate is None:
        reasons.append(
            f"{name} has no gate result (tag {GATE_TAG}), so it cannot be promoted. "
            "Evaluate and register it with `mlflow run . -e release`."
        )
    else:
        reasons.extend(_gate_objections(version, gate, serving))
    if not version.source.startswith("s3://"):
        reasons.append(
            f"{name} has source {version.source!r}; a release is served from an s3:// folder."
        )
    if reasons or digest is None:
        return Refused(version=version.version, reasons=tuple(reasons))
    return Release(
        model=version.model, version=version.version, source=version.source, digest=digest
    )


def _gate_objections(
    version: ModelVersion, tag: str, serving: ModelVersion | None
) -> tuple[str, ...]:
    name = f"{version.model} v{version.version}"
    try:
        document = json.loads(tag)
        passed, reasons = document["passed"], [str(reason) for reason in document["reasons"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        return (
            f"The gate result of {name} cannot be read ({tag[:80]!r}). Run the release pipeline again.",
        )
    if passed is not True:
        return (f"{name} did not pass its gate: {'; '.join(reasons) or 'no reason was recorded'}.",)
    try:
        gate = Gate.from_document(document)
        card = scorecard_of(version)
    except IntegrityError as error:
        reason = (
            f"{name} says that it passed its gate, and that cannot be checked: {error} "
            "Evaluate and register it again with `mlflow run . -e release`."
        )
        return (reason,)
    objections = check_again(card, gate, serving=None if serving is None else champion_of(serving))
    return tuple(f"{name} may not be promoted: {objection}." for objection in objections)


def champion_of(serving: ModelVersion) -> Champion:
    """The version that serves, as far as its tags tell: scores that cannot be read are those of no evaluation."""
    try:
        scorecard = scorecard_of(serving)
    except IntegrityError:
        scorecard = Scorecard(evaluation="")
    digest = Digest(serving.tags.get(DIGEST_TAG, ""))
    return Champion(version=serving.version, digest=digest, scorecard=scorecard)


def scorecard_of(version: ModelVersion) -> Scorecard:
    """The scores that `version` was registered with.

    Raises:
        IntegrityError: it has none, or none that can be read.
    """
    try:
        return Scorecard.from_document(json.loads(version.tags[SCORECARD_TAG]))
    except (KeyError, ValueError, RecursionError) as error:
        message = f"v{version.version} has no scores that can be read (tag {SCORECARD_TAG})."
        raise IntegrityError(message) from error


def read_request(facts: RegistryFacts, trigger: Trigger, standing: Standing) -> str | None:
    """The version that is asked for and not served yet, or None.

    A champion moved by hand counts as a request and wins over the trigger: it is the one that has just been touched.
    """
    moved = moved_champion(facts, standing)
    if moved is not None and moved not in standing.rejected:
        return moved
    match trigger:
        case AliasTrigger():
            asked = facts.aliases.get(trigger.alias)
            answered = {None, standing.serving} | standing.rejected.keys()
            return None if asked in answered else asked
        case StageTrigger():
            waiting = (
                v for v in facts.versions.values() if _waits_in_stage(v, facts, trigger, standing)
            )
            newest = max(waiting, key=lambda v: (v.updated_ms, int(v.version)), default=None)
            return None if newest is None else newest.version
        case _:
            assert_never(trigger)


def moved_champion(facts: RegistryFacts, standing: Standing) -> str | None:
    """The version that a hand pointed `champion` at, or None where the alias says what Shipway expects."""
    champion = facts.aliases.get(CHAMPION)
    return None if champion in {None, standing.serving, standing.settled_champion} else champion


def _waits_in_stage(
    version: ModelVersion, facts: RegistryFacts, trigger: StageTrigger, standing: Standing
) -> bool:
    """Whether `version` asks by its stage: put there after the version that serves, if that is there at all."""
    if version.stage != trigger.stage or version.version in {standing.serving, *standing.rejected}:
        return False
    serving = facts.versions.get(standing.serving or "")
    if serving is None or serving.stage != trigger.stage:
        return True
    return version.updated_ms > serving.updated_ms


def withdrawn(
    facts: RegistryFacts, trigger: Trigger, rejected: Mapping[str, str]
) -> frozenset[str]:
    """Those of the `rejected` versions whose request no longer stands, so that they may be asked for again."""
    match trigger:
        case AliasTrigger():
            standing = {facts.aliases.get(trigger.alias, "")}
        case StageTrigger():
            standing = {
                version.version
                for version in facts.versions.values()
                if version.stage == trigger.stage
            }
        case _:
            assert_never(trigger)
    standing.add(facts.aliases.get(CHAMPION, ""))
    return frozenset(rejected) - standing


def with_changes(facts: RegistryFacts, changes: Iterable[RegistryChange]) -> RegistryFacts:
    """What the registry says once `changes` have been made."""
    aliases, versions = dict(facts.aliases), dict(facts.versions)
    for change in changes:
        match change:
            case MoveAlias(alias=alias, version=version):
                aliases.pop(alias, None)
                if version is not None:
                    aliases[alias] = version
            case TransitionStage(version=version, stage=stage):
                if version in versions:
                    versions[version] = replace(versions[version], stage=stage)
            case TagVersion():
                pass
            case _:
                assert_never(change)
    return replace(facts, aliases=aliases, versions=versions)


def plan_registry(
    facts: RegistryFacts, trigger: Trigger, standing: Standing
) -> tuple[RegistryChange, ...]:
    """The writes that make the registry say what is. Empty when it already does.

    `standing` is what holds after this tick's decision: the version that serves, the one in rollout, the rejected.
    """
    # Before the request is cleared: a version that nothing names is not among the facts, so were the answer lost
    # between the two, it would never be written.
    turned_down = {
        version: (TURNED_DOWN, reason)
        for version, reason in standing.rejected.items()
        if version != standing.serving
    }
    changes: list[RegistryChange] = [*_answers(facts, turned_down)]
    match trigger:
        case AliasTrigger():
            changes += _alias_changes(facts, trigger, standing)
        case StageTrigger():
            changes += _stage_changes(facts, trigger, standing)
        case _:
            assert_never(trigger)
    # After the request: were a moved champion put back first and the rest lost, so would be what was asked for.
    if facts.aliases.get(CHAMPION) != standing.serving:
        changes.append(_move(facts, CHAMPION, standing.serving))
    if standing.serving is not None:
        changes += _answers(facts, {standing.serving: (PROMOTED, standing.serving_reason)})
    return tuple(changes)


def _answers(
    facts: RegistryFacts, answers: Mapping[str, tuple[str, str]]
) -> Iterator[RegistryChange]:
    """Status and reason, for those versions that do not bear them yet."""
    for version, (status, reason) in answers.items():
        # One call for each: the reason first, so that whoever sees the status finds it.
        tags = {REASON_TAG: reason, STATUS_TAG: status}
        known = facts.versions.get(version)
        if known is not None and not tags.items() <= known.tags.items():
            yield TagVersion(version=version, tags=tags)


def _alias_changes(
    facts: RegistryFacts, trigger: AliasTrigger, standing: Standing
) -> list[RegistryChange]:
    alias = facts.aliases.get(trigger.alias)
    moved = moved_champion(facts, standing)
    if moved is not None and moved not in standing.rejected:
        return [] if alias == moved else [_move(facts, trigger.alias, moved)]
    if alias is not None and (alias == standing.serving or alias in standing.rejected):
        return [_move(facts, trigger.alias, None)]
    return []


def _move(facts: RegistryFacts, alias: str, version: str | None) -> MoveAlias:
    return MoveAlias(alias=alias, version=version, was=facts.aliases.get(alias, ""))


def _stage_changes(
    facts: RegistryFacts, trigger: StageTrigger, standing: Standing
) -> list[RegistryChange]:
    changes: list[RegistryChange] = []
    for version in facts.versions.values():
        wanted = _wanted_stage(version, facts, trigger, standing)
        if wanted != version.stage:
            changes.append(TransitionStage(version=version.version, stage=wanted))
    return changes


def _wanted_stage(
    version: ModelVersion, facts: RegistryFacts, trigger: StageTrigger, standing: Standing
) -> str:
    """Where `version` belongs. What serves is left alone during a rollout: touching it would make it the newest."""
    if version.version not in standing.rejected and version.version == moved_champion(
        facts, standing
    ):
        return trigger.stage
    if version.version == standing.in_rollout:
        return version.stage
    if version.version == standing.serving:
        return version.stage if standing.in_rollout else trigger.stage
    if version.stage != trigger.stage or _waits_in_stage(version, facts, trigger, standing):
        return version.stage
    if version.version in standing.rejected:
        return standing.stage_before.get(version.version, "None")
    return "Archived"
