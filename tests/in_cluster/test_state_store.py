"""What is the ConfigMaps' own: lost answers, size, damage. What every store promises is in `tests/rollout/test_store.py`."""

import base64
import gzip
import hashlib
import json
import random
from dataclasses import replace
from typing import Any

import pytest
from kubernetes import client

from deploy_targets.in_cluster import state_store
from deploy_targets.in_cluster.state_store import ConfigMapStore
from deploy_targets.rollout.audit import MAX_PENDING_BYTES
from deploy_targets.rollout.state import (
    SCHEMA,
    AuditTail,
    EndedRollout,
    EndpointState,
    Evidence,
    Outcome,
    Point,
    Reading,
)
from registry.errors import (
    AnswerLost,
    StateConflict,
    StateTooLarge,
    StateUnreadable,
    TargetRefused,
    TargetUnavailable,
)
from tests.builders import NOON, a_release, a_state, an_exposed_rollout
from tests.in_cluster.worlds import Lossy, speaking_as


@pytest.fixture
def namespace(cluster: Any) -> str:
    return cluster.a_namespace()


@pytest.fixture
def lossy(cluster: Any) -> Lossy:
    return Lossy(cluster.admin)


@pytest.fixture
def store(lossy: Lossy, namespace: str) -> ConfigMapStore:
    return ConfigMapStore(speaking_as(lossy), namespace=namespace)


def stored(cluster: Any, namespace: str, name: str = "shipway-state-chat") -> Any:
    return client.CoreV1Api(cluster.admin).read_namespaced_config_map(name, namespace)


def test_a_state_is_one_labelled_config_map_that_people_can_read(
    cluster: Any, store: ConfigMapStore, namespace: str
) -> None:
    store.save(a_state(), expected="")

    found = stored(cluster, namespace)
    assert found.metadata.labels["app.kubernetes.io/component"] == "rollout-state"
    assert found.metadata.labels["app.kubernetes.io/instance"] == "chat"
    document = json.loads(gzip.decompress(base64.b64decode(found.binary_data["state"])))
    assert document["serving"]["version"] == "6"


@pytest.mark.promise("nothing is decided twice")
@pytest.mark.parametrize("is_first", [True, False])
def test_a_save_whose_answer_was_lost_is_found_and_not_repeated(
    store: ConfigMapStore, lossy: Lossy, *, is_first: bool
) -> None:
    expected = "" if is_first else store.save(a_state("5"), expected="")
    lossy.calls.clear()
    lossy.lose_next = "answer"

    revision = store.save(a_state(), expected=expected)

    assert lossy.calls == ["POST" if is_first else "PUT", "GET"]
    assert store.load("chat") == (a_state(), revision)


@pytest.mark.parametrize("is_first", [True, False])
def test_a_save_that_arrives_late_was_not_reported_as_done_and_loses_no_later_one(
    store: ConfigMapStore, lossy: Lossy, *, is_first: bool
) -> None:
    expected = "" if is_first else store.save(a_state("5"), expected="")
    lossy.lose_next = "request"
    with pytest.raises(AnswerLost, match="not known"):
        store.save(a_state("8"), expected=expected)

    revision = store.save(a_state("6"), expected=expected)
    with pytest.raises(client.ApiException):  # it comes too late: 409
        cluster_answer(lossy.late.pop())
    assert store.load("chat") == (a_state("6"), revision)


def cluster_answer(late: Any) -> None:
    """Has a late request arrive; a refusal is an exception, as the generated client has it."""
    body = json.loads(late())
    if body.get("kind") == "Status":
        raise client.ApiException(status=body["code"])


@pytest.mark.promise("nothing is decided from what is out of date")
def test_a_save_that_arrives_late_and_first_makes_the_next_one_read_again(
    store: ConfigMapStore, lossy: Lossy
) -> None:
    expected = store.save(a_state("5"), expected="")
    lossy.lose_next = "request"
    with pytest.raises(AnswerLost):
        store.save(a_state("8"), expected=expected)
    cluster_answer(lossy.late.pop())

    with pytest.raises(StateConflict):
        store.save(a_state("6"), expected=expected)
    assert store.load("chat").state == a_state("8")


