"""Random people, users, outages and operators: what must hold at every moment, and what must come of it in the end.

The machine clicks, sends requests, holds, changes the policy, kills the process, takes MLflow, the platform, the metrics or
S3 away, shows old or repeated readings, and ticks, in any order. Once the world is quiet and healthy again, the registry,
the traffic and the state must agree, the record must be whole and lead today's code to the same decisions, and then nothing
happens any more. docs/invariants.md names what is looked at here.
"""

import contextlib
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from deploy_targets.endpoint import Endpoint
from deploy_targets.rollout.audit import read_chain
from deploy_targets.rollout.gap import policy_of
from deploy_targets.rollout.replay import entries_of, replay
from deploy_targets.rollout.state import EndpointState, Hold, Outcome, Phase, Scrape
from deploy_targets.rollout.store import Saved
from deploy_targets.routing.traffic import Traffic
from deploy_targets.target import Observed
from registry.errors import MetricsUnavailable, StateConflict, TargetUnavailable
from tests.builders import a_release, a_version, an_endpoint
from tests.fakes import FakeTarget, FakeUsers
from tests.rollout.test_controller import World
from tests.rollout.test_crashes import Countdown, Killed
from tests.rollout.test_experiments import an_experiment

GOOD = ("6", "7", "8")
REFUSED = "5"
PARTS = ("registry", "target", "users", "record", "trail")
VERSIONS = st.sampled_from((*GOOD, REFUSED))


def next_revision(revision: str) -> str:
    return str(int(revision or 0) + 1)


class MemoryStore:
    """The store's contract without a disk, so that thousands of ticks take seconds; it remembers what was decided."""

    def __init__(self) -> None:
        self.saved = Saved(EndpointState(endpoint="chat"), "")
        self.clicked: set[str] = set()
        """Versions that somebody asked for, and that have not been answered since."""
        self.burned: set[str] = set()
        """Versions that were rolled back, and that nobody asked for anew since."""

    def load(self, endpoint: str) -> Saved:
        return self.saved

    def save(self, state: EndpointState, *, expected: str) -> str:
        before, revision = self.saved
        if revision != expected:
            raise StateConflict(state.endpoint)
        assert state.rollout is None or state.experiment is None, "two things at once"
        for ended in state.unreported:
            if ended not in before.unreported and ended.outcome is not Outcome.SUPERSEDED:
                self.clicked.discard(ended.rollout.challenger.version)
                if ended.outcome is Outcome.ROLLED_BACK:
                    self.burned.add(ended.rollout.challenger.version)
        if state.rollout is not None and (
            before.rollout is None or before.rollout.id != state.rollout.id
        ):
            version = state.rollout.challenger.version
            assert version in self.clicked, f"nobody asked for v{version}"
        self.saved = Saved(state, next_revision(expected))
        return self.saved.revision


