"""The `shipway` command as a person meets it, before any server runs."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from deploy_targets.cli import app
from tests.repo.reference import ROOT

SHIPWAY = str(Path(sys.executable).with_name("shipway"))
HEAVY = ("boto3", "matplotlib", "mlflow", "numpy", "ray", "torch", "transformers")


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _files(command: Any, path: str) -> Iterator[tuple[str, Any]]:  # typer's parser is private
    """The option --file of every command that has one."""
    yield from ((path, one) for one in command.params if "--file" in one.opts)
    for name, child in getattr(command, "commands", {}).items():
        yield from _files(child, f"{path} {name}")


def test_every_command_takes_the_name_of_the_endpoint_file_from_the_environment() -> None:
    files = dict(_files(typer.main.get_command(app), "shipway"))
    read = {path: one for path, one in files.items() if one.default == Path("endpoints.yaml")}

    assert {"shipway status", "shipway history", "shipway webhook install"} <= read.keys()
    assert [path for path, one in read.items() if one.envvar != "SHIPWAY_ENDPOINTS"] == []


def test_help_takes_less_than_a_second_of_cpu() -> None:
    _run(SHIPWAY, "--help")  # the first start writes the byte code
    before = _cpu_s()

    done = _run(SHIPWAY, "--help")

    assert done.returncode == 0
    assert _cpu_s() - before < 1.0


def test_a_broken_package_of_commands_takes_no_other_command_with_it(tmp_path, monkeypatch) -> None:
    (tmp_path / "broken-1.dist-info").mkdir()
    (tmp_path / "broken-1.dist-info" / "METADATA").write_text("Name: broken\nVersion: 1\n")
    (tmp_path / "broken-1.dist-info" / "entry_points.txt").write_text(
        "[shipway.commands]\nbroken = not_there:app\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{tmp_path}")

    done = _run(SHIPWAY, "rollback", "--help")

    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    assert "`shipway broken` cannot be loaded" in done.stderr


def test_help_loads_nothing_heavy() -> None:
    code = f"import sys, deploy_targets.cli; print([m for m in {HEAVY} if m in sys.modules])"

    assert _run(sys.executable, "-c", code).stdout == "[]\n"


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["promote"], ["promote", "chat", "7", "--nonsense"], ["render"]]
)
def test_wrong_usage_exits_with_2(arguments) -> None:
    done = _run(SHIPWAY, *arguments)

    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_an_endpoint_file_with_a_typo_is_refused_with_its_place(tmp_path) -> None:
    text = (ROOT / "endpoints.yaml").read_text()
    file = tmp_path / "endpoints.yaml"
    file.write_text(text.replace("drain_s", "drian_s"))

    done = _run(SHIPWAY, "endpoints", "validate", "-f", str(file))

    assert done.returncode == 2
    assert "endpoints.0.rollout.drian_s" in done.stderr
    assert "Traceback" not in done.stderr
