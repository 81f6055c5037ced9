"""The types of a rollout: what was measured, what was concluded, where it stands, what is to be done.

`EndpointState` is what is saved, with compare-and-set, before any act. It knows enough to serve, to roll back and to
go on judging when MLflow is away: the releases themselves, not just their numbers.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from deploy_targets.endpoint import Endpoint
from deploy_targets.rollout.experiment_state import Experiment, ExperimentOutcome
from deploy_targets.routing.traffic import Traffic
from registry.promotion import MoveAlias, TagVersion, TransitionStage
from registry.release import Release

SCHEMA = 4

MAX_SERVED = 10
"""Releases that once served and are remembered, so that a rollback to them needs no MLflow; `gc` keeps their bytes."""

MAX_EXPERIMENTS = 5
"""Those that ended and are remembered; MLflow has all."""
MAX_CLOSED = 50
"""Versions of which it is remembered when their request was closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Counters of one version, each since the same start: totals in a scrape, increments in an observation."""

    requests: int = 0
    errors: int = 0
    duration_s: float = 0.0
    """Sum over the requests."""
    within: tuple[int, ...] = ()
    """Requests that took at most each of `metrics.DURATION.buckets`; empty where that was not measured."""
    first_token: tuple[int, ...] = ()
    """Streams whose first token took at most each of `metrics.FIRST_TOKEN.buckets`, and at last all that were timed."""
    per_token: tuple[int, ...] = ()
    """Streams whose tokens took at most each of `metrics.PER_TOKEN.buckets` on average, and at last all timed ones."""
    cost_micros: int | None = None
    """Sum over the requests; None where that was not measured."""
    judged: int = 0
    """Answers whose quality was judged, which may be fewer than there were; 0 as well where no quality is measured."""
    bad: int = 0
    """Those of them that are bad."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scrape:
    """One reading of the guard's counters."""

    at: datetime
    source: str
    """Names the life of the process that counts: when it changes, its counters began again."""
    totals: Mapping[str, Counts] = field(default_factory=dict[str, Counts])
    mirrored: Mapping[str, int] = field(default_factory=dict[str, int])
    """Requests that the guards have asked of a version as well, and that it has finished."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What each version did in one interval. A version that is missing is a gap, not zero."""

    seconds: float
    increments: Mapping[str, Counts]
    mirrored: Mapping[str, int] = field(default_factory=dict[str, int])
    """Requests asked of a version as well, whose answers nobody got. They are no part of `increments`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoData:
    """Nothing was learned in this interval, and why."""

    reason: str
    is_outage: bool = False
    """The metrics could not be read at all."""


class Decision(StrEnum):
    """What a verdict asks for."""

    HOLD = "hold"
    PROMOTE = "promote"
    ROLL_BACK = "roll_back"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricEvidence:
    """What one metric's test has learned, as `evidence.Memory` holds it: natural logarithms and sums."""

    signature: str
    """The rules that it was learned under."""
    totals: tuple[float, ...]
    moments: tuple[float, ...]
    mixture: tuple[float, ...]
    at_most: tuple[float, ...]
    at_least: tuple[float, ...]
    peak: float
    compared: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that was learned since the challenger first had traffic: the tests' own memory."""

    intervals: int = 0
    champion: Counts = Counts()
    challenger: Counts = Counts()
    compared: int = 0
    """Challenger requests in intervals in which both sides (or the only one) had some."""
    metrics: Mapping[str, MetricEvidence] = field(default_factory=dict[str, MetricEvidence])
    """By the metric's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Where one metric's sequences stand."""

    metric: str
    e_value: float
    """Evidence of harm, the highest so far."""
    bound: float
    """The e-value that rolls back."""
    low: float | None
    high: float | None
    """The increase over the champion, or the rate where there is none; None is not known yet."""
    ratio_low: float | None = None
    ratio_high: float | None = None
    """How many times the champion's rate it is; None is not known yet, or there is no champion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A decision and its numbers in words."""

    decision: Decision
    reason: str
    metric: str | None = None
    """The one that decided, where one did."""
    readings: tuple[Reading, ...] = ()


