"""The backend against a real Ray, MLflow and S3: what becomes of the job and of its run."""

import json
import os
import signal
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import mlflow
import pytest
from mlflow.exceptions import ExecutionException

from tests.pipelines.backend.conftest import BIN, wait_until

pytestmark = pytest.mark.real
ROOT = Path(__file__).parents[3]


def start(project, word, config):
    return mlflow.projects.run(
        str(project),
        "work",
        parameters={"word": str(word)},
        experiment_name=word.parent.name,
        backend="shipway-ray",
        backend_config=config,
        synchronous=False,
    )


def status(servers, run_id: str) -> str:
    return servers.client.get_run(run_id).info.status


def job_of(ray, run_id):
    [job] = [one for one in ray.jobs() if one["submission_id"] == f"shipway-{run_id}"]
    return job


def test_a_job_outlives_its_client_and_the_same_command_finds_it_again(
    ray, servers, project, backend, tmp_path, capfd
) -> None:
    word = tmp_path / "word"
    left = start(project, word, backend(follow=False))
    # Nothing is left of the first client but the run and the job.
    assert status(servers, left.run_id) == "RUNNING"
    wait_until(word.with_suffix(".pid").exists)
    capfd.readouterr()
    ends = threading.Timer(1, word.write_text, ("0",))
    ends.start()
    found = start(project, word, backend())
    assert found.run_id == left.run_id
    assert [j["submission_id"] for j in ray.jobs()].count(f"shipway-{left.run_id}") == 1
    assert (status(servers, left.run_id), found.get_status()) == ("FINISHED", "FINISHED")
    said = capfd.readouterr().out
    for line in (
        f"this is word, run {left.run_id}\n",
        "\nsecret\n",
        "\nbucket the-bucket é\n",
        "\nthe last of word\n",
    ):
        assert said.count(line) == 1, said
    shown = job_of(ray, left.run_id)
    assert shown["metadata"]["mlflow.run_id"] == left.run_id
    assert not any(secret in ray.get("/api/jobs/") for secret in ray.secrets)
    tags = servers.client.get_run(left.run_id).data.tags
    assert tags["shipway.ray.job"] == f"shipway-{left.run_id}"
    assert tags["mlflow.project.backend"] == "shipway-ray"
    assert servers.client.get_run(left.run_id).data.params == {"word": str(word)}


def test_a_cancelled_job_ends_with_its_processes_and_its_run_is_killed(
    ray, servers, project, backend, tmp_path
) -> None:
    word = tmp_path / "word"
    run = start(project, word, backend(follow=False))
    pid = int(wait_until(lambda: _text(word.with_suffix(".pid"))))
    run.cancel()
    assert (status(servers, run.run_id), run.get_status()) == ("KILLED", "KILLED")
    assert not _lives(pid)


@pytest.mark.engines
def test_a_job_that_fails_fails_its_run_and_the_command(
    ray, servers, project, backend, tmp_path, capfd
) -> None:
    word = tmp_path / "word"
    word.write_text("3")
    with pytest.raises(ExecutionException, match="FAILED"):
        start(project, word, backend())
    assert "the last of word" in capfd.readouterr().out
    [run] = servers.client.search_runs(
        [servers.client.get_experiment_by_name(tmp_path.name).experiment_id]
    )
    assert run.info.status == "FAILED"


def test_a_wrong_token_is_told_as_such(project, backend, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 32)
    with pytest.raises(ExecutionException, match="RAY_AUTH_TOKEN"):
        start(project, tmp_path / "word", backend())


@pytest.mark.engines
def test_a_stage_that_is_killed_fails_its_run_without_any_client(
    ray, servers, project, backend, tmp_path
) -> None:
    word = tmp_path / "word"
    run = start(project, word, backend(follow=False))
    os.kill(int(wait_until(lambda: _text(word.with_suffix(".pid")))), signal.SIGKILL)
    wait_until(lambda: status(servers, run.run_id) == "FAILED")
    wait_until(lambda: run.get_status() == "FAILED")


