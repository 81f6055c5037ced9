"""The loop with a clock of ours, a real MLflow and real processes: what is started, recorded, ended, and found again."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipelines.schedule.children import Children, only_one, place_of
from pipelines.schedule.declared import Schedule, experiment_of
from pipelines.schedule.loop import Loop, run_loop
from pipelines.schedule.records import (
    AT_TAG,
    OUTCOME_TAG,
    PASSED_OVER_TAG,
    REASON_TAG,
    SCHEDULE_TAG,
    Records,
)
from registry.errors import AlreadyRunning, RegistryUnavailable

pytestmark = pytest.mark.real

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
SLEEPS = "import time; time.sleep(600)"


def eventually(holds: Callable[[], bool], what: str, *, limit_s: float = 60) -> None:
    end = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < end, f"{what}: not within {limit_s} s"
        time.sleep(0.02)


class World:
    """One schedule's loop, which may be started anew."""

    def __init__(self, servers, folder: Path) -> None:
        self.servers, self.folder = servers, folder
        self.name = folder.name.replace("_", "-").lower().strip("-")[:52].strip("-")
        self.said: list[str] = []
        self.code = SLEEPS
        self.children = self.new_children()

    def new_children(self, grace_s: float = 20) -> Children:
        return Children(
            self.folder / "schedules",
            project=self.folder,
            environment=dict(os.environ),
            grace_s=grace_s,
        )

    def loop(self, since: datetime = NOON - HOUR / 2, **changes) -> Loop:
        given = {"name": self.name, "cron": "0 * * * *", "entry_point": "x", **changes}
        return Loop(
            [Schedule.model_validate(given)],
            Records(self.servers.tracking, place=place_of(self.folder / "schedules")),
            self.children,
            command=lambda _schedule, _run: (sys.executable, "-c", self.code),
            since=since,
            say=self.said.append,
        )

    def runs(self) -> list[dict[str, str]]:
        experiment = self.servers.tracking.experiment(experiment_of(self.name))
        found = self.servers.tracking.search(experiment, "", limit=50)
        return sorted(found, key=lambda run: run[AT_TAG])

    def outcomes(self) -> list[tuple[str, str]]:
        return [(run[OUTCOME_TAG], run["status"]) for run in self.runs()]

    def await_gone(self, run_id: str) -> None:
        eventually(lambda: not self.children.runs(run_id), "the process ended")


@pytest.fixture
def world(servers, tmp_path):
    made = World(servers, tmp_path)
    yield made
    made.children.end([run["run_id"] for run in made.runs()])


def test_a_run_is_recorded_before_it_starts_and_settled_once_it_is_over(world) -> None:
    world.code = "print('hello')"
    loop = world.loop()
    loop.tick(NOON)
    [run] = world.runs()
    assert (run[SCHEDULE_TAG], run[AT_TAG]) == (world.name, "2026-06-01T12:00:00+00:00")
    assert (run[OUTCOME_TAG], run["status"]) == ("running", "RUNNING")
    world.await_gone(run["run_id"])
    world.servers.tracking.finish(run["run_id"], status="FINISHED")
    loop.tick(NOON + timedelta(seconds=10))
    assert world.outcomes() == [("succeeded", "FINISHED")]
    assert world.children.log(run["run_id"]).read_text() == "hello\n"


def test_a_process_that_ends_without_a_word_is_lost_and_not_started_again(world) -> None:
    world.code = "raise SystemExit(3)"
    loop = world.loop()
    loop.tick(NOON)
    world.await_gone(world.runs()[0]["run_id"])
    loop.tick(NOON + timedelta(seconds=10))
    loop.tick(NOON + timedelta(seconds=20))
    assert world.outcomes() == [("lost", "KILLED")]


def test_what_cannot_be_started_is_recorded_as_failed_with_the_reason(world) -> None:
    world.children = Children(
        world.folder / "schedules", project=world.folder / "none", environment={}
    )
    world.loop().tick(NOON)
    assert world.outcomes() == [("failed", "FAILED")]
    assert "could not be started" in world.runs()[0][REASON_TAG]


def test_missed_runs_are_made_up_for_once_and_the_others_counted(world) -> None:
    world.code = ""
    world.loop().tick(NOON)
    world.await_gone(world.runs()[0]["run_id"])
    world.loop(since=NOON + 6 * HOUR).tick(NOON + 5.5 * HOUR)
    assert [run[PASSED_OVER_TAG] for run in world.runs()] == ["0", "4"]
    world.await_gone(world.runs()[-1]["run_id"])
    world.loop(starting_deadline_s=60, since=NOON).tick(NOON + 6.5 * HOUR)
    missed = world.runs()[-1]
    assert (missed[OUTCOME_TAG], missed["status"]) == ("missed", "FAILED")
    assert (
        missed[REASON_TAG] == "nobody could start it within 60 s"
        or "earlier run" in missed[REASON_TAG]
    )


