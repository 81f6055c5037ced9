"""What happens to a release when something it needs goes away: a server, the disk, or the process itself."""

import shlex
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager

import pytest

from pipelines.release import main as release
from pipelines.session import STAGE_TAG
from registry.promotion import check_gate
from registry.release import DIGEST_TAG, Release, parse_digest
from tests.pipelines.conftest import Command

pytestmark = pytest.mark.real

MODULE = "pipelines.release"


def eventually(holds: Callable[[], bool], what: str, *, limit_s: float = 120) -> None:
    end = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < end, f"{what}: not within {limit_s} s"
        time.sleep(0.02)


@pytest.fixture
def closed_port() -> str:
    """An address where nobody listens, and nobody will while the test runs."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


@pytest.fixture
def arguments(tiny_model, recipe, tmp_path) -> tuple[str, ...]:
    return ("--source", str(tiny_model), "--name", tmp_path.name, "--recipe", str(recipe))


@contextmanager
def quantizing(command: Command, *arguments: str):
    """A release that is in the middle of quantize."""
    process = command.start(sys.executable, "-m", MODULE, *arguments)
    try:
        eventually(
            lambda: any((command.home / "work").glob("quantize-*/scratch/*")), "quantize began"
        )
        yield process
    finally:
        process.kill()
        process.communicate()


def statuses(command: Command) -> list[tuple[str, str]]:
    """Stage and status of each run, the oldest first."""
    return [(run[STAGE_TAG], run["status"]) for run in reversed(command.runs())]


def test_without_s3_nothing_is_registered_and_a_rerun_goes_on_from_there(
    call, command: Command, servers, tiny_model, tmp_path, closed_port
) -> None:
    recipe = tmp_path / "none.yaml"
    recipe.write_text("method: none\n")
    name = tmp_path.name
    arguments = ("--source", str(tiny_model), "--name", name, "--recipe", str(recipe))
    away = call(release, *arguments, AWS_ENDPOINT_URL_S3=closed_port)
    assert away.returncode == 1
    assert away.stderr.startswith("error: S3 did not give")
    assert "AWS_ENDPOINT_URL_S3" in away.stderr
    assert name not in servers.registry.models()
    ended = dict(statuses(command))
    assert ended == {
        "release": "FAILED",
        "download": "FINISHED",
        "quantize": "FINISHED",
        "evaluate": "FINISHED",
        "version": "FAILED",
    }
    back = call(release, *arguments)
    assert back.returncode == 0, back.stderr
    assert back.stdout.count("reused from an earlier run") == 2
    assert isinstance(check_gate(servers.registry.version(name, "1")), Release)


def test_without_mlflow_it_ends_soon_and_does_nothing(
    command: Command, arguments, closed_port
) -> None:
    began = time.monotonic()
    result = command.call(release, *arguments, MLFLOW_TRACKING_URI=closed_port)
    assert time.monotonic() - began < 60
    assert result.returncode == 1
    assert result.stderr.startswith("error: MLflow did not give or take")
    assert "MLFLOW_TRACKING_URI" in result.stderr
    assert "Traceback" not in result.stderr
    assert command.work() == []


@pytest.mark.promise("one clear error, and nothing half made", about="disks")
def test_a_full_disk_in_the_middle_of_quantize_leaves_nothing_half_made(
    command: Command, servers, arguments, tmp_path
) -> None:
    """In a mount namespace of its own, the state folder is a small disk that has room for the source and no more."""
    home, python = shlex.quote(str(command.home)), shlex.quote(sys.executable)
    script = f"""
        set -e
        mkdir -p {home}
        mount -t tmpfs -o size=8m tmpfs {home}
        {python} -m pipelines.download --source {shlex.quote(arguments[1])}
        {python} -m pipelines.datasets --out {home}/data
        cat /dev/zero > {home}/fill 2>/dev/null || true
        truncate -s -64K {home}/fill
        set +e
        {python} -m {MODULE} {shlex.join(arguments)} --data {home}/data
        echo "code=$?"
        ls -A {home}/work
    """
    result = command.run_words("unshare", "--map-root-user", "--mount", "bash", "-c", script)
    said, _, after = result.stdout.partition("code=")
    code, *left = after.split()
    assert (result.returncode, code) == (0, "1"), result.stderr
    # On a slow machine, a line of how far quantize is comes first.
    assert "\nerror: The disk is full: quantize-" in f"\n{result.stderr}"
    assert "Make room there" in result.stderr
    assert "Traceback" not in result.stderr
    assert "evaluate" not in said
    assert [name.partition("-")[0] for name in left if not name.startswith(".")] == ["download"]
    assert statuses(command)[1:] == [
        ("release", "FAILED"),
        ("download", "FINISHED"),
        ("quantize", "FAILED"),
    ]
    assert tmp_path.name not in servers.registry.models()


def test_a_full_disk_is_told_wherever_it_shows(command: Command) -> None:
    home, python = shlex.quote(str(command.home)), shlex.quote(sys.executable)
    script = f"""
        mkdir -p {home} && mount -t tmpfs -o size=40k tmpfs {home} || exit 3
        {python} -m pipelines.datasets --out {home}/data
        code=$?
        find {home} -type f -name '.*'
        exit $code
    """
    result = command.run_words("unshare", "--map-root-user", "--mount", "bash", "-c", script)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("error: The disk is full")


@pytest.mark.promise("the next run goes on", about="kills")
def test_after_a_kill_the_rerun_goes_on_and_closes_the_runs_of_the_dead(
    command: Command, servers, arguments, tmp_path
) -> None:
    with quantizing(command, *arguments) as process:
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)
    assert ("quantize", "RUNNING") in statuses(command)
    again = command.call(release, *arguments)
    assert again.returncode == 0, again.stderr
    reused = [line.split()[0] for line in again.stdout.splitlines() if "reused" in line]
    assert reused == ["download"]
    assert statuses(command)[:3] == [
        ("release", "KILLED"),
        ("download", "FINISHED"),
        ("quantize", "KILLED"),
    ]
    assert [v.version for v in servers.registry.versions(tmp_path.name)] == ["1"]


@pytest.mark.promise("never a half version", about="kills")
@pytest.mark.parametrize("stage", ["download", "evaluate", "version"])
def test_a_kill_as_a_stage_begins_leaves_no_half_version_and_the_next_run_ends_well(
    command: Command, servers, arguments, tmp_path, stage
) -> None:
    """Quantize, which can be met in its middle, has a test of its own. The kill may fall before or after the row is made."""
    process = command.start(sys.executable, "-u", "-m", MODULE, *arguments)
    try:
        assert any(line.startswith(f"{stage} ") for line in process.stdout), process.stderr.read()
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()
    again = command.call(release, *arguments)
    assert again.returncode == 0, again.stderr
    versions = servers.registry.versions(tmp_path.name)
    assert len(versions) in {1, 2}
    for version in versions:
        assert isinstance(check_gate(version), Release)
        servers.store.check(version.source, parse_digest(version.tags[DIGEST_TAG]))
    earlier = ["download", "quantize", "evaluate", "version"]
    reused = [line.split()[0] for line in again.stdout.splitlines() if "reused" in line]
    assert reused == earlier[: earlier.index(stage)]


def test_two_releases_do_not_work_on_the_same_thing_at_once(command: Command, arguments) -> None:
    with quantizing(command, *arguments) as process:
        process.send_signal(signal.SIGSTOP)
        second = command.call(release, *arguments)
        process.send_signal(signal.SIGCONT)
    assert second.returncode == 1
    assert "Another process is working on quantize-" in second.stderr
    assert "Traceback" not in second.stderr


def test_sigterm_ends_it_and_closes_its_runs(
    command: Command, servers, arguments, tmp_path
) -> None:
    with quantizing(command, *arguments) as process:
        process.terminate()
        _, stderr = process.communicate(timeout=200)
    assert process.returncode not in {0, -signal.SIGTERM}
    assert "Traceback" not in stderr
    assert statuses(command) == [
        ("release", "KILLED"),
        ("download", "FINISHED"),
        ("quantize", "KILLED"),
    ]
    assert [name for name in command.work() if name.startswith("quantize-")] == []
    assert tmp_path.name not in servers.registry.models()
