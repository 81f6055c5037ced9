"""What is remembered of an experiment: versions side by side at fixed shares, compared user by user. Pure.

It is part of `EndpointState`, and so is saved before any act. The evidence of its tests stands beside it there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from deploy_targets.judge_policy import JudgePolicy
from deploy_targets.routing.traffic import Traffic
from registry.release import Release


class ExperimentPhase(StrEnum):
    """Where it stands."""

    WARMING = "warming"
    """Its versions are deployed, made ready and smoke-tested at weight 0."""
    RUNNING = "running"


class Finding(StrEnum):
    """What is known of an arm beside the champion."""

    UNDECIDED = "undecided"
    WINNER = "winner"
    """Shown to be better in the goal."""
    LOSER = "loser"
    """Shown to be worse, in the goal or in errors."""
    ALIKE = "no difference"
    """Shown to be neither better nor worse by the goal's tolerance."""


class ExperimentOutcome(StrEnum):
    """How it ended."""

    DECIDED = "decided"
    """Every arm has a finding, or one of them does harm."""
    UNDECIDED = "undecided"
    """Its time or its users were used up before."""
    STOPPED = "stopped"
    """By a person, or because it could not go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """One experiment, from the request on."""

    id: str
    name: str
    champion: str
    """What served when it was asked for: the control."""
    arms: tuple[Release, ...]
    """What is compared with it."""
    share: int
    """Percent of the requests for all arms together."""
    goal: str
    """The metric that a winner is better in."""
    rules: JudgePolicy
    """Of each arm against the champion; the rates are its part of the whole."""
    by: str
    asked: datetime
    until: datetime | None = None
    users: int | None = None
    """So many, of all versions together, are enough."""
    phase: ExperimentPhase = ExperimentPhase.WARMING
    phase_since: datetime
    held_since: datetime | None = None
    """Since when it is held, or frozen, before it runs."""
    smoked: tuple[str, ...] = ()
    """Arms that answered every smoke prompt."""
    seen_since: datetime | None = None
    """Since when its weights are seen in force; None while they are not."""
    blind_since: datetime | None = None
    """Since when, with traffic, the metrics cannot be read."""
    intervals: int = 0
    counted: Mapping[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    """By version: users who were compared, and those of them whose request failed."""
    findings: Mapping[str, Finding] = field(default_factory=dict[str, Finding])
    reasons: Mapping[str, str] = field(default_factory=dict[str, str])
    """By arm: the numbers that its finding rests on."""
    charted: Mapping[str, float] = field(default_factory=dict[str, float])
    """The latest e-values and bounds, by the chart's name for them."""
    stop: str = ""
    """An operator's word that it is to end, and why."""
    outcome: ExperimentOutcome | None = None
    reason: str = ""
    ended: datetime | None = None
    is_told: bool = False
    """Its MLflow run has been closed."""

    @property
    def versions(self) -> tuple[str, ...]:
        """Of the arms."""
        return tuple(arm.version for arm in self.arms)

    @property
    def traffic(self) -> Traffic:
        """While it runs: the share in even parts, what is left over to the first arms, the rest to the champion."""
        each, over = divmod(self.share, len(self.arms))
        arms = {version: each + (at < over) for at, version in enumerate(self.versions)}
        return Traffic(weights={self.champion: 100 - self.share, **arms})

    @property
    def compared(self) -> int:
        """Users of all versions together."""
        return sum(users for users, _ in self.counted.values())

    def line(self) -> str:
        """For people: what it is, how it stands."""
        arms = ", ".join(f"v{version}" for version in self.versions)
        stands = self.outcome or self.phase
        told = f"experiment {self.name}: {arms} against v{self.champion} by {self.goal}, {stands}"
        return f"{told}: {self.reason}" if self.reason else told

    def lines(self) -> tuple[str, ...]:
        """The same, and what is known of each version."""
        told = [self.line()]
        for version, (users, failed) in self.counted.items():
            finding = self.findings.get(version, "")
            said = f", {finding}: {self.reasons.get(version, '')}" if finding else ", the champion"
            told.append(f"  v{version}: {users:,} users, {failed:,} with a failed request{said}")
        return tuple(told)
