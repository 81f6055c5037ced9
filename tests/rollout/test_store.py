"""The promise of every store: a state comes back as it was, and only the first of two savers wins."""

import json
import re
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from deploy_targets.cluster import Cluster
from deploy_targets.endpoint import Endpoint
from deploy_targets.in_cluster.state_store import ConfigMapStore
from deploy_targets.rollout.state import (
    SCHEMA,
    Counts,
    EndedRollout,
    EndpointState,
    Evidence,
    Hold,
    MetricEvidence,
    Outcome,
    Override,
    Point,
    Reading,
    RolloutState,
    Scrape,
)
from deploy_targets.rollout.store import SqliteStore, dump_state, parse_state
from registry.errors import StateConflict, StateUnreadable
from registry.release import Release
from tests.builders import (
    NOON,
    a_digest,
    a_release,
    a_state,
    an_endpoint,
    an_exposed_rollout,
)

A_METRIC = MetricEvidence(
    signature="counted",
    totals=(95.0, 1.0, 5.0, 0.0),
    moments=(1.0, 0.01, 0.0, 0.0001, 0.0, 0.0),
    mixture=(0.1, -2.5),
    at_most=(0.0, -0.3),
    at_least=(0.2, 0.0),
    peak=0.1,
    compared=5.0,
)


def a_full_state():
    rollout = RolloutState(
        id="chat-v7",
        champion="6",
        challenger=a_release("7"),
        started=NOON,
        phase_since=NOON,
        exposed_since=NOON,
        evidence=Evidence(
            intervals=3,
            challenger=Counts(requests=3, within=(1, 2)),
            metrics={"errors": A_METRIC},
        ),
        points=(
            Point(
                index=0,
                at=NOON,
                weight=5,
                champion=Counts(duration_s=0.1),
                readings=(Reading(metric="errors", e_value=1.2, bound=100.0, low=None, high=0.05),),
            ),
        ),
    )
    return replace(
        a_state(),
        served=(a_release("4"), a_release("5")),
        rollout=rollout,
        rejected={"4": "bad"},
        idle_since={"5": NOON},
        override=Override(to=a_release("5"), reason="operator", by="ada"),
        hold=Hold(reason="the fair is on", by="ada"),
        scrape=Scrape(at=NOON, source="1", totals={"6": Counts(requests=1)}),
        unreported=(
            EndedRollout(rollout=rollout, outcome=Outcome.PROMOTED, reason="ok", ended=NOON),
        ),
    )