@pytest.mark.engines
def test_a_run_whose_job_died_whole_is_closed_by_the_next_command_which_starts_another(
    ray, servers, project, backend, tmp_path
) -> None:
    word = tmp_path / "word"
    dead = start(project, word, backend(follow=False))
    os.killpg(os.getpgid(int(wait_until(lambda: _text(word.with_suffix(".pid"))))), signal.SIGKILL)
    wait_until(lambda: dead.get_status() == "FAILED")
    assert status(servers, dead.run_id) == "RUNNING"
    word.write_text("0")
    alive = start(project, word, backend())
    assert alive.run_id != dead.run_id
    assert status(servers, alive.run_id) == "FINISHED"
    assert status(servers, dead.run_id) == "FAILED"
    assert "exit code" in servers.client.get_run(dead.run_id).data.tags["shipway.error"]


@pytest.mark.engines
def test_the_command_line_survives_kill_goes_on_and_cancels_by_ctrl_c(
    ray, servers, project, client_environment, tmp_path
) -> None:
    word, given = tmp_path / "word", tmp_path / "backend.json"
    given.write_text(json.dumps({"bin": BIN, "cpus": 0.5}))
    environment = {
        **os.environ,
        **client_environment,
        "RAY_ADDRESS": ray.address,
        "PYTHONPATH": os.pathsep.join((str(_installed(tmp_path)), str(ROOT))),
        "PYTHONUNBUFFERED": "1",
    }
    words = (sys.executable, "-m", "mlflow", "run", str(project), "-e", "work", "-P", f"word={word}",
             "--experiment-name", tmp_path.name, "--backend", "shipway-ray",
             "--backend-config", str(given))  # fmt: skip

    def client(log):
        with log.open("w") as out:
            return subprocess.Popen(words, env=environment, stdout=out, stderr=out)

    first_log, second_log = tmp_path / "first.log", tmp_path / "second.log"
    with client(first_log) as first:
        pid = int(wait_until(lambda: _text(word.with_suffix(".pid"))))
        first.kill()
    assert _lives(pid)
    with client(second_log) as second:
        wait_until(lambda: "this is word" in _text(second_log))
        second.send_signal(signal.SIGINT)
        assert second.wait(timeout=120) != 0
    assert "goes on with it" in second_log.read_text()
    assert not _lives(pid)
    experiment = servers.client.get_experiment_by_name(tmp_path.name).experiment_id
    assert [run.info.status for run in servers.client.search_runs([experiment])] == ["KILLED"]


@pytest.mark.engines
def test_a_stage_of_this_project_runs_there_and_finishes_its_own_run(
    ray, servers, backend, tiny_model, tmp_path, capfd
) -> None:
    mlflow.projects.run(
        str(ROOT),
        "download",
        parameters={"source": f"file://{tiny_model}"},
        experiment_name=tmp_path.name,
        backend="shipway-ray",
        backend_config=backend(home=str(tmp_path / "home"), exclude=["tests", "docs"]),
        synchronous=True,
    )
    experiment = servers.client.get_experiment_by_name(tmp_path.name).experiment_id
    [run] = servers.client.search_runs([experiment])
    assert run.info.status == "FINISHED"
    assert run.data.tags["shipway.output"].startswith("sha256:")
    assert str(tmp_path / "home") in capfd.readouterr().out


def _installed(folder):
    """A folder that says of the plugin what an installed shipway says of it."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    group = "mlflow.project_backend"
    place = folder / "installed" / "backend_of_shipway-1.dist-info"
    place.mkdir(parents=True)
    (place / "METADATA").write_text("Metadata-Version: 2.1\nName: backend-of-shipway\nVersion: 1\n")
    lines = [f"{name} = {where}" for name, where in declared[group].items()]
    (place / "entry_points.txt").write_text("\n".join((f"[{group}]", *lines)) + "\n")
    return place.parent


def _text(file) -> str:
    return file.read_text() if file.exists() else ""


def _lives(pid: int) -> bool:
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