NOTHING_YET = Verdict(decision=Decision.HOLD, reason="nothing has been measured yet")


class Phase(StrEnum):
    """Where a rollout stands."""

    WARMING = "warming"
    """Weight 0: being deployed, made ready and smoke-tested."""
    STEPPING = "stepping"
    COMPLETING = "completing"
    """Promoted: all traffic is being moved to it, the aliases follow once that was seen."""


class Outcome(StrEnum):
    """How a rollout ended."""

    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    WITHDRAWN = "withdrawn"
    SUPERSEDED = "superseded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One moment of a rollout, for its charts. Counts are increments since the point before."""

    index: int
    """Counts the points of this rollout, also those that were thinned out since."""
    at: datetime
    weight: int
    champion: Counts = Counts()
    challenger: Counts = Counts()
    readings: tuple[Reading, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutState:
    """One challenger on its way."""

    id: str
    champion: str | None
    challenger: Release
    phase: Phase = Phase.WARMING
    step: int = 0
    started: datetime
    phase_since: datetime
    """When this phase, or this step of it, began."""
    exposed_since: datetime | None = None
    """When it first had traffic."""
    asked_by: str = ""
    """The user who asked, as MLflow's server authenticated them; empty where it does not say."""
    declared: Endpoint | None = None
    """The endpoint as it was declared when this began: its policy holds to the end, whatever the file says by now. None in
    a state that an older version saved."""
    waiting: str = ""
    """Why no more requests are moved to the challenger at present; empty when nothing keeps it."""
    waiting_since: datetime | None = None
    blind_since: datetime | None = None
    """Since when, under traffic, the metrics or the registry cannot be read."""
    seen_weights: Mapping[str, int] = field(default_factory=dict[str, int])
    """The traffic that was last observed under way, by version."""
    seen_since: datetime | None = None
    """When it was first observed to be so."""
    step_requests: int = 0
    """Challenger requests seen in this step, under its weights."""
    restarts_seen: int = 0
    setbacks: int = 0
    evidence: Evidence = Evidence()
    verdict: Verdict = NOTHING_YET
    points: tuple[Point, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedRollout:
    """A rollout that is over, kept until its MLflow run says so."""

    rollout: RolloutState
    outcome: Outcome
    reason: str
    ended: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """An operator's rollback, saved first and carried out by the controller, without MLflow if need be."""

    to: Release | None
    """What to go back to at once; None ends the rollout in progress and keeps what serves."""
    reason: str
    by: str = ""
    """Who asked, as the machine that the command ran on knows them."""
    since: datetime | None = None
    """When the controller first saw it; it is given up when `to` does not get ready in its time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A version that is asked for and neither admitted nor refused yet."""

    version: str
    since: datetime
    """When that was first seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """An operator's word that no more requests are moved to any challenger, until it is taken back."""

    reason: str
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditTail:
    """The end of the endpoint's audit record, and what of it has not been written out yet; see `audit`."""

    chain: str = ""
    """The name of the record that it is the end of: when the state is lost, another one begins."""
    length: int = 0
    """Lines so far."""
    hash: str = ""
    """Of the last line."""
    after: str = ""
    """The digest of the state that it left."""
    facts: str = ""
    """Of what the registry said in the last line that tells it."""
    declared: str = ""
    """Of the endpoint as declared in the last line that tells it."""
    actions: tuple[str, ...] = ()
    """Those of the last line."""
    missed: int = 0
    """Looks since then that found no room."""
    pending: tuple[str, ...] = ()
    """Lines that are not in S3 and MLflow yet."""
    kept: int = 0
    """S3 has the lines up to this one; of those that are pending, MLflow may still lack them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointState:
    """Everything that Shipway remembers about one endpoint."""

    schema: int = SCHEMA
    endpoint: str
    serving: Release | None = None
    """What has all the traffic when no rollout is under way."""
    serving_reason: str = ""
    """Why it does: the verdict in words."""
    served: tuple[Release, ...] = ()
    """What served before, the latest last, each once: where `rollback` can go without MLflow."""
    settled_champion: str | None = None
    """The last version that served and was seen under the alias `champion`."""
    rejected: Mapping[str, str] = field(default_factory=dict[str, str])
    """Version to reason: turned down, and its request not yet seen withdrawn."""
    closed: Mapping[str, datetime] = field(default_factory=dict[str, datetime])
    """When the last request for a version was answered: whose name is older asked for that one, not for the next."""
    stage_before: Mapping[str, str] = field(default_factory=dict[str, str])
    idle_since: Mapping[str, datetime] = field(default_factory=dict[str, datetime])
    """Revisions without a role: since when, so that they drain before they are retired."""
    asked: Asked | None = None
    """What waits to be inspected; None where nothing does."""
    rollout: RolloutState | None = None
    override: Override | None = None
    hold: Hold | None = None
    scrape: Scrape | None = None
    """The last reading that was taken into account, to which the next one is a difference; kept while one is measured."""
    unreported: tuple[EndedRollout, ...] = ()
    """Ended rollouts whose MLflow run has not been closed yet."""
    experiment: Experiment | None = None
    """Under way; while it is, no rollout begins."""
    experiment_evidence: Mapping[str, Evidence] = field(default_factory=dict[str, Evidence])
    """What its tests have learned."""
    past_experiments: tuple[Experiment, ...] = ()
    """The latest that ended, the newest last."""
    declared: Endpoint | None = None
    """The endpoint as declared, while anything is still to be done for it: it may be taken out of the file meanwhile."""
    disturbance: str = ""
    """Who else set the weights that were seen last, while they were not ours."""
    audit: AuditTail = AuditTail()

    @property
    def previous(self) -> Release | None:
        """What served before: where `rollback` goes by itself."""
        return self.served[-1] if self.served else None

    @property
    def is_measured(self) -> bool:
        """Whether the guard's counters are read."""
        return self.rollout is not None or self.experiment is not None

    @property
    def has_news(self) -> bool:
        """Whether MLflow is to be told of something that goes on or ended."""
        untold = any(not one.is_told for one in self.past_experiments)
        return self.is_measured or bool(self.unreported) or untold

    def without_told(self, ids: Collection[str]) -> "EndpointState":
        """The state once MLflow has the ends of these rollouts and experiments."""
        past = tuple(
            replace(one, is_told=one.is_told or one.id in ids) for one in self.past_experiments
        )
        open_ = tuple(one for one in self.unreported if one.rollout.id not in ids)
        return replace(self, unreported=open_, past_experiments=past)

    def with_experiment_ended(
        self, outcome: ExperimentOutcome, reason: str, *, now: datetime
    ) -> "EndpointState":
        """The state without its experiment, which is remembered."""
        if self.experiment is None:
            return self
        ended = replace(self.experiment, outcome=outcome, reason=reason, ended=now)
        past = (*self.past_experiments, ended)[-MAX_EXPERIMENTS:]
        return replace(
            self, experiment=None, experiment_evidence={}, past_experiments=past, scrape=None
        )

    def with_closed(self, version: str, now: datetime) -> "EndpointState":
        """The state in which the request for `version` has been answered."""
        others = {one: at for one, at in self.closed.items() if one != version}
        kept = list(others.items())[-MAX_CLOSED + 1 :]
        return replace(self, closed={**dict(kept), version: now})

    def now_serving(self, release: Release, reason: str) -> "EndpointState":
        """The state in which `release` serves, and what served until now is remembered."""
        left = self.serving
        others = [one for one in self.served if one not in {left, release}]
        if left is not None and left != release:
            others.append(left)
        served = tuple(others[-MAX_SERVED:])
        return replace(self, serving=release, serving_reason=reason, served=served)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyRevision:
    """Deploy or repair this release, without traffic."""

    release: Release


@dataclass(frozen=True, slots=True, kw_only=True)
class ShiftTraffic:
    """Send requests by these weights."""

    traffic: Traffic


@dataclass(frozen=True, slots=True, kw_only=True)
class RetireRevision:
    """Delete this revision."""

    version: str


Action = ApplyRevision | ShiftTraffic | RetireRevision | MoveAlias | TransitionStage | TagVersion