def test_a_lost_answer_after_which_somebody_else_saved_is_not_taken_for_done(
    cluster: Any, store: ConfigMapStore, lossy: Lossy, namespace: str
) -> None:
    expected = store.save(a_state("5"), expected="")
    other = ConfigMapStore(speaking_as(cluster.admin), namespace=namespace)
    lossy.lose_next = "request"
    get = lossy._api.call_api

    def another_saves_first(method: str, *rest: Any, **more: Any) -> Any:
        lossy._api.call_api = get
        other.save(a_state("9"), expected=expected)
        return get(method, *rest, **more)

    lossy._api.call_api = another_saves_first
    with pytest.raises(AnswerLost):
        store.save(a_state("6"), expected=expected)
    assert store.load("chat").state == a_state("9")


@pytest.mark.parametrize("code", [500, 503, 504])
def test_a_fault_of_the_server_leaves_it_open_and_nothing_is_repeated(
    cluster: Any, store: ConfigMapStore, lossy: Lossy, code: int
) -> None:
    cluster.server.faults.answer_next(code, verbs=("create",), plural="configmaps")
    with pytest.raises(AnswerLost, match=str(code)):
        store.save(a_state(), expected="")
    assert lossy.calls == ["POST", "GET"]


def test_a_server_that_throttles_is_asked_again_for_nothing_was_begun(
    cluster: Any, store: ConfigMapStore, lossy: Lossy
) -> None:
    cluster.server.faults.answer_next(429, verbs=("create",), plural="configmaps", times=2)
    store.save(a_state(), expected="")
    assert lossy.calls == ["POST"] * 3


def test_an_api_server_that_is_away_is_told_and_changes_nothing(
    cluster: Any, store: ConfigMapStore
) -> None:
    revision = store.save(a_state(), expected="")
    cluster.server.go_away()
    with pytest.raises(TargetUnavailable):
        store.load("chat")
    with pytest.raises(TargetUnavailable):
        store.save(a_state("9"), expected=revision)
    cluster.server.come_back()
    assert store.load("chat") == (a_state(), revision)


def test_a_state_that_was_deleted_meanwhile_is_a_conflict_and_then_a_new_beginning(
    cluster: Any, store: ConfigMapStore, namespace: str
) -> None:
    revision = store.save(a_state(), expected="")
    client.CoreV1Api(cluster.admin).delete_namespaced_config_map("shipway-state-chat", namespace)
    with pytest.raises(StateConflict):
        store.save(a_state("9"), expected=revision)
    assert store.load("chat").revision == ""


@pytest.mark.parametrize(
    "data",
    [
        None,
        {"other": ""},
        {"state": base64.b64encode(b"no gzip").decode()},
        {"state": base64.b64encode(gzip.compress(b"{}")[:-4]).decode()},
        {"state": base64.b64encode(gzip.compress(b'{"schema": 99}')).decode()},
    ],
)
def test_a_damaged_state_is_refused_not_guessed(
    cluster: Any, store: ConfigMapStore, namespace: str, data: Any
) -> None:
    body = {"metadata": {"name": "shipway-state-chat"}, "binaryData": data}
    client.CoreV1Api(cluster.admin).create_namespaced_config_map(namespace, body)
    with pytest.raises(StateUnreadable):
        store.load("chat")


def test_what_the_service_account_lacks_is_named_as_a_rule(cluster: Any, namespace: str) -> None:
    rules = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}]
    api = cluster.an_account(namespace, "reader", rules)
    store = ConfigMapStore(speaking_as(api), namespace=namespace)
    with pytest.raises(TargetRefused, match=r"resources \[configmaps\], verbs \[create\]"):
        store.save(a_state(), expected="")


