"""Runs in a real MLflow: closed whatever happens, cut to what is kept, found again."""

import json
from datetime import UTC, datetime
from time import monotonic
from typing import Any
from uuid import uuid4

import pytest

from registry.errors import RegistryUnavailable
from registry.settings import RegistrySettings
from registry.tracking import Tracking, connect_mlflow

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def tracking(servers: Any) -> Tracking:
    return servers.tracking


@pytest.fixture
def experiment(tracking: Tracking) -> str:
    return tracking.experiment(f"tracking-{uuid4().hex[:8]}")


@pytest.fixture
def run(tracking: Tracking, experiment: str) -> str:
    return tracking.create_run(experiment_id=experiment, name="a run", tags={})


def away() -> Tracking:
    return Tracking(connect_mlflow(RegistrySettings(tracking_uri="http://127.0.0.1:1")))


class Broken(Exception):
    """What a stage may raise."""


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (None, "FINISHED", None),
        (Broken("the disk is full"), "FAILED", "Broken: the disk is full"),
        (SystemExit(3), "FAILED", "SystemExit: 3"),
        (KeyboardInterrupt(), "KILLED", "KeyboardInterrupt: "),
    ],
)
def test_a_run_is_closed_as_it_ended(
    servers: Any,
    tracking: Tracking,
    experiment: str,
    error: BaseException | None,
    status: str,
    told: str | None,
) -> None:
    run_ids: list[str] = []

    def work() -> None:
        with tracking.run(experiment_id=experiment, name="work") as run_id:
            run_ids.append(run_id)
            if error is not None:
                raise error

    if error is None:
        work()
    else:
        with pytest.raises(type(error)):
            work()
    found = servers.client.get_run(run_ids[0])
    assert found.info.status == status
    assert found.data.tags.get("shipway.error") == told


def test_a_run_that_cannot_be_closed_still_raises_what_went_wrong(
    tracking: Tracking, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = away()

    def work() -> None:
        with tracking.run(experiment_id=experiment, name="work"):
            monkeypatch.setattr(tracking, "_client", lost._client)
            raise Broken

    with pytest.raises(Broken) as caught:
        work()
    assert "could not be marked FAILED" in caught.value.__notes__[0]


def test_a_child_run_names_its_parent_and_a_resumed_run_is_the_same(
    servers: Any, tracking: Tracking, experiment: str
) -> None:
    with (
        tracking.run(experiment_id=experiment, name="release") as parent,
        tracking.run(experiment_id=experiment, name="stage", parent_run_id=parent) as child,
    ):
        pass
    with tracking.run(
        experiment_id=experiment, name="release", run_id=parent, tags={"again": "yes"}
    ) as resumed:
        assert servers.client.get_run(resumed).data.tags["again"] == "yes"
    assert resumed == parent
    assert servers.client.get_run(child).data.tags["mlflow.parentRunId"] == parent
    assert tracking.experiment_of(child) == experiment


def test_an_experiment_is_made_once(tracking: Tracking) -> None:
    name = f"tracking-{uuid4().hex[:8]}"
    assert tracking.experiment(name) == tracking.experiment(name)


def test_long_texts_are_cut_to_what_mlflow_keeps(
    servers: Any, tracking: Tracking, run: str
) -> None:
    tracking.log_params(run, {"long": "p" * 7_000, "number": 3})
    tracking.set_tags(run, {"long": "t" * 9_000})
    data = servers.client.get_run(run).data
    assert data.params == {"long": "p" * 6_000, "number": "3"}
    assert data.tags["long"] == "t" * 8_000


def test_metrics_lie_at_their_step_and_their_time(
    servers: Any, tracking: Tracking, run: str
) -> None:
    at = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
    tracking.log_metrics(run, {"weight": 5, "errors": 1}, step=3, at=at)
    (point,) = servers.client.get_metric_history(run, "weight")
    assert (point.value, point.step, point.timestamp) == (5.0, 3, int(at.timestamp() * 1000))


def test_the_next_step_follows_the_highest_one(tracking: Tracking, run: str) -> None:
    assert tracking.next_step(run, "weight") == 0
    for step in (0, 1, 1):
        tracking.log_metrics(run, {"weight": 5}, step=step)
    assert tracking.next_step(run, "weight") == 2


def test_inputs_are_the_runs_datasets_with_their_whole_digest(
    servers: Any, tracking: Tracking, run: str
) -> None:
    digest = "sha256:" + "ab" * 32
    address = "s3://bucket/" + "x" * 600
    tracking.log_inputs(run, {"calibration": (address, digest)})
    (one,) = servers.client.get_run(run).inputs.dataset_inputs
    assert one.dataset.digest == "ab" * 16
    assert address.endswith(one.dataset.name)
    assert json.loads(one.dataset.source) == {"address": address, "digest": digest}
    assert [(tag.key, tag.value) for tag in one.tags] == [("mlflow.data.context", "calibration")]


def test_artifacts_lie_where_they_were_named(servers: Any, tracking: Tracking, run: str) -> None:
    tracking.log_text(run, "a: 1\n", "policy.yaml")
    tracking.log_bytes(run, b"\x89PNG", "pictures/rollout.png")
    listed = {item.path for item in servers.client.list_artifacts(run)}
    assert listed == {"policy.yaml", "pictures"}
    assert [item.path for item in servers.client.list_artifacts(run, "pictures")] == [
        "pictures/rollout.png"
    ]


def test_runs_are_searched_newest_first_and_found_by_tag(
    tracking: Tracking, experiment: str
) -> None:
    runs = [
        tracking.create_run(experiment_id=experiment, name=f"run {n}", tags={"who": str(n % 2)})
        for n in range(4)
    ]
    found = tracking.search(experiment, "tags.`who` = '1'", limit=10)
    assert {one["run_id"] for one in found} == {runs[1], runs[3]}
    assert [one["start_time"] for one in found] == sorted(
        (one["start_time"] for one in found), reverse=True
    )
    assert found[0]["status"] == "RUNNING"
    assert len(tracking.search(experiment, "", limit=3)) == 3
    assert tracking.find_run(experiment, tag="who", value="2") is None
    assert tracking.find_run(experiment, tag="who", value="0") in {runs[0], runs[2]}


def test_a_server_that_is_away_is_unavailable_in_bounded_time() -> None:
    began = monotonic()
    with pytest.raises(RegistryUnavailable, match="MLFLOW_TRACKING_URI"):
        away().experiment("anything")
    assert monotonic() - began < 30
