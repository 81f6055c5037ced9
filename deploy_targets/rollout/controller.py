"""One look at an endpoint: gather, judge and plan, save, act, tell. Level-triggered; every tick may be the first or the last.

`tick` reads everything anew and works from the gap, so it may be repeated or cut off anywhere. It saves before it acts:
a second controller loses the compare-and-set and does nothing, and a rollback that was decided is never forgotten.
One that no longer leads neither saves nor acts. When each endpoint's tick is due is `loop`'s business.
What MLflow cannot be told now waits in the state; what the target cannot do now is asked for again by the next tick.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from importlib.metadata import version
from typing import Protocol

import structlog

from deploy_targets.endpoint import Endpoint
from deploy_targets.rollout.admission import Inspection, Inspector
from deploy_targets.rollout.audit import (
    Changes,
    Trail,
    changes,
    is_worth_writing,
    not_kept,
    with_all_kept,
    with_all_written,
    with_record,
)
from deploy_targets.rollout.experiment import version_to_smoke
from deploy_targets.rollout.follow import asked_anew, check_model, forget_withdrawn
from deploy_targets.rollout.gap import policy_of, version_of, wanted_mirror
from deploy_targets.rollout.observe import difference
from deploy_targets.rollout.pause import word_against
from deploy_targets.rollout.plan import Plan, plan
from deploy_targets.rollout.situation import Situation, SmokeResult
from deploy_targets.rollout.state import (
    Action,
    ApplyRevision,
    EndpointState,
    NoData,
    Observation,
    Phase,
    RetireRevision,
    Scrape,
    ShiftTraffic,
)
from deploy_targets.rollout.store import Store
from deploy_targets.target import Observed, Target
from registry.errors import (
    MetricsUnavailable,
    NotFound,
    RegistryUnavailable,
    ShipwayError,
    StateConflict,
    Unavailable,
)
from registry.events import Event
from registry.promotion import (
    RegistryChange,
    RegistryFacts,
    Trigger,
    check_gate,
    with_changes,
)
from registry.release import Release

_log = structlog.get_logger()

_CODE = version("shipway")
_BATCH = 50
"""Audit lines that are written out together while nothing is decided."""


class Watcher(Protocol):
    """Who counts what is seen."""

    def saw(self, endpoint: str, *, phase: Phase | None, is_unserved: bool) -> None:
        """What a look left: the phase of its rollout, and whether a request stands that was neither admitted nor refused."""
        ...


class Registry(Protocol):
    """What the loop needs of MLflow's model registry."""

    def facts(self, model: str, trigger: Trigger, *, serving: str | None) -> RegistryFacts:
        """What it asks for; of `serving`, which asks for nothing, what is told may be older than the rest."""
        ...

    def write(self, model: str, change: RegistryChange) -> None:
        """Makes one change."""
        ...


class Counters(Protocol):
    """Where the counts of each version are read."""

    def scrape(self) -> Scrape:
        """The counters now, or MetricsUnavailable."""
        ...


class Smoke(Protocol):
    """Asks one version, pinned."""

    def run(self, version: str) -> SmokeResult | None:
        """What it answered; None while it cannot be reached."""
        ...


class Record(Protocol):
    """Where the rollout is told to people."""

    @property
    def pages(self) -> Mapping[str, str]:
        """Rollouts to where they are told, as far as that is known; nobody is asked."""
        ...

    def write(self, state: EndpointState) -> tuple[str, ...]:
        """Tells of `state`; the ids of ended rollouts that need no more telling."""
        ...


class Mirror(Protocol):
    """Who asks another version what clients ask."""

    def follow(self, version: str | None) -> None:
        """Asks this one from now on, or none; never raises."""
        ...


class Notifier(Protocol):
    """Tells people of what happened."""

    def notify(
        self,
        endpoint: Endpoint,
        before: EndpointState,
        after: EndpointState,
        *,
        happened: Changes,
        pages: Mapping[str, str],
    ) -> None:
        """Hands it over; takes no time and never raises. `happened` are the changes between the two states."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One endpoint and all that belongs to it."""

    endpoint: Endpoint
    target: Target
    counters: Counters
    smoke: Smoke
    record: Record
    trail: Trail
    inspector: Inspector
    mirror: Mirror | None = None
    is_removed: bool = False
    """It is no longer declared: what was under way there is brought to its end, and nothing new begins."""


