"""The rollout's run in a real MLflow: complete after any restart or outage, and closed as the rollout ended."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml

from deploy_targets.endpoint import Endpoint
from deploy_targets.rollout.journal import Journal, past_rollouts
from deploy_targets.rollout.picture import draw_rollout
from deploy_targets.rollout.state import (
    Counts,
    EndedRollout,
    EndpointState,
    Outcome,
    Phase,
    Point,
    RolloutState,
)
from registry.errors import PictureFailed, RegistryUnavailable
from registry.settings import RegistrySettings
from registry.tracking import Tracking, connect_mlflow
from tests.builders import NOON, a_state, an_endpoint, an_exposed_rollout

pytestmark = pytest.mark.real


class Diary:
    """One endpoint of its own, its journal, and what MLflow shows of it."""

    def __init__(self, servers: Any) -> None:
        self.client = servers.client
        self.tracking: Tracking = servers.tracking
        named = an_endpoint().model_dump() | {"name": f"e{uuid4().hex[:8]}"}
        self.endpoint = Endpoint.model_validate(named)
        self.journal = Journal(self.tracking, self.endpoint, draw=draw_rollout)

    def restart(self) -> None:
        self.journal = Journal(self.tracking, self.endpoint, draw=draw_rollout)

    def runs(self) -> list[Any]:
        name = f"shipway/{self.endpoint.name}"
        experiment = self.client.get_experiment_by_name(name)
        return [] if experiment is None else self.client.search_runs([experiment.experiment_id])

    @property
    def run(self) -> Any:
        (run,) = self.runs()
        return run

    def points(self, metric: str) -> list[tuple[int, float]]:
        history = self.client.get_metric_history(self.run.info.run_id, metric)
        return [(point.step, point.value) for point in history]

    def artifact(self, name: str, folder: Path) -> bytes:
        return Path(
            self.client.download_artifacts(self.run.info.run_id, name, str(folder))
        ).read_bytes()


@pytest.fixture
def diary(servers: Any) -> Diary:
    return Diary(servers)


def a_rollout(points: int = 0, **changes: Any) -> RolloutState:
    """v6 → v7, with a point every ten seconds: ten requests of each side, every fourth point an error."""
    walked = tuple(
        Point(
            index=index,
            at=NOON + timedelta(seconds=10 * index),
            weight=5,
            champion=Counts(requests=10, duration_s=5.0),
            challenger=Counts(requests=10, errors=int(index % 4 == 0), duration_s=2.0),
        )
        for index in range(points)
    )
    return replace(an_exposed_rollout(), points=walked, **changes)


def under_way(rollout: RolloutState) -> EndpointState:
    return replace(a_state(), rollout=rollout)


def over(rollout: RolloutState, outcome: Outcome) -> EndpointState:
    ended = EndedRollout(rollout=rollout, outcome=outcome, reason="31 errors in 612", ended=NOON)
    return replace(a_state(), unreported=(ended,))


def test_a_rollout_is_one_run_that_says_what_is_going_on(diary: Diary, tmp_path: Path) -> None:
    for points in (1, 2, 3):
        assert diary.journal.write(under_way(a_rollout(points))) == ()
    run = diary.run
    assert run.info.status == "RUNNING"
    assert run.data.params["challenger"] == "7"
    assert run.data.params["champion"] == "6"
    assert run.data.tags["shipway.status"] == "stepping at 5 %"
    assert run.data.tags["shipway.reason"] == a_rollout().verdict.reason
    assert "rollout.png" in run.data.tags["mlflow.note.content"]
    policy = yaml.safe_load(diary.artifact("policy.yaml", tmp_path))
    assert policy == diary.endpoint.rollout.model_dump(mode="json")
    assert diary.artifact("rollout.png", tmp_path).startswith(b"\x89PNG\r\n")


def test_a_run_is_closed_once_its_picture_is_there_too(diary: Diary) -> None:
    answers: list[bytes | None] = [None, b"a picture"]
    diary.journal = Journal(
        diary.tracking, diary.endpoint, draw=lambda _, *, title: title and answers.pop(0)
    )
    state = over(a_rollout(2), Outcome.ROLLED_BACK)
    assert diary.journal.write(state) == ()
    assert diary.run.info.status == "RUNNING"
    assert diary.journal.write(state) == (state.unreported[0].rollout.id,)
    assert diary.run.info.status == "FAILED"
    assert "rollout.png" in diary.run.data.tags["mlflow.note.content"]


def test_a_picture_that_mlflow_does_not_take_is_sent_again_and_not_drawn_again(
    diary: Diary, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [b"a picture"]
    diary.journal = Journal(
        diary.tracking, diary.endpoint, draw=lambda _, *, title: title and answers.pop()
    )
    state = over(a_rollout(2), Outcome.PROMOTED)

    def fail(*_: object) -> None:
        message = "no artifacts today"
        raise RegistryUnavailable(message)

    with monkeypatch.context() as patch:
        patch.setattr(diary.tracking, "log_bytes", fail)
        for _ in range(2):
            with pytest.raises(RegistryUnavailable):
                diary.journal.write(state)
    assert diary.journal.write(state) == (state.unreported[0].rollout.id,)


def test_a_picture_that_cannot_be_had_holds_nothing_up(diary: Diary) -> None:
    def fail(_: RolloutState, *, title: str) -> bytes:
        message = f"no memory for {title}"
        raise PictureFailed(message)

    diary.journal = Journal(diary.tracking, diary.endpoint, draw=fail)
    state = over(a_rollout(2), Outcome.PROMOTED)
    assert diary.journal.write(state) == (state.unreported[0].rollout.id,)
    assert diary.run.info.status == "FINISHED"
    assert "no memory for" in diary.run.data.tags["mlflow.note.content"]


def test_counts_accumulate_and_latency_is_the_intervals_mean(diary: Diary) -> None:
    diary.journal.write(under_way(a_rollout(5)))
    assert diary.points("challenger_requests") == [(n, 10.0 * (n + 1)) for n in range(5)]
    assert diary.points("challenger_errors") == [(0, 1), (1, 1), (2, 1), (3, 1), (4, 2)]
    assert diary.points("champion_latency_mean_s") == [(n, 0.5) for n in range(5)]
    assert diary.points("weight_percent") == [(n, 5.0) for n in range(5)]


def test_answers_that_were_judged_are_told_where_there_are_any(diary: Diary) -> None:
    diary.journal.write(under_way(a_rollout(2)))
    assert not any("answers" in name for name in diary.run.data.metrics)
    rollout = a_rollout(4)
    points = tuple(
        replace(point, challenger=replace(point.challenger, judged=10, bad=3))
        for point in rollout.points
    )
    diary.journal.write(under_way(replace(rollout, points=points)))
    told = diary.run.data.metrics
    assert (told["challenger_judged_answers"], told["challenger_bad_answers"]) == (40, 12)


def test_a_restarted_journal_finds_its_run_and_repeats_no_point(diary: Diary) -> None:
    for points in (1, 2, 3, 4):
        diary.journal.write(under_way(a_rollout(points)))
        diary.restart()
    assert [step for step, _ in diary.points("weight_percent")] == [0, 1, 2, 3]


def test_a_journal_killed_between_two_points_goes_on_with_the_next(
    diary: Diary, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_metrics = Tracking.log_metrics

    def killed_at_three(self: Tracking, *args: Any, **more: Any) -> None:
        if more["step"] == 3:
            raise KeyboardInterrupt
        log_metrics(self, *args, **more)

    monkeypatch.setattr(Tracking, "log_metrics", killed_at_three)
    with pytest.raises(KeyboardInterrupt):
        diary.journal.write(under_way(a_rollout(6)))
    monkeypatch.undo()
    diary.restart()
    diary.journal.write(under_way(a_rollout(6)))
    assert [step for step, _ in diary.points("weight_percent")] == list(range(6))


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (Outcome.PROMOTED, "FINISHED"),
        (Outcome.ROLLED_BACK, "FAILED"),
        (Outcome.WITHDRAWN, "KILLED"),
        (Outcome.SUPERSEDED, "KILLED"),
    ],
)
def test_a_run_is_closed_as_its_rollout_ended(diary: Diary, outcome: Outcome, status: str) -> None:
    diary.journal.write(under_way(a_rollout(1)))
    closed = diary.journal.write(over(a_rollout(2), outcome))
    assert closed == (a_rollout().id,)
    assert diary.run.info.status == status
    assert diary.run.data.tags["shipway.outcome"] == outcome.value
    assert diary.run.data.tags["shipway.reason"] == "31 errors in 612"
    assert [step for step, _ in diary.points("weight_percent")] == [0, 1]


def test_closing_twice_after_a_crash_changes_nothing(diary: Diary) -> None:
    state = over(a_rollout(2), Outcome.PROMOTED)
    diary.journal.write(state)
    before = diary.run.info.status, diary.points("weight_percent")
    diary.restart()
    diary.journal.write(state)
    assert (diary.run.info.status, diary.points("weight_percent")) == before


def test_an_outage_loses_nothing(diary: Diary, monkeypatch: pytest.MonkeyPatch) -> None:
    diary.journal.write(under_way(a_rollout(1)))
    away = connect_mlflow(RegistrySettings(tracking_uri="http://127.0.0.1:1"))
    monkeypatch.setattr(diary.tracking, "_client", away)
    with pytest.raises(RegistryUnavailable):
        diary.journal.write(under_way(a_rollout(5)))
    monkeypatch.undo()
    diary.journal.write(over(a_rollout(6), Outcome.PROMOTED))
    assert [step for step, _ in diary.points("weight_percent")] == list(range(6))
    assert diary.run.info.status == "FINISHED"


def test_a_run_that_somebody_deleted_is_written_anew(diary: Diary) -> None:
    diary.journal.write(under_way(a_rollout(2)))
    diary.client.delete_run(diary.run.info.run_id)
    with pytest.raises(RegistryUnavailable):
        diary.journal.write(under_way(a_rollout(3)))
    diary.journal.write(over(a_rollout(3), Outcome.PROMOTED))
    assert [step for step, _ in diary.points("weight_percent")] == [0, 1, 2]
    assert diary.run.info.status == "FINISHED"


def test_an_ended_rollout_and_the_next_one_are_two_runs(diary: Diary) -> None:
    following = a_rollout(1, id="chat-v8", phase=Phase.WARMING)
    state = replace(over(a_rollout(1), Outcome.SUPERSEDED), rollout=following)
    assert diary.journal.write(state) == (a_rollout().id,)
    statuses = {run.data.tags["shipway.status"] for run in diary.runs()}
    assert statuses == {"superseded", "warming"}


def test_the_history_tells_them_newest_first(diary: Diary) -> None:
    diary.journal.write(over(a_rollout(1, champion=None, id="chat-first"), Outcome.PROMOTED))
    diary.journal.write(over(a_rollout(1), Outcome.ROLLED_BACK))
    told = past_rollouts(diary.tracking, diary.endpoint, limit=10)
    assert [past.status for past in told] == ["rolled_back", "promoted"]
    assert "v6 → v7  rolled_back: 31 errors in 612" in told[0].line()
    assert "first → v7" in told[1].line()
    assert told[0].to_json()["run_id"] == told[0].run_id
    assert len(past_rollouts(diary.tracking, diary.endpoint, limit=1)) == 1


def test_the_page_of_a_rollout_is_known_while_it_is_under_way(diary: Diary) -> None:
    rollout = a_rollout(1)
    assert diary.journal.pages == {}
    diary.journal.write(replace(a_state(), endpoint=diary.endpoint.name, rollout=rollout))
    info = diary.run.info
    page = f"#/experiments/{info.experiment_id}/runs/{info.run_id}"
    assert diary.journal.pages == {rollout.id: page}
    assert diary.tracking.url.startswith("http://127.0.0.1:")
    over = EndedRollout(rollout=rollout, outcome=Outcome.PROMOTED, reason="it is fine", ended=NOON)
    diary.journal.write(replace(a_state("7"), endpoint=diary.endpoint.name, unreported=(over,)))
    assert diary.journal.pages == {}
