"""Who leads: two candidates for one Lease on the stand-in, each with its own steady clock."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from kubernetes import client

from deploy_targets.cluster import LEASE
from deploy_targets.in_cluster.election import Terms, held_spec, may_take, micro_time
from deploy_targets.in_cluster.lease import LeaseLeadership, hint_leader, is_renewed
from registry.errors import ObjectChanged, TargetRefused, TargetUnavailable
from tests.in_cluster.worlds import TERMS, Lossy, Steady, speaking_as


class Candidate:
    """One controller's process: its clock, its client, and what woke its loop."""

    def __init__(self, server: Any, namespace: str, name: str, steady: Steady) -> None:
        self.steady = steady
        self.looks = 0
        self.lossy = Lossy(server.admin)
        self.lease = LeaseLeadership(
            speaking_as(self.lossy, attempts=1),
            namespace=namespace,
            identity=name,
            terms=TERMS,
            clock=steady.clock,
            steady=steady,
        )
        self.lease._look = self._look  # as `begin` does, without its thread

    def _look(self, _: str | None) -> None:
        self.looks += 1

    def attempt(self) -> bool:
        self.lease.attempt()
        return self.lease.leads()


class Election:
    """Two candidates, whose clocks may differ and go together."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self.namespace = server.a_namespace()
        self.clocks = (Steady(), Steady())
        self.clocks[1].now_s = 5.0
        self.clocks[1].clock.advance(-7_200)  # its calendar is two hours slow: nobody may care
        self.a, self.b = (
            Candidate(server, self.namespace, name, steady)
            for name, steady in zip("ab", self.clocks, strict=True)
        )

    def advance(self, seconds: float) -> None:
        for one in self.clocks:
            one.advance(seconds)

    @property
    def record(self) -> Any:
        api = client.CoordinationV1Api(self.server.admin)
        return api.read_namespaced_lease("shipway-controller", self.namespace).spec


@pytest.fixture
def election(cluster: Any) -> Election:
    return Election(cluster)


def test_the_first_to_come_leads_and_the_other_waits(election: Election) -> None:
    assert not election.a.lease.leads()
    assert election.a.attempt()
    assert not election.b.attempt()
    assert (election.a.looks, election.b.looks) == (1, 0)
    assert election.record.holder_identity == "a"
    assert election.record.lease_duration_seconds == 15


def test_one_that_renews_goes_on_leading_without_a_new_look(election: Election) -> None:
    election.a.attempt()
    for _ in range(10):
        election.advance(2)
        assert election.a.attempt()
        assert not election.b.attempt()
    assert election.a.looks == 1
    assert election.record.lease_transitions == 0
    assert election.record.renew_time - election.record.acquire_time == 20 * (
        datetime(2026, 1, 1, 0, 0, 1, tzinfo=UTC) - datetime(2026, 1, 1, tzinfo=UTC)
    )


@pytest.mark.promise("never two at once", about="controllers")
def test_one_that_dies_is_followed_once_its_record_stood_still_for_the_whole_duration(
    election: Election,
) -> None:
    election.a.attempt()
    election.b.attempt()
    election.advance(14.9)
    assert not election.b.attempt()
    election.advance(0.2)
    assert election.b.attempt()
    assert election.record.lease_transitions == 1


def test_the_wait_begins_at_the_first_sight_and_not_at_the_time_that_the_record_names(
    election: Election,
) -> None:
    election.a.attempt()
    election.advance(3_600)
    assert not election.b.attempt()
    election.advance(15)
    assert election.b.attempt()


def test_who_was_paused_knows_it_before_it_asks_anybody(election: Election) -> None:
    election.a.attempt()
    election.advance(9.9)
    assert election.a.lease.leads()
    calls = len(election.a.lossy.calls)
    election.advance(0.2)
    assert not election.a.lease.leads()
    assert len(election.a.lossy.calls) == calls


def test_a_holder_gives_up_before_anybody_may_follow(election: Election) -> None:
    election.a.attempt()
    election.b.attempt()
    both = []
    for _ in range(40):
        election.advance(0.5)
        election.b.attempt()
        both.append(election.a.lease.leads() and election.b.lease.leads())
    assert not any(both)
    assert election.b.lease.leads()


def test_a_follower_knows_who_leads_and_nobody_knows_it_of_a_record_that_stands_still(
    election: Election,
) -> None:
    assert not election.b.lease.knows()
    election.a.attempt()
    election.b.attempt()
    assert election.a.lease.knows()
    assert election.b.lease.knows()
    election.advance(15)
    assert not election.a.lease.knows()
    assert not election.b.lease.knows()


def test_who_was_followed_while_paused_does_not_take_it_back(election: Election) -> None:
    election.a.attempt()
    election.b.attempt()
    election.advance(15)
    election.b.attempt()
    assert not election.a.attempt()
    assert election.record.holder_identity == "b"


def test_what_was_begun_under_an_earlier_leadership_is_not_carried_out_under_a_later_one(
    election: Election,
) -> None:
    """Lost and led again between two questions of one thread: it hears no once. Another thread never heard yes."""
    election.a.attempt()
    assert election.a.lease.leads()
    election.b.attempt()
    election.advance(15)
    assert election.b.attempt()
    election.b.lease.end()
    election.a.lease.attempt()
    heard: list[bool] = []
    other = threading.Thread(target=lambda: heard.append(election.a.lease.leads()))
    other.start()
    other.join()

    assert heard == [True]
    assert [election.a.lease.leads() for _ in range(3)] == [False, True, True]


def test_a_gap_in_renewals_in_which_nobody_followed_counts_as_lost_too(election: Election) -> None:
    election.a.attempt()
    assert election.a.lease.leads()
    election.advance(11)
    election.a.lease.attempt()
    assert [election.a.lease.leads() for _ in range(2)] == [False, True]
    assert election.a.looks == 2


def test_one_that_ends_is_followed_at_once(election: Election) -> None:
    election.a.attempt()
    election.b.attempt()
    election.a.lease.end()
    assert not election.a.lease.leads()
    assert election.record.holder_identity in {"", None}
    assert election.b.attempt()


def test_one_that_ends_without_leading_leaves_the_holder_alone(election: Election) -> None:
    election.a.attempt()
    election.b.attempt()
    election.b.lease.end()
    assert election.record.holder_identity == "a"


def test_one_that_ends_after_it_was_followed_leaves_the_holder_alone(election: Election) -> None:
    election.a.attempt()
    election.b.attempt()
    election.advance(15)
    election.b.attempt()
    election.a.lease._until_s = float("inf")  # as if it had not noticed
    election.a.lease.end()
    assert election.record.holder_identity == "b"


@pytest.mark.promise("never two at once", about="controllers")
def test_an_api_server_that_is_away_ends_leading_at_the_deadline_and_gives_it_back(
    election: Election,
) -> None:
    election.a.attempt()
    election.b.attempt()
    election.server.server.go_away()
    for _ in range(4):
        election.advance(2)
        with pytest.raises(TargetUnavailable):
            election.a.attempt()
        assert election.a.lease.leads()
    election.advance(2.1)
    assert not election.a.lease.leads()
    assert not election.a.lease.knows()
    election.advance(180)
    election.server.server.come_back()
    assert election.a.attempt()  # it had heard no, so it need not hear it again
    assert not election.b.attempt()


def test_a_candidate_that_saw_nothing_change_while_the_server_was_away_takes_over_after_it(
    election: Election,
) -> None:
    """Nobody could renew meanwhile, so nobody leads: whoever asks first may have it."""
    election.a.attempt()
    election.b.attempt()
    election.server.server.go_away()
    election.advance(180)
    election.server.server.come_back()
    assert election.b.attempt()
    assert not election.a.attempt()


def test_a_renewal_whose_answer_was_lost_does_not_count_and_does_no_harm(
    election: Election,
) -> None:
    election.a.attempt()
    election.advance(8)
    election.a.lossy.lose_next = "answer"
    with pytest.raises(TargetUnavailable):
        election.a.attempt()
    election.advance(2.1)
    assert not election.a.lease.leads()
    assert election.a.attempt()
    assert election.record.lease_transitions == 0


def test_a_renewal_that_took_long_counts_from_when_it_was_asked_for(election: Election) -> None:
    election.a.attempt()
    call = election.a.lossy._api.call_api

    def slow(method: str, *rest: Any, **more: Any) -> Any:
        if method == "PUT":
            election.advance(6)
        return call(method, *rest, **more)

    election.a.lossy._api.call_api = slow
    election.a.attempt()
    election.advance(3.9)
    assert election.a.lease.leads()
    election.advance(0.2)
    assert not election.a.lease.leads()


def test_of_two_that_take_a_free_lease_at_once_one_gets_it(election: Election) -> None:
    election.a.attempt()
    election.a.lease.end()
    call = election.a.lossy._api.call_api

    def after_the_other(method: str, *rest: Any, **more: Any) -> Any:
        if method == "PUT":
            election.a.lossy._api.call_api = call
            election.b.attempt()
        return call(method, *rest, **more)

    election.a.lossy._api.call_api = after_the_other
    with pytest.raises(ObjectChanged):
        election.a.attempt()
    assert not election.a.lease.leads()
    assert election.b.lease.leads()


def test_a_hint_that_reaches_a_follower_is_passed_on_to_the_leader(election: Election) -> None:
    election.a.attempt()
    election.b.attempt()
    election.b.lease.hint()
    assert (election.a.looks, election.b.looks) == (1, 0)
    election.b.attempt()
    election.a.attempt()
    election.a.attempt()
    assert (election.a.looks, election.b.looks) == (2, 0)
    election.a.lease.hint()
    assert election.a.looks == 3


@pytest.mark.promise("few writes, and none is overlooked", about="hints")
def test_of_many_hints_at_once_few_are_written_and_the_last_is_told_too(election: Election) -> None:
    """Each write of a follower's may cross a renewal of the leader's."""
    election.a.attempt()
    election.b.attempt()
    before = election.b.lossy.calls.count("PUT")
    for _ in range(40):
        election.advance(0.05)
        election.b.lease.hint()
        if election.b.lease._bell.is_set():
            election.b.lease._bell.clear()
            election.b.attempt()
    election.a.attempt()
    told = election.a.looks
    assert election.b.lossy.calls.count("PUT") - before <= 2
    assert told == 2

    election.b.lease.hint()
    election.advance(2)
    election.b.attempt()
    election.a.attempt()
    assert election.a.looks == 3


@pytest.mark.promise("another one follows", about="hints")
def test_hints_do_not_keep_a_dead_leader_in_office(election: Election) -> None:
    election.a.attempt()
    election.b.attempt()
    for _ in range(15):
        election.advance(1)
        election.b.lease.hint()
        election.b.attempt()
    assert election.b.lease.leads()


def asked(election: Election, question: Callable[..., bool], *rest: Any, sleep: Any) -> bool:
    return question(
        speaking_as(election.server.admin),
        *rest,
        namespace=election.namespace,
        terms=TERMS,
        sleep=sleep,
    )


def test_somebody_outside_has_the_leader_look_and_learns_whether_there_is_one(
    election: Election,
) -> None:
    def still(seconds: float) -> None:
        election.advance(seconds)

    def renewing(seconds: float) -> None:
        election.advance(seconds)
        election.a.attempt()

    assert not asked(election, hint_leader, sleep=still)
    election.a.attempt()
    assert asked(election, hint_leader, sleep=renewing)
    assert election.a.looks == 2
    assert not asked(election, hint_leader, sleep=still)
    election.a.lease.end()
    assert not asked(election, hint_leader, sleep=still)


def test_a_lease_that_is_taken_over_while_it_is_watched_is_renewed(election: Election) -> None:
    election.a.attempt()
    lease = speaking_as(election.server.admin).get(LEASE, election.namespace, "shipway-controller")
    election.a.lease.end()
    assert asked(election, is_renewed, lease, sleep=lambda _: election.b.lease.attempt())


def test_an_account_without_the_rule_does_not_lead_and_is_told_which(cluster: Any) -> None:
    namespace = cluster.a_namespace()
    rules = [
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create"]}
    ]
    api = cluster.an_account(namespace, "half", rules)
    steady = Steady()
    lease = LeaseLeadership(
        speaking_as(api, attempts=1),
        namespace=namespace,
        identity="a",
        terms=TERMS,
        clock=steady.clock,
        steady=steady,
    )
    lease.attempt()
    steady.advance(11)
    with pytest.raises(TargetRefused, match=r"resources \[leases\], verbs \[update\]"):
        lease.attempt()
    assert not lease.leads()


def test_a_thread_keeps_the_lease_and_lets_it_go_at_the_end(cluster: Any) -> None:
    """On the real clock, with short pauses; nothing here waits for a Lease to run out."""
    namespace = cluster.a_namespace()
    terms = Terms(duration_s=60, renew_deadline_s=40, retry_s=0.05)
    looked = {name: threading.Event() for name in "ab"}
    candidates = {
        name: LeaseLeadership(
            speaking_as(cluster.admin, attempts=1),
            namespace=namespace,
            identity=name,
            terms=terms,
            clock=lambda: datetime.now(UTC),
        )
        for name in "ab"
    }
    candidates["a"].begin(lambda _: looked["a"].set())
    assert looked["a"].wait(30)
    candidates["b"].begin(lambda _: looked["b"].set())
    assert candidates["a"].leads()
    assert not candidates["b"].leads()
    cluster.server.go_away()
    cluster.server.come_back()
    looked["a"].clear()
    candidates["b"].hint()
    assert looked["a"].wait(30)
    candidates["a"].end()
    assert looked["b"].wait(30)
    assert candidates["b"].leads()
    candidates["b"].end()
    assert not any(one.leads() for one in candidates.values())


def test_the_record_of_longer_terms_is_respected() -> None:
    spec = {"holderIdentity": "other", "leaseDurationSeconds": 60}
    assert not may_take(spec, identity="me", unchanged_s=59, terms=TERMS)
    assert may_take(spec, identity="me", unchanged_s=60, terms=TERMS)
    assert not may_take(
        {**spec, "leaseDurationSeconds": 1}, identity="me", unchanged_s=14, terms=TERMS
    )


def test_a_time_is_spelt_with_its_microseconds_even_where_they_are_zero() -> None:
    """Without them the API server answers 400: a Lease takes micro-times alone."""
    whole = datetime(2026, 11, 24, 12, 0, 0, 0, tzinfo=UTC)
    assert micro_time(whole) == "2026-11-24T12:00:00.000000Z"
    spec = held_spec({}, identity="me", terms=TERMS, now=whole)
    assert spec["renewTime"] == spec["acquireTime"] == micro_time(whole)