class Rollouts(RuleBasedStateMachine):
    """An endpoint whose request is an alias."""

    promote: ClassVar[dict[str, str]] = {"alias": "challenger"}
    guard: ClassVar[dict[str, Any]] = {}
    steps: ClassVar[Counter[str]] = Counter()
    """Taken so far, by the machine's name."""

    @initialize(drain_s=st.sampled_from((0, 30)), setbacks=st.integers(0, 2))
    def start(self, drain_s: int, setbacks: int) -> None:
        endpoint = an_endpoint(drain_s=drain_s, max_setbacks=setbacks, time_limit_s=2_000)
        declared = {**endpoint.model_dump(), "promote": self.promote, "guard": self.guard}
        endpoint = type(endpoint).model_validate(declared)
        self.memory = MemoryStore()
        self.world = World(Path(), endpoint, store=self.memory)
        self.world.registry.versions[REFUSED] = a_version(REFUSED, passed=False)
        self.risen: list[tuple[str, int]] = []
        """The weights that each rollout's challenger was given."""
        self.old_scrapes: list[Scrape] = []
        self.old_looks: list[Observed] = []
        self.shift = self.world.target.shift
        self.world.target.shift = self._watch_shift  # type: ignore[method-assign]

    def _watch_shift(self, traffic: Traffic) -> None:
        """Whatever is shifted was saved first, and names nothing that was turned down or refused.

        While it is held no challenger gets more than it has, and one under judgement never goes up by two steps at once.
        """
        state = self.world.state
        assert state.audit.length, "what is done was not recorded"
        self._check_rise(state, traffic)
        rollout, override = state.rollout, state.override
        roles = {
            None if state.serving is None else state.serving.version,
            None if rollout is None else rollout.challenger.version,
            None if override is None or override.to is None else override.to.version,
            *(() if state.experiment is None else state.experiment.versions),
        }
        assert traffic.weights.keys() <= roles
        if override is None:
            assert not traffic.weights.keys() & (state.rejected.keys() | self.memory.burned)
        self.shift(traffic)

    def _check_rise(self, state: EndpointState, traffic: Traffic) -> None:
        rollout = state.rollout
        if rollout is None or rollout.champion is None or rollout.phase is not Phase.STEPPING:
            return
        version = rollout.challenger.version
        highest = max((weight for one, weight in self.risen if one == rollout.id), default=0)
        rises = traffic.percent(version) > highest
        assert not (rises and state.hold), "a held challenger got more requests"
        steps = [0, *(step.weight for step in policy_of(self.world.endpoint, rollout).steps)]
        taken = steps.index(traffic.percent(version))
        assert taken <= steps.index(highest) + 1 if highest in steps else True
        self.risen.append((rollout.id, traffic.percent(version)))

    # People

    @rule(version=VERSIONS)
    def ask_for(self, version: str) -> None:
        self._point("challenger", version)

    def _point(self, alias: str, version: str) -> None:
        if version in self.world.registry.versions:
            self._ask(version)
            self.world.registry.aliases[alias] = version

    def _ask(self, version: str) -> None:
        """A click on what stands there already is no new request: nobody can tell it from the old one."""
        self.memory.clicked.add(version)
        if version not in self._asked():
            self.memory.burned.discard(version)

    @rule()
    def withdraw(self) -> None:
        self.world.registry.aliases.pop("challenger", None)

    @rule(version=VERSIONS)
    def move_champion_by_hand(self, version: str) -> None:
        self._point("champion", version)

    @rule()
    def delete_champion_by_hand(self) -> None:
        self.world.registry.aliases.pop("champion", None)

    @rule(version=st.sampled_from(("7", "8")))
    def delete_version(self, version: str) -> None:
        """MLflow takes its aliases with it."""
        self.world.registry.versions.pop(version, None)
        for alias, named in tuple(self.world.registry.aliases.items()):
            if named == version:
                del self.world.registry.aliases[alias]

    @rule(to=st.sampled_from((None, "previous", *GOOD)))
    def go_back(self, to: str | None) -> None:
        state = self.world.state
        release = state.previous if to == "previous" else to and a_release(to)
        self.world.go_back(to=release or None)
        self.memory.burned -= {None if not release else release.version}

    @rule(is_held=st.booleans())
    def hold(self, *, is_held: bool) -> None:
        hold = Hold(reason="the fair is on", by="ada") if is_held else None
        saved = self.memory.saved
        self.memory.save(replace(saved.state, hold=hold), expected=saved.revision)

    @rule(weights=st.sampled_from(((5, 25, 50), (10, 40), (1,))), frozen=st.booleans())
    def change_the_policy(self, weights: tuple[int, ...], *, frozen: bool) -> None:
        """And with it the process starts anew, as it does when the endpoint file changes."""
        window = {"start": "2026-11-24T12:10:00Z", "end": "2026-11-24T12:20:00Z"}
        policy = {
            **self.world.endpoint.rollout.model_dump(),
            "steps": [{"weight": weight, "dwell_s": 0} for weight in weights],
            "freeze": [window] if frozen else [],
        }
        declared = {**self.world.endpoint.model_dump(), "rollout": policy}
        self.world.endpoint = Endpoint.model_validate(declared)
        self.world.unit = replace(self.world.unit, endpoint=self.world.endpoint)
        self.world.restart()

    @rule()
    def remove_the_endpoint(self) -> None:
        """From the file, for one look; then it is put back."""
        unit, rollout = self.world.unit, self.world.state.rollout
        self.world.unit = replace(unit, is_removed=True)
        self.world.restart()
        self._tick(10)
        self.world.unit = unit
        self.world.restart()
        if rollout is not None and rollout.challenger.version in self._asked():
            self.memory.clicked.add(rollout.challenger.version)

    @rule()
    def restart(self) -> None:
        self.world.restart()

    @rule(points=st.integers(1, 6))
    def die(self, points: int) -> None:
        """The process is killed at one of the points at which it changes the world, and starts again."""
        kill = Countdown(points)
        parts = ((self.world.target, ("apply", "shift", "retire")), (self.memory, ("save",)))
        kept = [(part, name, getattr(part, name)) for part, names in parts for name in names]
        for part, name, call in kept:
            setattr(part, name, kill.around(call))
        try:
            with contextlib.suppress(Killed):
                self._tick(50)
        finally:
            for part, name, call in kept:
                setattr(part, name, call)
        self.world.restart()

    @rule()
    def lose_the_state(self) -> None:
        """What the registry names is all that is left to go by."""
        self.memory.saved = Saved(
            EndpointState(endpoint="chat"), next_revision(self.memory.saved.revision)
        )
        self.memory.clicked |= self._asked()
        self.memory.burned.clear()

    # The world

    @rule(version=st.sampled_from(GOOD), rate=st.sampled_from((0.0, 0.6)))
    def misbehave(self, version: str, rate: float) -> None:
        self.world.users.failure_rates[version] = rate

    @rule(version=st.sampled_from(GOOD))
    def crash(self, version: str) -> None:
        if version in self.world.target.revisions:
            self.world.target.crash(version)

    @rule(version=st.sampled_from(GOOD))
    def fail_the_smoke_test(self, version: str) -> None:
        self.world.smoke.failing.add(version)

    @rule(version=st.sampled_from(GOOD))
    def hang_at_start(self, version: str) -> None:
        self.world.target.never_ready.add(version)

    @rule()
    def lose_all_revisions(self) -> None:
        self.world.target.revisions.clear()
        self.world.target.traffic = Traffic()

    @rule(part=st.sampled_from(PARTS))
    def lose(self, part: str) -> None:
        getattr(self.world, part).is_away = True

    @rule(part=st.sampled_from(PARTS))
    def mend(self, part: str) -> None:
        getattr(self.world, part).is_away = False

    @rule()
    def restart_guard(self) -> None:
        self.world.users.restart_guard()

    @rule(which=st.sampled_from(("metrics", "platform")), age=st.integers(1, 3))
    def show_what_was(self, which: str, age: int) -> None:
        """For one look, a reading comes that is late, or that came before."""
        world = self.world
        part, name, old = (
            (world.users, "scrape", self.old_scrapes)
            if which == "metrics"
            else (world.target, "observe", self.old_looks)
        )
        if len(old) < age or part.is_away:
            return
        setattr(part, name, lambda: old[-age])
        try:
            self._tick(20)
        finally:
            delattr(part, name)

    @rule(seconds=st.sampled_from((-3_600, 5, 1_000)))
    def jump(self, seconds: int) -> None:
        self.world.clock.advance(seconds)

    @rule(times=st.integers(1, 4), requests=st.sampled_from((0, 10, 200)))
    def tick(self, times: int, requests: int) -> None:
        for _ in range(times):
            self._tick(requests)

    def _tick(self, requests: int) -> None:
        if not self.world.registry.is_away and not self.world.target.is_away:
            self.memory.burned &= self._asked()
        with contextlib.suppress(TargetUnavailable):
            self.old_looks.append(FakeTarget.observe(self.world.target))
        with contextlib.suppress(MetricsUnavailable):
            self.old_scrapes.append(FakeUsers.scrape(self.world.users))
        with contextlib.suppress(TargetUnavailable):
            self.world.tick(1, requests=requests)

    def _asked(self) -> set[str]:
        """The versions whose request stands in the registry."""
        return set(self.world.registry.aliases.values())

    # What holds

    @invariant()
    def traffic_goes_to_what_exists_or_nowhere(self) -> None:
        world: Any = getattr(self, "world", None)
        if world is not None:
            self.steps[type(self).__name__] += 1
            weights = world.target.traffic.weights
            assert sum(weights.values()) in {0, 100}
            assert weights.keys() <= world.target.revisions.keys()
            assert REFUSED not in weights

    def teardown(self) -> None:
        """The world becomes quiet and healthy."""
        if not hasattr(self, "world"):
            return
        world = self.world
        for part in PARTS:
            self.mend(part)
        world.smoke.failing.clear()
        world.target.never_ready.clear()
        world.users.failure_rates.clear()
        self.hold(is_held=False)
        world.clock.advance(3_600)
        self.name_what_serves()
        for _ in range(150):
            self._tick(400)
        self.check_converged()
        self.check_record()
        revision, writes = world.store.load("chat").revision, len(world.registry.writes)
        busy = [world.controller.tick("chat") for _ in range(3)]
        assert busy == [False] * 3
        assert world.store.load("chat").revision == revision
        assert len(world.registry.writes) == writes

    def name_what_serves(self) -> None:
        """A state that was lost, and aliases that do not tell what should serve: a person has to."""
        self._tick(10)
        state, traffic = self.world.state, self.world.target.traffic
        if state.serving is None and state.rollout is None and traffic.weights:
            self.go_back(to=max(traffic.weights, key=lambda one: traffic.weights[one]))

    def check_record(self) -> None:
        """It is whole, and today's code decides by it as it did."""
        tail = self.world.state.audit
        entries = read_chain(self.world.trail.lines, endpoint="chat", tail=tail)
        assert not tail.pending
        for rollout in {entry.rollout for entry in entries} - {None}:
            assert replay(entries_of(entries, str(rollout))).difference is None

    def check_converged(self) -> None:
        world, state = self.world, self.world.state
        serving = None if state.serving is None else state.serving.version
        assert (state.rollout, state.override, state.unreported) == (None, None, ())
        assert state.experiment is None
        assert all(one.is_told for one in state.past_experiments)
        assert world.registry.aliases == ({} if serving is None else {"champion": serving})
        assert world.target.traffic == Traffic.all_to(serving)
        assert set(world.target.revisions) == ({serving} - {None})