@pytest.fixture(params=["sqlite", "config maps"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Any]:
    """A new client of one and the same store, at each call."""
    if request.param == "sqlite":
        return lambda: SqliteStore(tmp_path / "s.db")
    server = request.getfixturevalue("cluster")
    namespace = server.a_namespace()
    return lambda: ConfigMapStore(
        Cluster(server.admin, sleep=lambda _: None, jitter=lambda: 0.0), namespace=namespace
    )


def test_what_was_never_saved_is_empty(store: Callable[[], Any]) -> None:
    assert store().load("chat") == (EndpointState(endpoint="chat"), "")
    assert store().states() == ()


def test_a_state_comes_back_as_it_was_saved(store: Callable[[], Any]) -> None:
    state = a_full_state()
    revision = store().save(state, expected="")
    assert store().load("chat") == (state, revision)
    assert store().states() == (state,)


def test_of_two_savers_from_the_same_revision_the_second_is_told(store: Callable[[], Any]) -> None:
    revision = ""
    for _ in range(2):
        after = store().save(a_state(), expected=revision)
        assert after not in {"", revision}
        with pytest.raises(StateConflict, match="somebody else saved it"):
            store().save(a_state("9"), expected=revision)
        revision = after
    assert store().load("chat") == (a_state(), revision)


def test_endpoints_do_not_meet(store: Callable[[], Any]) -> None:
    other = replace(a_state("3"), endpoint="other")
    store().save(a_state(), expected="")
    store().save(other, expected="")
    assert store().load("chat").state == a_state()
    assert store().load("other").state == other
    assert sorted(one.endpoint for one in store().states()) == ["chat", "other"]


@pytest.mark.parametrize(
    "document",
    [
        '{"schema": 99}',
        '{"schema": "\\ud800"}',
        '{"schema": 4, "endpoint": "chat", "scrape": {"at": "2026-11-24T12:00:00Z", "source": "1", "totals": {"6": {"duration_s": NaN}}}}',
        "{",
        '{"schema": 4, "endpoint": ' + "[" * 5000,
        '{"schema": 1, "endpoint": 3}',
        "[]",
        '{"schema": 1, "endpoint": "chat", "rollout": [1]}',
        '{"schema": 4, "endpoint": "chat", "rollout": "v7"}',
        '{"schema": 4, "endpoint": "chat", "unreported": [{}]}',
        '{"schema": 4, "endpoint": "chat", "unreported": "v7"}',
    ],
)
def test_a_state_of_another_schema_is_refused_not_guessed(tmp_path: Path, document: str) -> None:
    store = SqliteStore(tmp_path / "s.db")
    store.save(a_state(), expected="")
    with sqlite3.connect(tmp_path / "s.db") as connection:
        connection.execute("UPDATE endpoint_state SET document = ?", (document,))
    connection.close()
    with pytest.raises(StateUnreadable) as told:
        store.load("chat")
    str(told.value).encode()


def test_a_rollout_saved_by_schema_1_goes_on_and_is_judged_anew() -> None:
    """As the version before wrote it: one metric's e-values in the evidence, in the verdict and at each point."""
    old = {
        "schema": 1,
        "endpoint": "chat",
        "rollout": {
            "id": "chat-v7",
            "champion": "6",
            "challenger": {
                "model": "smollm2",
                "version": "7",
                "source": "s3://shipway/models/7",
                "digest": a_release("7").digest,
            },
            "phase": "stepping",
            "started": NOON.isoformat(),
            "phase_since": NOON.isoformat(),
            "evidence": {
                "intervals": 3,
                "champion": {"requests": 9, "errors": 0, "duration_s": 1.0},
                "log_e_values": [0.1, -2.5],
                "peak_log_e": 0.1,
            },
            "verdict": {"decision": "hold", "reason": "9 of 30", "e_value": 1.1},
            "points": [{"index": 0, "at": NOON.isoformat(), "weight": 5, "e_value": 1.1}],
        },
    }
    state = parse_state(json.dumps(old))
    assert state.schema == SCHEMA
    assert state.rollout is not None
    assert state.rollout.evidence == Evidence()
    assert state.rollout.points[0].weight == 5


def test_a_state_that_was_saved_before_answers_were_judged_reads_as_none_judged() -> None:
    state = a_full_state()
    older = re.sub(r',"judged":0,"bad":0', "", dump_state(state).decode())
    assert "judged" not in older
    assert parse_state(older) == state


def test_a_state_of_schema_3_loads_whole_and_what_it_cannot_hold_has_another_number() -> None:
    state = replace(a_state(), rollout=an_exposed_rollout(declared=an_endpoint()))
    document = json.loads(dump_state(state))
    assert document["schema"] > 3, "code that knows no experiments would forget one that is saved"
    new = ("experiment", "experiment_evidence", "past_experiments")
    older = {name: value for name, value in document.items() if name not in new} | {"schema": 3}
    assert parse_state(json.dumps(older)) == state


def test_what_served_before_by_schema_2_is_still_where_a_rollback_goes() -> None:
    fields = {"model": "smollm2", "version": "5", "source": "s3://b/5", "digest": a_digest("5")}
    old = {"schema": 2, "endpoint": "chat", "previous": fields}
    state = parse_state(json.dumps(old))
    assert state.previous == Release(**fields)
    assert parse_state(json.dumps({**old, "previous": None})).previous is None


def test_a_policy_that_is_valid_no_longer_is_dropped_and_the_rollout_goes_on() -> None:
    rollout = an_exposed_rollout(declared=an_endpoint())
    text = TypeAdapter(EndpointState).dump_json(replace(a_state(), rollout=rollout))
    document = json.loads(text)
    assert parse_state(json.dumps(document)).rollout == rollout
    document["rollout"]["declared"]["rollout"]["a_rule_of_old"] = 1
    assert parse_state(json.dumps(document)).rollout == replace(rollout, declared=None)


def test_a_policy_is_kept_though_its_defaults_may_not_be_declared_where_it_runs() -> None:
    document = {"name": "chat", "model": "smollm2", "target": "local-triton", "triton": {}}
    endpoint = Endpoint.model_validate(document)
    state = replace(a_state(), rollout=an_exposed_rollout(declared=endpoint))
    assert parse_state(dump_state(state)) == state


def test_an_ended_rollout_whose_policy_is_valid_no_longer_can_still_be_told() -> None:
    rollout = an_exposed_rollout(declared=an_endpoint())
    ended = EndedRollout(rollout=rollout, outcome=Outcome.PROMOTED, reason="ok", ended=NOON)
    text = TypeAdapter(EndpointState).dump_json(replace(a_state(), unreported=(ended,)))
    document = json.loads(text)
    document["unreported"][0]["rollout"]["declared"]["a_rule_of_old"] = 1
    (told,) = parse_state(json.dumps(document)).unreported
    assert told.rollout == replace(rollout, declared=None)