def test_forbid_waits_replace_ends_and_allow_leaves_the_earlier_one(world) -> None:
    world.loop().tick(NOON)
    world.loop(overlap="forbid").tick(NOON + HOUR)
    assert world.outcomes() == [("running", "RUNNING")]
    world.loop(overlap="replace").tick(NOON + HOUR)
    assert world.outcomes() == [("replaced", "KILLED"), ("running", "RUNNING")]
    world.loop(overlap="allow").tick(NOON + 2 * HOUR)
    assert [outcome for outcome, _ in world.outcomes()] == ["replaced", "running", "running"]
    assert not world.children.runs(world.runs()[0]["run_id"])
    world.loop(overlap="forbid").tick(NOON + 4.1 * HOUR)
    world.loop(overlap="forbid", starting_deadline_s=60).tick(NOON + 4.2 * HOUR)
    earlier = ", ".join(sorted(run["run_id"] for run in world.runs()[1:3]))
    assert world.runs()[-1][REASON_TAG] == (
        f"an earlier run ({earlier}) was still under way within 60 s"
    )


@pytest.mark.promise("nothing is started twice", about="kills")
def test_a_loop_that_was_killed_is_followed_by_one_that_finds_its_runs(world) -> None:
    world.loop().tick(NOON)
    [run] = world.runs()
    killed, world.children = world.children, world.new_children()
    world.loop().tick(NOON + HOUR)
    assert world.outcomes() == [("running", "RUNNING")]
    world.loop().stop()
    assert world.outcomes() == [("interrupted", "KILLED")]
    assert not world.children.runs(run["run_id"])
    assert not killed.runs(run["run_id"])


def test_a_process_that_does_not_end_is_killed_with_its_children(world) -> None:
    world.children = world.new_children(grace_s=1)
    child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    world.code = (
        f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}]); {child}"
    )
    loop = world.loop()
    loop.tick(NOON)
    [run] = world.runs()
    log = world.children.log(run["run_id"])
    eventually(lambda: log.read_text().count("up") == 2, "both began")
    group = int((world.folder / "schedules" / f"{run['run_id']}.pid").read_text())
    loop.stop()
    eventually(lambda: not alive(group), "the group is gone")
    assert world.outcomes() == [("interrupted", "KILLED")]


def alive(group: int) -> bool:
    """Whether a process of the group is more than a zombie, which only its parent can bury."""
    listed = subprocess.run(
        ["ps", "-o", "stat=", "-g", str(group)], capture_output=True, text=True, check=False
    )
    return any(not state.startswith("Z") for state in listed.stdout.split())


class Silent(Records):
    """MLflow that is away."""

    def history(self, schedule: str):
        raise RegistryUnavailable("MLflow is away")


def test_without_mlflow_nothing_is_started_and_the_loop_goes_on(world) -> None:
    loop = Loop(
        [Schedule(name="a", cron="* * * * *", entry_point="x")],
        Silent(world.servers.tracking),
        world.children,
        command=lambda _schedule, _run: (sys.executable, "-c", ""),
        since=NOON - HOUR,
        say=world.said.append,
    )
    waits = iter([False, False, True])
    with pytest.raises(RegistryUnavailable):
        run_loop(loop, clock=lambda: NOON, wait=lambda _s: next(waits), say=world.said.append)
    assert [line.split(":")[0] for line in world.said] == [
        "nothing is started while nothing can be recorded"
    ] * 3
    assert list(world.folder.iterdir()) == []


_STARTS = """
import os, signal, sys
from pathlib import Path
from pipelines.schedule import children
folder = Path(sys.argv[1])
started = children.subprocess.Popen
def killed(*given, **named):
    started(*given, **named)
    os.kill(os.getpid(), signal.SIGKILL)
children.subprocess.Popen = killed
children.Children(folder, project=folder, environment=dict(os.environ)).start(
    "run", (sys.executable, "-c", "import time; time.sleep(600)")
)
"""


def test_what_a_loop_started_that_was_killed_in_that_moment_is_found_and_ended(tmp_path) -> None:
    words = (sys.executable, "-c", _STARTS, str(tmp_path))
    root = Path(__file__).parents[3]
    loop = subprocess.run(words, env={**os.environ, "PYTHONPATH": str(root)}, check=False)
    assert loop.returncode == -signal.SIGKILL
    children = Children(tmp_path, project=tmp_path, environment={}, grace_s=20)
    assert children.runs("run")
    assert children.end_all() == ("run",)
    assert not children.runs("run")


def test_a_note_that_is_still_empty_is_waited_for_and_no_number(tmp_path, monkeypatch) -> None:
    """As it is while the process has yet to write it; here it never does."""
    monkeypatch.setattr("pipelines.schedule.children._NOTE_S", 0.2)
    children = Children(tmp_path, project=tmp_path, environment={})
    with (tmp_path / "run.pid").open("x") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert children.runs("run")
        assert children.end_all() == ("run",)