class StagedRollouts(Rollouts):
    """An endpoint whose request is a legacy stage."""

    promote: ClassVar[dict[str, str]] = {"stage": "Production"}

    @rule(version=VERSIONS, stage=st.sampled_from(("Production", "Staging", "Archived", "None")))
    def move_to_stage(self, version: str, stage: str) -> None:
        if version in self.world.registry.versions:
            if stage == "Production":
                self._ask(version)
            self.world.registry.move_to_stage(version, stage)

    def _asked(self) -> set[str]:
        staged = {
            v.version for v in self.world.registry.versions.values() if v.stage == "Production"
        }
        return staged | {self.world.registry.aliases.get("champion", "")}

    @precondition(lambda _: False)
    @rule(version=VERSIONS)
    def ask_for(self, version: str) -> None:
        """An alias asks for nothing here."""

    @precondition(lambda _: False)
    @rule()
    def withdraw(self) -> None:
        """Nor does its absence."""

    def check_converged(self) -> None:
        super().check_converged()
        serving = self.world.state.serving
        staged = {
            version.version
            for version in self.world.registry.versions.values()
            if version.stage == "Production"
        }
        expected = set() if serving is None else {serving.version}
        assert staged == expected & self.world.registry.versions.keys()


class Experiments(Rollouts):
    """An endpoint on which versions are compared as well."""

    guard: ClassVar[dict[str, Any]] = {"sticky": {}}

    @rule(
        arms=st.sets(st.sampled_from(GOOD), min_size=1, max_size=3),
        hours=st.integers(0, 1),
        looks=st.integers(0, 12),
    )
    def begin_experiment(self, arms: set[str], hours: int, looks: int) -> None:
        """As the command does: where nothing else is under way, of what was not turned down. Before it, something serves."""
        if self.memory.saved.state.serving is None and "6" in self.world.registry.versions:
            self._point("challenger", "6")
            for _ in range(12):
                self._tick(50)
        self._begin(arms, hours)
        for _ in range(looks):
            self._tick(20)

    def _begin(self, arms: set[str], hours: int) -> None:
        saved = self.memory.saved
        state, now = saved.state, self.world.clock()
        if state.serving is None or state.rollout or state.override or state.experiment:
            return
        free = arms - {state.serving.version} - state.rejected.keys() - self.memory.burned
        if not free:
            return
        experiment = replace(
            an_experiment(*sorted(free), endpoint=self.world.endpoint, share=40),
            id=f"chat-e-{saved.revision}",
            champion=state.serving.version,
            until=now + timedelta(minutes=5 + 25 * hours),
            phase_since=now,
        )
        self.memory.save(replace(state, experiment=experiment), expected=saved.revision)

    @rule()
    def stop_experiment(self) -> None:
        saved = self.memory.saved
        if saved.state.experiment is not None:
            stopped = replace(saved.state.experiment, stop="operator ada: enough")
            self.memory.save(replace(saved.state, experiment=stopped), expected=saved.revision)


