"""Children that outlive us are found again, ended with all that they started, and never taken for somebody else's."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from deploy_targets.local.process import (
    ProcessRecord,
    await_ready,
    end_all,
    find_marked,
    free_port,
    spawn,
    tail,
)
from registry.errors import ComponentNotReady

WAITING = "import time; time.sleep(600)"
WITH_A_CHILD = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {WAITING!r}])"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); {WAITING}"

Start = Callable[..., ProcessRecord]


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[str]:
    mark = f"{tmp_path}|part|"
    yield mark
    end_all(find_marked(mark), patience_s=0.1)


@pytest.fixture
def start(tmp_path: Path, mark: str) -> Start:
    def start(code: str, **environment: str) -> ProcessRecord:
        return spawn(
            [sys.executable, "-c", code],
            log=tmp_path / "part.log",
            environment=environment,
            folder=tmp_path,
            mark=mark,
        )

    return start


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_process_is_found_while_it_lives_and_not_after(start: Start) -> None:
    record = start(WAITING)
    process = record.find()
    assert process is not None

    end_all([process], patience_s=5)

    assert record.find() is None


def test_a_process_that_has_ended_unnoticed_is_not_taken_for_alive(start: Start) -> None:
    record = start("")
    until(lambda: record.find() is None)


def test_another_process_that_got_the_pid_is_not_the_one_that_was_started() -> None:
    mine = psutil.Process()
    record = ProcessRecord(pid=mine.pid, started=mine.create_time() - 3600)
    assert record.find() is None


def test_it_gets_the_environment_that_it_is_given_and_no_other(
    start: Start, tmp_path: Path
) -> None:
    record = start("import os; print(sorted(os.environ))", GIVEN="yes", LC_CTYPE="C.UTF-8")
    until(lambda: record.find() is None)
    assert tail(tmp_path / "part.log").strip() == "['GIVEN', 'LC_CTYPE', 'SHIPWAY_PART']"


def test_an_interrupt_at_our_terminal_does_not_reach_it(start: Start) -> None:
    assert os.getsid(start(WAITING).pid) != os.getsid(0)


def test_the_orphans_of_a_part_that_was_killed_bear_its_mark(start: Start, mark: str) -> None:
    record = start(WITH_A_CHILD)
    until(lambda: len(find_marked(mark)) == 2)

    os.kill(record.pid, signal.SIGKILL)
    until(lambda: record.find() is None)

    (orphan,) = find_marked(mark)
    end_all([orphan], patience_s=5)
    assert find_marked(mark) == []


def test_a_mark_is_that_of_one_part_alone(start: Start, mark: str) -> None:
    start(WAITING)
    assert find_marked(mark.replace("part", "par")) == []
    assert len(find_marked(mark.removesuffix("part|"))) == 1


def test_whoever_looks_for_marks_never_finds_himself(mark: str) -> None:
    code = f"from deploy_targets.local.process import find_marked; print(find_marked({mark!r}))"
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "SHIPWAY_PART": mark},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout == "[]\n"


def test_ending_takes_the_children_along_and_forces_the_deaf(start: Start, tmp_path: Path) -> None:
    parent, deaf = start(WITH_A_CHILD), start(STUBBORN)
    processes = [process for record in (parent, deaf) if (process := record.find())]
    until(processes[0].children)
    until(lambda: "deaf" in tail(tmp_path / "part.log"))
    child = processes[0].children()[0]
    began = child.create_time()

    end_all(processes, patience_s=0.5)

    assert parent.find() is None
    assert deaf.find() is None
    assert ProcessRecord(pid=child.pid, started=began).find() is None


def test_a_part_of_its_own_outlives_the_part_that_started_it(start: Start, mark: str) -> None:
    other = mark.replace("|part|", "|another|")
    code = f"import os, subprocess, sys; subprocess.run([sys.executable, '-c', {WAITING!r}], env={{**os.environ, 'SHIPWAY_PART': {other!r}}})"
    starter = start(code).find()
    assert starter is not None
    until(lambda: find_marked(other))

    end_all([starter], patience_s=5)

    assert find_marked(mark) == []
    (left,) = find_marked(other)
    end_all([left], patience_s=5)
    assert find_marked(other) == []


def test_waiting_for_one_that_ends_shows_the_end_of_its_log(start: Start, tmp_path: Path) -> None:
    record, log = start("print('no such disk'); exit(3)"), tmp_path / "part.log"
    with pytest.raises(ComponentNotReady, match=r"(?s)disk-server ended.*part.log:\nno such disk"):
        await_ready("disk-server", lambda: False, record=record, log=log, limit_s=60)


def test_waiting_is_bounded(start: Start, tmp_path: Path) -> None:
    record, log = start(WAITING), tmp_path / "part.log"
    with pytest.raises(ComponentNotReady, match="not ready within 0 s"):
        await_ready("slow", lambda: False, record=record, log=log, limit_s=0.2)


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    missing, log = tmp_path / "weed", tmp_path / "s3.log"
    with pytest.raises(ComponentNotReady, match=f"{missing} cannot be started.*{log}"):
        spawn([missing], log=log, environment={}, folder=tmp_path)


def test_of_a_long_log_the_end_is_shown(tmp_path: Path) -> None:
    log = tmp_path / "long.log"
    log.write_bytes(b"early" + b"\xff" * 5000 + b"late")
    assert tail(log).endswith("late")
    assert "early" not in tail(log)
    assert tail(tmp_path / "none.log") == "(the log is empty)"


def test_the_usual_port_is_taken_where_it_is_free() -> None:
    usual = free_port(0, set())
    assert free_port(usual, set()) == usual


def test_a_port_on_which_somebody_listens_is_passed_over() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        usual = taken.getsockname()[1]
        assert free_port(usual, set()) != usual


def test_no_port_is_given_twice() -> None:
    taken: set[int] = set()
    usual = free_port(0, taken)
    others = {free_port(usual, taken) for _ in range(5)}
    assert usual not in others
    assert taken == {usual, *others}
