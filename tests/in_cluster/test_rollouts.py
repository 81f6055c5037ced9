"""Whole rollouts by controllers in a cluster: their states in ConfigMaps, their election by Lease, all on the stand-in.

Replicas are paused, followed and brought back at points of a tick that a random number chooses; whatever they do, users
meet no version that was turned down, and the rollout ends as it should.
"""

import base64
import contextlib
import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client

from deploy_targets.in_cluster.lease import LeaseLeadership
from deploy_targets.in_cluster.state_store import ConfigMapStore
from deploy_targets.rollout.audit import read_chain
from deploy_targets.rollout.controller import Controller, Unit
from deploy_targets.rollout.state import SCHEMA, Evidence
from deploy_targets.routing.traffic import Traffic
from registry.errors import StateConflict, TargetUnavailable, Unavailable
from tests.builders import a_version, an_endpoint
from tests.contracts.cluster_stage import ClusterStage
from tests.fakes import (
    FakeInspector,
    FakeRecord,
    FakeRegistry,
    FakeSmoke,
    FakeTarget,
    FakeTrail,
    FakeUsers,
    FakeWatcher,
)
from tests.in_cluster.worlds import TERMS, Steady, speaking_as


class Through:
    """A part of the world as one replica reaches it: after each call something may happen."""

    def __init__(self, part: Any, after: Callable[[str], None]) -> None:
        self._part = part
        self._after = after

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._part, name)
        if not callable(found):
            return found

        def call(*args: Any, **named: Any) -> Any:
            answer = found(*args, **named)
            self._after(name)
            return answer

        return call


class Replica:
    """One controller's process."""

    def __init__(self, world: "Replicas", name: str) -> None:
        self.name = name
        self.looks = 0
        self.lease = LeaseLeadership(
            speaking_as(world.server.admin, attempts=1),
            namespace=world.namespace,
            identity=name,
            terms=TERMS,
            clock=world.steady.clock,
            steady=world.steady,
        )

        def after(what: str) -> None:
            world.interrupt(self, what)

        unit = Unit(
            endpoint=world.endpoint,
            target=Through(world.target, after),
            counters=Through(world.users, after),
            smoke=world.smoke,
            record=world.record,
            trail=world.trail,
            inspector=world.inspector,
        )
        self.controller = Controller(
            (unit,),
            registry=Through(world.registry, after),
            store=Through(world.fresh_store(), after),
            clock=world.steady.clock,
            leads=self.lease.leads,
            watcher=FakeWatcher(),
        )

    def attempt(self) -> None:
        with contextlib.suppress(TargetUnavailable):
            self.lease.attempt()

    def tick(self) -> None:
        with contextlib.suppress(StateConflict, Unavailable):
            self.controller.tick("chat")