_FEW = settings(max_examples=60, stateful_step_count=30)
_MANY = settings(max_examples=1_100, stateful_step_count=30, derandomize=False)
_MANY_STEPS = 25_000
"""Of each machine; an example has 27 steps in the mean, for it may end early."""

TestRollouts = Rollouts.TestCase
TestRollouts.settings = _FEW
TestExperiments = Experiments.TestCase
TestExperiments.settings = _FEW
TestStagedRollouts = StagedRollouts.TestCase
TestStagedRollouts.settings = _FEW


@pytest.mark.faults
@pytest.mark.promise(
    "every sentence of docs/invariants.md, in at least 25,000 random steps", about="anything"
)
@pytest.mark.timeout(1200)
class TestManyRollouts(Rollouts.TestCase):
    settings = _MANY

    def runTest(self) -> None:  # noqa: N802 - the library's name
        before = Rollouts.steps["Rollouts"]
        super().runTest()
        assert Rollouts.steps["Rollouts"] - before >= _MANY_STEPS


@pytest.mark.faults
@pytest.mark.promise(
    "every sentence of docs/invariants.md, in at least 25,000 random steps", about="anything"
)
@pytest.mark.timeout(1200)
class TestManyStagedRollouts(StagedRollouts.TestCase):
    settings = _MANY

    def runTest(self) -> None:  # noqa: N802 - the library's name
        before = Rollouts.steps["StagedRollouts"]
        super().runTest()
        assert Rollouts.steps["StagedRollouts"] - before >= _MANY_STEPS
