"""Following and closing, against a cluster that breaks off, forgets and falls silent."""

import asyncio
from dataclasses import dataclass, field

import pytest

from pipelines.backend import submitted
from pipelines.backend.ray_jobs import Job, Status
from pipelines.backend.submitted import ADDRESS_TAG, REQUEST_TAG, SENT_TAG, Submitted, settle
from registry.errors import JobsUnavailable

RUNNING, DONE = (Job(status=s, message="") for s in (Status.RUNNING, Status.SUCCEEDED))
FAILED = Job(status=Status.FAILED, message="exit code 3\n" + "log " * 1000)


@pytest.fixture(autouse=True)
def _quick(monkeypatch) -> None:
    monkeypatch.setattr(submitted, "_AGAIN_S", 0.001)
    monkeypatch.setattr(submitted, "_LOOK_S", 0.05)


@dataclass
class Cluster:
    """Answers `find` and `tail` in turn; the last answer stays."""

    found: list = field(default_factory=lambda: [DONE])
    tails: list = field(default_factory=lambda: [[]])
    whole: str = ""
    stopped: list = field(default_factory=list)

    def find(self, job_id):
        answer = self.found.pop(0) if len(self.found) > 1 else self.found[0]
        if isinstance(answer, Exception):
            raise answer
        return answer[job_id] if isinstance(answer, dict) else answer

    def stop(self, job_id):
        self.stopped.append(job_id)

    def log(self, _):
        return self.whole

    async def tail(self, _):
        for text in self.tails.pop(0) if len(self.tails) > 1 else self.tails[0]:
            if text is None:
                await asyncio.sleep(60)
            elif isinstance(text, Exception):
                raise text
            else:
                yield text


class Runs:
    """MLflow's, as far as they are asked for here."""

    def __init__(self, *runs) -> None:
        self.runs = {run["run_id"]: {"status": "RUNNING", **run} for run in runs}

    def search(self, _experiment, query, *, limit):
        asked = query.split(" and ")[0].replace("`", "").replace("'", "")
        name, _, value = asked.partition(".")[2].partition(" = ")
        return tuple(
            dict(run)
            for run in self.runs.values()
            if run.get(name) == value and run["status"] == "RUNNING"
        )

    def set_tags(self, run_id, tags):
        self.runs[run_id] |= tags

    def finish(self, run_id, *, status):
        self.runs[run_id]["status"] = status


def following(cluster, runs, said, **more) -> Submitted:
    return Submitted(
        jobs=cluster, tracking=runs, experiment_id="1", run_id="a", write=said.append, **more
    )


def test_a_connection_that_breaks_is_made_again_and_nothing_is_said_twice() -> None:
    cluster = Cluster(
        found=[RUNNING, RUNNING, DONE],
        tails=[["one\n", "tw", JobsUnavailable("broken")], ["one\ntwo\n", "th"], ["one\n"]],
        whole="one\ntwo\nthree\n",
    )
    said = []
    assert following(cluster, Runs({"run_id": "a"}), said).follow() == DONE
    assert "".join(said) == "one\ntwo\nthree\n"


def test_a_job_that_ends_behind_a_silent_connection_is_seen_to_have_ended() -> None:
    cluster = Cluster(found=[RUNNING, DONE], tails=[["one\n", None]], whole="one\ntwo\n")
    said, runs = [], Runs({"run_id": "a"})
    following(cluster, runs, said).follow()
    assert "".join(said) == "one\ntwo\n"
    assert runs.runs["a"]["status"] == "FINISHED"


def test_a_cluster_that_comes_back_is_followed_on_and_one_that_does_not_is_given_up() -> None:
    away = JobsUnavailable("away")
    assert following(Cluster(found=[away, away, DONE]), Runs({"run_id": "a"}), []).follow() == DONE
    runs = Runs({"run_id": "a"})
    with pytest.raises(JobsUnavailable) as given_up:
        following(Cluster(found=[away]), runs, [], patience_s=0.05).follow()
    assert "the same command again" in given_up.value.__notes__[0]
    assert runs.runs["a"]["status"] == "RUNNING"


@pytest.mark.parametrize(
    ("job", "status", "told"),
    [
        (DONE, "FINISHED", None),
        (FAILED, "FAILED", "exit code 3"),
        (Job(status=Status.STOPPED, message="stopped"), "KILLED", "stopped"),
        (None, "KILLED", "gone from the cluster"),
    ],
)
def test_what_a_job_left_open_is_closed_with_the_runs_within(job, status, told) -> None:
    runs = Runs({"run_id": "a"}, {"run_id": "b", "mlflow.parentRunId": "a"}, {"run_id": "c"})
    following(Cluster(), runs, []).close(job)
    assert [run["status"] for run in runs.runs.values()] == [status, status, "RUNNING"]
    error = runs.runs["a"].get("shipway.error")
    assert error is None if told is None else told in error and len(error) < 700


def test_what_a_job_closed_itself_stays_as_it_is() -> None:
    runs = Runs({"run_id": "a", "status": "FINISHED"})
    following(Cluster(), runs, []).close(FAILED)
    assert runs.runs["a"]["status"] == "FINISHED"


def test_cancelling_waits_for_the_end_and_leaves_an_ended_job_alone(monkeypatch) -> None:
    monkeypatch.setattr(submitted, "_POLL_S", 0.001)
    stopped = Job(status=Status.STOPPED, message="")
    cluster, runs = Cluster(found=[RUNNING, RUNNING, RUNNING, stopped]), Runs({"run_id": "a"})
    following(cluster, runs, []).cancel()
    assert (cluster.stopped, runs.runs["a"]["status"]) == (["shipway-a"], "KILLED")
    cluster, runs = Cluster(found=[DONE]), Runs({"run_id": "a"})
    following(cluster, runs, []).cancel()
    assert (cluster.stopped, runs.runs["a"]["status"]) == ([], "FINISHED")


def a_run(name, digest, *, sent=True, **more):
    tags = {ADDRESS_TAG: "http://ray", REQUEST_TAG: digest, **({SENT_TAG: "now"} if sent else {})}
    return {"run_id": name, **tags, **more}


def test_the_next_command_finds_the_same_one_under_way_and_closes_what_died() -> None:
    runs = Runs(
        a_run("other", "else"),
        a_run("same", "mine"),
        a_run("died", "mine"),
        a_run("gone", "mine"),
        a_run("being-sent", "else", sent=False),
    )
    jobs = {
        "shipway-other": RUNNING,
        "shipway-same": RUNNING,
        "shipway-died": FAILED,
        "shipway-gone": None,
        "shipway-being-sent": None,
    }
    found = settle(
        Cluster(found=[jobs]), runs, experiment_id="1", address="http://ray", digest="mine"
    )
    assert found == "same"
    assert [run["status"] for run in runs.runs.values()] == [
        "RUNNING", "RUNNING", "FAILED", "KILLED", "RUNNING",
    ]  # fmt: skip


def test_a_run_whose_client_died_before_it_sent_the_job_is_gone_on_with() -> None:
    runs = Runs(a_run("half", "mine", sent=False))
    cluster = Cluster(found=[None])
    assert settle(cluster, runs, experiment_id="1", address="http://ray", digest="mine") == "half"
    assert runs.runs["half"]["status"] == "RUNNING"