class Replicas:
    """One endpoint, and controllers for it."""

    def __init__(self, server: Any, *, seed: int = 0) -> None:
        self.server = server
        self.namespace = server.a_namespace()
        self.endpoint = an_endpoint()
        self.steady = Steady()
        self.random = random.Random(seed)
        self.registry = FakeRegistry(*(a_version(str(n)) for n in range(5, 9)))
        self.target = FakeTarget()
        self.users = FakeUsers(self.target, self.steady.clock)
        self.smoke = FakeSmoke()
        self.record = FakeRecord()
        self.trail = FakeTrail()
        self.inspector = FakeInspector()
        self.store = self.fresh_store()
        self.chance = 0.0
        self.flips = 0
        self._is_interrupted = False
        self.pause_of: Callable[[Replica, str], None] = self.random_pause
        self.replicas = [Replica(self, name) for name in "ab"]

    def fresh_store(self) -> ConfigMapStore:
        return ConfigMapStore(speaking_as(self.server.admin), namespace=self.namespace)

    @property
    def state(self) -> Any:
        return self.store.load("chat").state

    @property
    def outcomes(self) -> list[str]:
        return list(self.record.outcomes.values())

    def round(self, requests: int = 100) -> None:
        """Ten seconds, in which each replica renews or tries, and looks."""
        for _ in range(5):
            self.steady.advance(2)
            for one in self.replicas:
                one.attempt()
        self.users.send(requests)
        for one in self.random.sample(self.replicas, len(self.replicas)):
            one.tick()

    def release(self, version: str) -> None:
        self.registry.aliases["challenger"] = version
        for _ in range(40):
            self.round()
            if self.outcomes and self.state.rollout is None:
                break
        for _ in range(4):
            self.round()
        assert self.state.rollout is None

    def reach(self, version: str, percent: int) -> None:
        """Rolls on, with few requests, until that share is there."""
        for _ in range(40):
            if self.target.traffic.percent(version) >= percent:
                return
            self.round(20)
        pytest.fail(f"v{version} never got {percent} %")

    def interrupt(self, replica: Replica, what: str) -> None:
        """The replica is paused here: the other one follows, does what it thinks right, and perhaps dies in its turn."""
        if self._is_interrupted:
            return
        self._is_interrupted = True
        self.pause_of(replica, what)
        self._is_interrupted = False

    def random_pause(self, replica: Replica, _: str) -> None:
        """At the chance that is set."""
        if self.random.random() >= self.chance:
            return
        self.flips += 1
        (other,) = (one for one in self.replicas if one is not replica)
        other.attempt()
        self.steady.advance(TERMS.duration_s + 0.1)
        other.attempt()
        for _ in range(self.random.randrange(4)):
            self.users.send(50)
            other.tick()
            self.steady.advance(1)
            other.attempt()
        if self.random.random() < 0.5:
            # The other one is gone again, and the first leads anew before its tick goes on.
            replica.attempt()
            self.steady.advance(TERMS.duration_s + 0.1)
            replica.attempt()


@pytest.fixture
def serving(cluster: Any) -> Replicas:
    """v6 serves."""
    world = Replicas(cluster)
    world.release("6")
    return world


def leaders(world: Replicas) -> list[str]:
    return [one.name for one in world.replicas if one.lease._holds()]


def test_two_replicas_roll_out_as_one(serving: Replicas) -> None:
    serving.target.shifts.clear()
    serving.release("7")
    assert [shift.percent("7") for shift in serving.target.shifts] == [5, 25, 50, 100]
    assert serving.registry.aliases == {"champion": "7"}
    assert set(serving.target.revisions) == {"7"}
    assert len(leaders(serving)) == 1


@pytest.mark.promise("the other goes on where it was", about="controllers")
def test_a_leader_that_dies_in_mid_rollout_is_followed_and_nothing_is_begun_anew(
    serving: Replicas,
) -> None:
    serving.target.shifts.clear()
    serving.registry.aliases["challenger"] = "7"
    serving.reach("7", 25)
    before = serving.state.rollout
    (dead,) = (one for one in serving.replicas if one.lease._holds())
    serving.replicas.remove(dead)
    serving.round(20)
    assert serving.state.rollout.evidence.intervals == before.evidence.intervals  # not yet free
    serving.round(20)
    after = serving.state.rollout
    assert after.id == before.id
    assert after.evidence.challenger.requests > before.evidence.challenger.requests
    serving.release("7")
    assert [shift.percent("7") for shift in serving.target.shifts] == [5, 25, 50, 100]


def test_a_replica_that_is_started_anew_in_mid_rollout_goes_on_at_once_after_a_clean_end(
    serving: Replicas,
) -> None:
    serving.target.shifts.clear()
    serving.registry.aliases["challenger"] = "7"
    serving.reach("7", 25)
    for one in serving.replicas:
        one.lease.end()
    before = serving.state.rollout
    serving.replicas = [Replica(serving, "c")]
    serving.round(20)
    assert serving.state.rollout.id == before.id
    assert serving.state.rollout.evidence.intervals > before.evidence.intervals
    serving.release("7")
    assert [shift.percent("7") for shift in serving.target.shifts] == [5, 25, 50, 100]


