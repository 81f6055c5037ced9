"""Stand-ins for MLflow, a platform and its traffic, in memory. They obey the same contracts as the real ones."""

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime

from deploy_targets.manifest import Manifest
from deploy_targets.rollout.admission import Inspection
from deploy_targets.rollout.situation import SmokeResult
from deploy_targets.rollout.state import Counts, EndpointState, Phase, Scrape
from deploy_targets.routing.traffic import Traffic
from deploy_targets.target import Observed, Readiness, Revision
from registry.errors import (
    ArtifactStoreUnavailable,
    MetricsUnavailable,
    NotFound,
    RegistryUnavailable,
    TargetChanged,
    TargetUnavailable,
)
from registry.promotion import (
    CHAMPION,
    AliasTrigger,
    MoveAlias,
    RegistryChange,
    RegistryFacts,
    TagVersion,
    Trigger,
)
from registry.release import ModelVersion, Release
from tests.builders import a_version


class FakeRegistry:
    """A registered model with aliases, stages and tags."""

    def __init__(self, *versions: ModelVersion) -> None:
        self.aliases: dict[str, str] = {}
        self.versions = {version.version: version for version in versions}
        self.is_away = False
        self.writes: list[RegistryChange] = []
        self.moves = 0
        self._settled: ModelVersion | None = None

    def facts(self, model: str, trigger: Trigger, *, serving: str | None = None) -> RegistryFacts:
        """What serves, where `champion` alone names it, is told as it was when it was first seen there: the contract's worst."""
        self._answer()
        versions = dict(self.versions)
        names = [alias for alias, named in self.aliases.items() if named == serving]
        if isinstance(trigger, AliasTrigger) and names == [CHAMPION] and serving in versions:
            if self._settled is None or self._settled.version != serving:
                self._settled = versions[serving]
            versions[serving] = self._settled
        return RegistryFacts(model=model, aliases=dict(self.aliases), versions=versions)

    def write(self, model: str, change: RegistryChange) -> None:
        self._answer()
        self._settled = None
        self.writes.append(change)
        if isinstance(change, MoveAlias):
            if change.was not in {None, self.aliases.get(change.alias, "")}:
                return
            if change.version is None:
                self.aliases.pop(change.alias, None)
            else:
                self.aliases[change.alias] = change.version
            return
        if change.version not in self.versions:
            message = f"{model} has no version {change.version}"
            raise NotFound(message)
        version = self.versions[change.version]
        if isinstance(change, TagVersion):
            self.versions[change.version] = replace(version, tags={**version.tags, **change.tags})
        else:
            self.move_to_stage(change.version, change.stage)

    def move_to_stage(self, version: str, stage: str) -> None:
        self.moves += 1
        known = self.versions.get(version) or a_version(version)
        self.versions[version] = replace(known, stage=stage, updated_ms=self.moves)

    def _answer(self) -> None:
        if self.is_away:
            message = "MLflow is away"
            raise RegistryUnavailable(message)


class FakeTarget:
    """A platform on which a revision is ready at the second look, unless it is told to be broken."""

    def __init__(self) -> None:
        self.revisions: dict[str, Revision] = {}
        self.traffic = Traffic()
        self.never_ready: set[str] = set()
        self._failing: dict[str, str] = {}
        self.is_away = False
        self.shifts: list[Traffic] = []

    def render(self, release: Release) -> tuple[Manifest, ...]:
        return (Manifest(name=release.version, body={"version": release.version}),)

    def apply(self, release: Release) -> None:
        self._answer()
        failure = self._failing.get(release.version)
        self.revisions[release.version] = Revision(
            version=release.version,
            readiness=Readiness.FAILED if failure else Readiness.STARTING,
            reason=failure or "it is loading",
        )

    def observe(self) -> Observed:
        self._answer()
        observed = Observed(revisions=dict(self.revisions), traffic=self.traffic)
        for version, revision in self.revisions.items():
            if revision.readiness is Readiness.STARTING and version not in self.never_ready:
                self.revisions[version] = replace(revision, readiness=Readiness.READY, reason="")
        return observed

    def shift(self, traffic: Traffic) -> None:
        self._answer()
        if unknown := traffic.weights.keys() - self.revisions.keys():
            message = f"traffic to revisions that do not exist: {unknown}"
            raise TargetChanged(message)
        self.traffic = traffic
        self.shifts.append(traffic)

    def retire(self, version: str) -> None:
        self._answer()
        if self.traffic.percent(version):
            message = f"v{version} was retired under traffic"
            raise TargetChanged(message)
        self.revisions.pop(version, None)

    def fail(self, version: str, reason: str) -> None:
        """It will never come up."""
        self._failing[version] = reason

    def mend(self, version: str) -> None:
        """It will come up when it is applied again."""
        del self._failing[version]

    def crash(self, version: str) -> None:
        """Its replica dies and is started again."""
        old = self.revisions[version]
        self.revisions[version] = replace(
            old, readiness=Readiness.STARTING, reason="a replica died", restarts=old.restarts + 1
        )

    def _answer(self) -> None:
        if self.is_away:
            message = "the platform is away"
            raise TargetUnavailable(message)