def a_long_rollout(points: int = 1_000, metrics: int = 3) -> Any:
    """Digits that no compression takes away: e-values as simulations give them."""
    chart = tuple(
        Point(
            index=index,
            at=NOON,
            weight=5,
            readings=tuple(
                Reading(
                    metric=f"metric_{metric}",
                    e_value=((index * 7919 + metric) * 0.6180339887) % 1,
                    bound=100.0,
                    low=((index * 104729 + metric) * 0.7548776662) % 1,
                    high=((index * 1299709 + metric) * 0.5698402910) % 1,
                )
                for metric in range(metrics)
            ),
        )
        for index in range(points)
    )
    return an_exposed_rollout(points=chart)


def test_the_longest_rollout_fits_with_one_that_mlflow_was_not_told_of(
    store: ConfigMapStore,
) -> None:
    rollout = a_long_rollout(metrics=6)
    ended = EndedRollout(rollout=rollout, outcome=Outcome.PROMOTED, reason="ok", ended=NOON)
    state = replace(a_state(), rollout=rollout, unreported=(ended,))
    store.save(state, expected="")
    assert store.load("chat").state == state


def test_charts_are_left_out_before_a_decision_is(
    store: ConfigMapStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rollout = a_long_rollout(points=200)
    ended = EndedRollout(rollout=rollout, outcome=Outcome.PROMOTED, reason="ok", ended=NOON)
    state = replace(a_state(), rollout=rollout, unreported=(ended,) * 3)
    revision = ""
    for limit, charts in ((30_000, [200, 1, 1, 1]), (5_000, [1, 1, 1, 1])):
        monkeypatch.setattr(state_store, "_MAX_BYTES", limit)
        revision = store.save(state, expected=revision)
        found = store.load("chat").state
        assert found.rollout is not None
        every = (found.rollout, *(one.rollout for one in found.unreported))
        assert [len(one.points) for one in every] == charts
        assert {one.points[-1] for one in every} == {rollout.points[-1]}
        assert "charts.dropped" in capsys.readouterr().out


def test_a_state_that_does_not_fit_without_charts_either_is_refused_by_its_size(
    store: ConfigMapStore,
) -> None:
    reasons = {str(n): hashlib.sha256(str(n).encode()).hexdigest() for n in range(40_000)}
    with pytest.raises(StateTooLarge, match=r"takes \d{7} bytes.*see that MLflow answers"):
        store.save(replace(a_state(), rejected=reasons), expected="")
    assert store.load("chat").revision == ""


def test_a_rollout_of_schema_1_goes_on_after_an_upgrade_and_is_saved_as_today(
    cluster: Any, store: ConfigMapStore, namespace: str
) -> None:
    document = {
        "schema": 1,
        "endpoint": "chat",
        "serving": {
            "model": "smollm2",
            "version": "6",
            "source": "s3://shipway/models/6",
            "digest": a_release("6").digest,
        },
    }
    packed = base64.b64encode(gzip.compress(json.dumps(document).encode())).decode()
    body = {"metadata": {"name": "shipway-state-chat"}, "binaryData": {"state": packed}}
    client.CoreV1Api(cluster.admin).create_namespaced_config_map(namespace, body)

    saved = store.load("chat")
    store.save(replace(saved.state, rollout=an_exposed_rollout()), expected=saved.revision)

    after = store.load("chat").state
    assert (after.schema, after.serving) == (SCHEMA, a_release("6"))
    assert after.rollout is not None
    assert after.rollout.evidence == Evidence()


def test_the_longest_record_that_waits_fits_even_where_it_hardly_compresses() -> None:
    letters = base64.b64encode(random.Random(1).randbytes(750_000)).decode()
    lines = tuple(letters[at : at + 10_000] for at in range(0, len(letters), 10_000))
    assert sum(map(len, lines)) == MAX_PENDING_BYTES
    state = EndpointState(endpoint="chat", audit=AuditTail(pending=lines))
    assert len(state_store._packed(state)) < 800_000