@pytest.mark.promise("users meet only what was decided", about="controllers")
@pytest.mark.parametrize("is_bad", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_whoever_leads_and_for_however_long_users_meet_only_what_was_decided(
    cluster: Any, seed: int, *, is_bad: bool
) -> None:
    world = Replicas(cluster, seed=seed)
    world.release("6")
    world.users.failure_rates["7"] = 0.4 if is_bad else 0.0
    world.registry.aliases["challenger"] = "7"
    shift = world.target.shift

    def watched(traffic: Traffic) -> None:
        """Whatever is shifted was saved first, and names nothing that was turned down."""
        state = world.state
        roles = {
            None if state.serving is None else state.serving.version,
            None if state.rollout is None else state.rollout.challenger.version,
        }
        assert traffic.weights.keys() <= roles
        assert not traffic.weights.keys() & state.rejected.keys()
        shift(traffic)

    world.target.shift = watched  # type: ignore[method-assign]
    world.chance = 0.1
    was_rolled_back = False
    for _ in range(25):
        world.round()
        if "7" in world.state.rejected and not was_rolled_back:
            was_rolled_back = True
            world.target.shifts.clear()
        if was_rolled_back:
            assert not any(one.percent("7") for one in world.target.shifts)
    world.chance = 0.0
    for _ in range(12):
        world.round()
    survivor = "6" if is_bad else "7"
    assert world.flips >= 3
    assert world.target.traffic == Traffic.all_to(survivor)
    assert world.registry.aliases == {"champion": survivor}
    assert set(world.target.revisions) == {survivor}
    assert world.outcomes[-1] == ("rolled_back" if is_bad else "promoted")
    told = read_chain(world.trail.lines, endpoint="chat", tail=world.state.audit)
    assert told[-1].number == len(told) >= 10  # without a gap, whoever wrote it


@pytest.mark.parametrize("leads_anew", [False, True])
def test_a_step_that_was_saved_and_then_overtaken_by_a_rollback_is_never_taken(
    serving: Replicas, *, leads_anew: bool
) -> None:
    """The pause is between save and act; meanwhile the other one leads, rolls back, and is perhaps gone again."""
    serving.registry.aliases["challenger"] = "7"
    serving.reach("7", 5)
    overtaken: list[str] = []

    def overtake(replica: Replica, what: str) -> None:
        rollout = serving.state.rollout
        if what != "save" or overtaken or rollout is None or rollout.step == 0:
            return
        overtaken.append(replica.name)
        (other,) = (one for one in serving.replicas if one is not replica)
        other.attempt()
        serving.steady.advance(TERMS.duration_s + 0.1)
        other.attempt()
        serving.users.failure_rates["7"] = 1.0
        for _ in range(6):
            serving.steady.advance(2)
            other.attempt()
            serving.users.send(100)
            other.tick()
        assert serving.outcomes[-1] == "rolled_back"
        serving.target.shifts.clear()
        if leads_anew:
            other.lease.end()
            replica.attempt()

    serving.pause_of = overtake
    for _ in range(12):
        serving.round()
    assert overtaken
    assert not any(one.percent("7") for one in serving.target.shifts)
    assert serving.target.traffic == Traffic.all_to("6")
    assert serving.registry.aliases == {"champion": "6"}
    assert set(serving.target.revisions) == {"6"}


def test_an_upgrade_in_mid_rollout_goes_on_from_what_the_version_before_saved(
    serving: Replicas,
) -> None:
    """The state is rewritten as schema 1 had it: without what came since."""
    serving.target.shifts.clear()
    serving.registry.aliases["challenger"] = "7"
    serving.reach("7", 25)
    api = client.CoreV1Api(serving.server.admin)
    found = api.read_namespaced_config_map("shipway-state-chat", serving.namespace)
    document = json.loads(gzip.decompress(base64.b64decode(found.binary_data["state"])))
    rollout = document["rollout"]
    rollout["evidence"] = {"intervals": 3, "log_e_values": [0.1, -2.5], "peak_log_e": 0.1}
    rollout["verdict"] = {"decision": "hold", "reason": "9 of 30", "e_value": 1.1}
    rollout["points"] = [
        {key: point[key] for key in ("index", "at", "weight")} for point in rollout["points"]
    ]
    document["schema"] = 1
    packed = gzip.compress(json.dumps(document).encode())
    found.binary_data = {"state": base64.b64encode(packed).decode()}
    api.replace_namespaced_config_map("shipway-state-chat", serving.namespace, found)
    for one in serving.replicas:
        one.lease.end()
    serving.replicas = [Replica(serving, name) for name in "cd"]

    assert serving.state.rollout.evidence == Evidence()
    assert serving.state.rollout.step == rollout["step"]
    serving.release("7")
    assert [shift.percent("7") for shift in serving.target.shifts] == [5, 25, 50, 100]
    assert serving.outcomes[-1] == "promoted"
    assert serving.state.schema == SCHEMA


@pytest.mark.promise("traffic stays, and the rollout goes on")
def test_while_the_api_server_is_away_for_minutes_traffic_stays_and_then_goes_on(
    serving: Replicas,
) -> None:
    serving.target.shifts.clear()
    serving.registry.aliases["challenger"] = "7"
    serving.reach("7", 25)
    before = serving.state.rollout
    shifts = len(serving.target.shifts)
    serving.server.server.go_away()
    for _ in range(30):  # five minutes
        serving.round(20)
    assert leaders(serving) == []
    assert len(serving.target.shifts) == shifts
    serving.server.server.come_back()
    serving.round(20)
    serving.round(20)
    assert serving.state.rollout.id == before.id
    serving.release("7")
    assert [shift.percent("7") for shift in serving.target.shifts] == [5, 25, 50, 100]


def test_a_bad_challenger_is_rolled_back_once_the_api_server_is_there_again(
    serving: Replicas,
) -> None:
    serving.registry.aliases["challenger"] = "7"
    serving.reach("7", 5)
    serving.users.failure_rates["7"] = 0.5
    serving.server.server.go_away()
    for _ in range(12):
        serving.round(50)
    serving.server.server.come_back()
    serving.release("7")
    assert serving.target.traffic == Traffic.all_to("6")
    assert serving.outcomes[-1] == "rolled_back"


def test_state_and_route_in_one_cluster_come_back_together(cluster: Any, tmp_path: Path) -> None:
    """With the real adapter: the API server holds the state and the weights alike."""
    stage = ClusterStage("ray-serve", cluster, tmp_path)
    stage.store = ConfigMapStore(speaking_as(cluster.admin), namespace=stage.namespace)  # type: ignore[assignment]
    stage.restart()
    stage.release("6")
    stage.shifts.clear()
    stage.reach("7", 25)
    before = stage.state.rollout
    cluster.server.go_away()
    for _ in range(10):
        stage.clock.advance(30)
        with pytest.raises(TargetUnavailable):
            stage.controller.tick("chat")
    cluster.server.come_back()
    stage.restart()
    assert stage.state.rollout == before
    stage.finish()
    assert [traffic.percent("7") for traffic in stage.shifts] == [0, 5, 25, 50, 100]
    assert stage.registry.aliases == {"champion": "7"}


def test_a_shift_that_was_decided_on_other_weights_is_not_carried_out(
    cluster: Any, tmp_path: Path
) -> None:
    """The pause is after the last question who leads: only the route itself can tell that somebody else has acted."""
    stage = ClusterStage("ray-serve", cluster, tmp_path)
    stage.release("6")
    stage.reach("7", 5)
    paused = stage.fresh_target()
    paused.observe()
    stage.target.shift(Traffic.all_to("6"))

    with pytest.raises(TargetUnavailable, match="moved by somebody else"):
        paused.shift(Traffic(weights={"6": 75, "7": 25}))

    assert stage.traffic == Traffic.all_to("6")
    paused.observe()
    paused.shift(Traffic(weights={"6": 95, "7": 5}))
    assert stage.traffic.percent("7") == 5