class Controller:
    """Drives the endpoints of one process."""

    def __init__(  # noqa: PLR0913 - its collaborators, by name
        self,
        units: tuple[Unit, ...],
        *,
        registry: Registry,
        store: Store,
        clock: Callable[[], datetime],
        leads: Callable[[], bool],
        watcher: Watcher,
        notifier: Notifier | None = None,
    ) -> None:
        """All clients are passed in; nothing is contacted before the first tick.

        `leads` says whether this process is the one that may act. It is asked again before every save and act.
        """
        self._units = {unit.endpoint.name: unit for unit in units}
        self._registry = registry
        self._store = store
        self._clock = clock
        self._leads = leads
        self._notifier = notifier
        self._watcher = watcher

    @property
    def models(self) -> Mapping[str, str]:
        """The model of each endpoint."""
        return {name: unit.endpoint.model for name, unit in self._units.items()}

    def tick(self, name: str) -> bool:
        """One look at that endpoint and what follows from it; returns whether another look is due soon.

        Does nothing while another process leads. Ticks of different endpoints may run at the same time.

        Raises:
            TargetUnavailable: the target could not be observed: nothing was decided.
            StateConflict: somebody else saved, or leads by now: nothing was done.
            EndpointFileInvalid: the endpoint was given another model: nothing is done.
        """
        unit = self._units[name]
        endpoint = unit.endpoint
        if not self._leads():
            self._watcher.saw(name, phase=None, is_unserved=False)
            return True
        before = self._store.load(endpoint.name)
        check_model(endpoint, before.state)
        observed = unit.target.observe()
        scrape, observation = self._observation(unit, before.state)
        smoke = self._smoke(unit, before.state, observed)
        # Last, because people click meanwhile: a smoke test may take a minute.
        facts = self._facts(endpoint, version_of(before.state.serving))
        inspection = self._inspect(unit, before.state, facts)
        situation = Situation(
            now=self._clock(),
            observed=observed,
            facts=facts,
            observation=observation,
            smoke=smoke,
            inspection=inspection,
            is_removed=unit.is_removed,
        )
        planned = plan(endpoint, before.state, situation)
        happened = changes(before.state, planned.state)
        planned = with_record(
            endpoint, before.state, planned, situation, happened=happened, code=_CODE
        )
        is_due = planned.state.rollout is not None or planned.state.scrape is None
        if scrape is not None and planned.state.is_measured and is_due:
            planned = replace(planned, state=replace(planned.state, scrape=scrape))
        revision = before.revision
        self._check_lead()
        if planned.state != before.state:
            revision = self._store.save(planned.state, expected=before.revision)
        for event, fields in happened:
            _log.info(event, endpoint=endpoint.name, **fields)
        if self._notifier is not None:
            pages = unit.record.pages
            self._notifier.notify(
                endpoint, before.state, planned.state, happened=happened, pages=pages
            )
        state = planned.state
        self._watcher.saw(
            name,
            phase=state.rollout and state.rollout.phase,
            is_unserved=state.asked is not None and state.experiment is None,
        )
        if self._act(unit, planned) and facts is not None:
            # The requests that were just answered are gone by our own hand: a click from now on is a new one.
            made = (action for action in planned.actions if isinstance(action, RegistryChange))
            seen = with_changes(facts, made)
            state = forget_withdrawn(endpoint, state, seen, now=self._clock())
        if unit.mirror is not None:
            unit.mirror.follow(wanted_mirror(state))
        closed = self._tell(unit, state)
        state = self._write_out(unit, state.without_told(closed or ()))
        if state != planned.state:
            self._check_lead()
            self._store.save(state, expected=revision)
        _log.debug(
            Event.TICK_FINISHED,
            endpoint=endpoint.name,
            traffic=dict(observed.traffic.weights),
            actions=[type(action).__name__ for action in planned.actions],
        )
        waits = (
            state.is_measured
            or state.asked is not None
            or state.override is not None
            or bool(state.idle_since)
            or (closed is not None and bool(state.unreported))
        )
        return waits or bool(planned.actions)

    def _facts(self, endpoint: Endpoint, serving: str | None) -> RegistryFacts | None:
        try:
            return self._registry.facts(endpoint.model, endpoint.trigger, serving=serving)
        except RegistryUnavailable as error:
            _log.warning(
                Event.TICK_FAILED, endpoint=endpoint.name, part="registry", error=str(error)
            )
            return None

    def _observation(
        self, unit: Unit, state: EndpointState
    ) -> tuple[Scrape | None, Observation | NoData]:
        if not state.is_measured:
            return None, NoData(reason="no rollout is under way")
        try:
            scrape = unit.counters.scrape()
        except MetricsUnavailable as error:
            _log.warning(
                Event.TICK_FAILED, endpoint=unit.endpoint.name, part="metrics", error=str(error)
            )
            return None, NoData(reason=str(error), is_outage=True)
        return scrape, difference(state.scrape, scrape)

    def _inspect(
        self, unit: Unit, state: EndpointState, facts: RegistryFacts | None
    ) -> Inspection | None:
        """Of the version that is newly asked for, if one is and its gate is not against it."""
        asked = None if facts is None else asked_anew(unit.endpoint, state, facts)
        known = None if facts is None or asked is None else facts.versions.get(asked)
        release = None if known is None else check_gate(known)
        if known is None or not isinstance(release, Release):
            return None
        try:
            return unit.inspector.inspect(known, release)
        except Unavailable as error:
            _log.warning(
                Event.TICK_FAILED, endpoint=unit.endpoint.name, part="admission", error=str(error)
            )
        except Exception:  # noqa: BLE001 - what is asked for may be of any make, and the rollout under way must go on
            _log.exception(Event.TICK_FAILED, endpoint=unit.endpoint.name, part="admission")
        return None

    def _smoke(self, unit: Unit, state: EndpointState, observed: Observed) -> SmokeResult | None:
        rollout = state.rollout
        if rollout is None or rollout.phase is not Phase.WARMING:
            arm = version_to_smoke(unit.endpoint, state, self._clock())
            return unit.smoke.run(arm) if arm is not None and observed.is_ready(arm) else None
        policy = policy_of(unit.endpoint, rollout)
        if word_against(state.hold, policy, self._clock()):
            # It is asked once it may go on: a freeze of days is no reason to ask it for days.
            return None
        version = rollout.challenger.version
        return unit.smoke.run(version) if observed.is_ready(version) else None

    def _act(self, unit: Unit, planned: Plan) -> bool:
        """Carries out the actions in order and says whether all of them went well.

        One that fails is logged, and asked for again by the next tick.
        """
        went_well = True
        for action in planned.actions:
            self._check_lead()
            try:
                self._carry_out(unit, action)
            except (Unavailable, NotFound) as error:
                went_well = False
                _log.warning(
                    Event.TICK_FAILED,
                    endpoint=unit.endpoint.name,
                    part=type(action).__name__,
                    error=str(error),
                )
        return went_well

    def _check_lead(self) -> None:
        """Raises StateConflict when another process leads by now: what was decided here may be out of date."""
        if not self._leads():
            message = "Another controller leads by now; it reads everything anew."
            raise StateConflict(message)

    def _carry_out(self, unit: Unit, action: Action) -> None:
        match action:
            case ApplyRevision(release=release):
                unit.target.apply(release)
            case ShiftTraffic(traffic=traffic):
                unit.target.shift(traffic)
            case RetireRevision(version=version):
                unit.target.retire(version)
            case _:
                self._registry.write(unit.endpoint.model, action)

    def _tell(self, unit: Unit, state: EndpointState) -> tuple[str, ...] | None:
        """Writes the journal; the ids of what has ended and needs no more telling, or None where MLflow cannot be told."""
        if not state.has_news:
            return ()
        try:
            return unit.record.write(state)
        except RegistryUnavailable as error:
            _log.warning(Event.JOURNAL_FAILED, endpoint=unit.endpoint.name, error=str(error))
            return None

    def _write_out(self, unit: Unit, state: EndpointState) -> EndpointState:
        """The state without the audit lines that could be written out; it knows which ones S3 has where MLflow has not."""
        if not is_worth_writing(state, batch=_BATCH):
            return state
        lines = state.audit.pending
        try:
            if fresh := not_kept(state.audit):
                unit.trail.append(fresh)
                state = with_all_kept(state)
            unit.trail.copy(lines)
        except ShipwayError as error:
            # A bucket that is missing, too: the record waits, the rollout does not.
            name = unit.endpoint.name
            _log.error(Event.AUDIT_FAILED, endpoint=name, lines=len(lines), error=str(error))
            return state
        return with_all_written(state)