def test_two_machines_that_run_the_same_schedule_leave_each_others_runs_alone(
    world, tmp_path_factory
) -> None:
    other = World(world.servers, tmp_path_factory.mktemp("other"))
    other.name = world.name
    try:
        world.loop().tick(NOON)
        other.loop().tick(NOON)
        assert world.outcomes() == [("running", "RUNNING")], "it is one schedule, and was started"
        other.loop().tick(NOON + HOUR)
        assert world.outcomes() == [("running", "RUNNING")], "it waits for the other's"
        other.loop(overlap="replace").tick(NOON + HOUR)
        other.loop().stop()
        assert world.outcomes() == [("running", "RUNNING"), ("interrupted", "KILLED")]
        assert world.children.runs(world.runs()[0]["run_id"])
        world.loop().stop()
        assert world.outcomes() == [("interrupted", "KILLED")] * 2
    finally:
        other.children.end_all()


def test_a_run_is_not_forgotten_for_the_runs_that_were_missed_meanwhile(world, monkeypatch) -> None:
    monkeypatch.setattr("pipelines.schedule.records._LOOK_BACK", 2)
    loop = world.loop(starting_deadline_s=60)
    loop.tick(NOON)
    for hours in range(1, 4):
        loop.tick(NOON + hours * HOUR + timedelta(minutes=2))
    loop.tick(NOON + 4 * HOUR)
    assert [outcome for outcome, _ in world.outcomes()] == ["running", *["missed"] * 3]


def test_a_run_of_a_machine_that_is_gone_holds_nothing_up_once_it_has_ended(
    world, tmp_path_factory
) -> None:
    """MLflow was told by the run itself; its loop, which would have recorded it, is gone with its folder."""
    other = World(world.servers, tmp_path_factory.mktemp("other"))
    other.name = world.name
    try:
        world.loop().tick(NOON)
        [run] = world.runs()
        world.servers.tracking.finish(run["run_id"], status="FINISHED")
        other.loop().tick(NOON + HOUR)
        assert world.outcomes() == [("running", "FINISHED"), ("running", "RUNNING")]
    finally:
        other.children.end_all()


def test_two_loops_do_not_share_a_folder(tmp_path) -> None:
    with only_one(tmp_path), pytest.raises(AlreadyRunning), only_one(tmp_path):
        pass


PROJECT = """\
name: small
entry_points:
  greet:
    parameters:
      who: string
    command: "python -c \\"import sys, time; print('hello', sys.argv[1], flush=True); time.sleep({seconds})\\" {who}"
"""


@pytest.fixture
def project(tmp_path):
    def write(seconds: float) -> Path:
        folder = tmp_path / "project"
        folder.mkdir()
        (folder / "MLproject").write_text(PROJECT.replace("{seconds}", str(seconds)))
        name = f"greet-{tmp_path.name}".replace("_", "-").lower()[:52].strip("-")
        (folder / "schedules.yaml").write_text(
            "schedules:\n"
            f"- {{name: {name}, cron: '* * * * *', entry_point: greet, parameters: {{who: world}}}}\n"
        )
        return folder

    return write


def shipway(servers, project: Path, command: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", "from pipelines.schedule.commands import app; app()", command,
         "-f", str(project / "schedules.yaml"), "--project", str(project)],
        env={**os.environ, **servers.environment, "SHIPWAY_HOME": str(project.parent / "home")},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def test_mlflow_run_itself_is_what_is_scheduled_and_sigterm_ends_it(
    servers, project, tmp_path
) -> None:
    """The one that waits for a real minute to begin."""
    folder = project(600)
    loop = shipway(servers, folder, "run")
    try:
        logs = tmp_path / "home" / "schedules"

        def said() -> str:
            return "".join(log.read_text() for log in logs.glob("*.log"))

        eventually(lambda: "hello world" in said(), "mlflow run began", limit_s=200)
        loop.send_signal(signal.SIGTERM)
        out, _ = loop.communicate(timeout=200)
    finally:
        loop.kill()
        loop.communicate()
    listed, _ = shipway(servers, folder, "list").communicate(timeout=200)
    assert loop.returncode == 0, out
    assert "interrupted, run" in out
    assert "interrupted (" in listed
    name = listed.split()[0]
    experiment = servers.tracking.experiment(experiment_of(name))
    newest = servers.tracking.search(experiment, "", limit=1)[0]
    assert (newest["status"], newest["mlflow.project.entryPoint"]) == ("KILLED", "greet")
    assert newest[SCHEDULE_TAG] == name


def test_what_runs_is_ended_with_the_loop_even_without_mlflow(world, monkeypatch) -> None:
    loop = world.loop()
    loop.tick(NOON)
    [run] = world.runs()

    def away(_records: Records, _name: str):
        raise RegistryUnavailable("MLflow is away")

    with monkeypatch.context() as patched:
        patched.setattr(Records, "history", away)
        with pytest.raises(RegistryUnavailable):
            loop.stop()
    assert not world.children.runs(run["run_id"])
    assert world.said[-1] == f"ended, and not recorded yet: run {run['run_id']}"
    world.loop().tick(NOON)
    assert world.outcomes() == [("lost", "KILLED")]