class FakeUsers:
    """Clients who send requests by the target's weights; the counters of the guard in front of it."""

    def __init__(
        self,
        target: FakeTarget,
        clock: Callable[[], datetime],
        *,
        failure_rates: Mapping[str, float] | None = None,
        seed: int = 1,
    ) -> None:
        self._target = target
        self._clock = clock
        self._random = random.Random(seed)
        self.failure_rates = dict(failure_rates or {})
        self.totals: dict[str, Counts] = {}
        self.mirrored: dict[str, int] = {}
        self.life = "1"
        self.is_away = False

    def send(self, requests: int) -> None:
        """So many requests, shared out at random by the weights of this moment."""
        weights = self._target.traffic.weights
        if not weights:
            return
        drawn = self._random.choices(list(weights), weights=list(weights.values()), k=requests)
        for version in drawn:
            failed = self._random.random() < self.failure_rates.get(version, 0.0)
            total = self.totals.get(version, Counts())
            self.totals[version] = Counts(
                requests=total.requests + 1,
                errors=total.errors + failed,
                duration_s=total.duration_s + 0.5,
            )

    def restart_guard(self) -> None:
        self.life += "'"
        self.totals = {}

    def scrape(self) -> Scrape:
        if self.is_away:
            message = "the guard is away"
            raise MetricsUnavailable(message)
        return Scrape(
            at=self._clock(),
            source=self.life,
            totals=dict(self.totals),
            mirrored=dict(self.mirrored),
        )


class FakeSmoke:
    """A smoke test that fails for the versions in `failing`."""

    def __init__(self) -> None:
        self.failing: set[str] = set()
        self.is_away = False

    def run(self, version: str) -> SmokeResult | None:
        if self.is_away:
            return None
        passed = version not in self.failing
        reason = "it answered" if passed else "status 500"
        return SmokeResult(version=version, passed=passed, reason=reason)


class FakeRecord:
    """A journal that remembers which rollouts it closed, and how."""

    def __init__(self) -> None:
        self.outcomes: dict[str, str] = {}
        self.pages: dict[str, str] = {}
        self.is_away = False

    def write(self, state: EndpointState) -> tuple[str, ...]:
        if self.is_away:
            message = "MLflow is away"
            raise RegistryUnavailable(message)
        for ended in state.unreported:
            self.outcomes[ended.rollout.id] = ended.outcome.value
        experiments = tuple(one.id for one in state.past_experiments)
        return (*(ended.rollout.id for ended in state.unreported), *experiments)


class FakeInspector:
    """Finds nothing against any version but those in `faults`."""

    def __init__(self) -> None:
        self.faults: dict[str, str] = {}
        self.is_away = False

    def inspect(self, version: ModelVersion, release: Release) -> Inspection:
        if self.is_away:
            message = "S3 is away"
            raise ArtifactStoreUnavailable(message)
        return Inspection(
            version=version.version, artifact_fault=self.faults.get(version.version, "")
        )


class FakeTrail:
    """Where audit lines are kept, in memory."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.copied: list[str] = []
        self.is_away = False
        self.is_copy_refused = False

    def copy(self, lines: tuple[str, ...]) -> None:
        assert set(lines) <= set(self.lines), "what is copied is kept first"
        if self.is_copy_refused:
            message = "MLflow refuses the artifact"
            raise RegistryUnavailable(message)
        self.copied += lines

    def append(self, lines: tuple[str, ...]) -> None:
        if self.is_away:
            message = "S3 is away"
            raise ArtifactStoreUnavailable(message)
        self.lines += lines


class FakeWatcher:
    """Remembers what the last look at each endpoint left."""

    def __init__(self) -> None:
        self.phases: dict[str, Phase | None] = {}
        self.unserved: set[str] = set()

    def saw(self, endpoint: str, *, phase: Phase | None, is_unserved: bool) -> None:
        self.phases[endpoint] = phase
        (self.unserved.add if is_unserved else self.unserved.discard)(endpoint)
