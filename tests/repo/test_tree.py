"""What no file of the project may be or hold."""

import re
import subprocess

import pytest

from tests.repo.reference import PACKAGES, ROOT

# Put together here, or this file would find itself.
MACHINE_PATHS = re.compile(
    "/" + r"(?:work|root|home/(?!shipway)\w+)/|/tmp/" + r"(?:bash_jobs|tmp\.)"
)
SECRETS = re.compile(
    "sk-shipway" + r"-[\w-]{43}|AKIA[A-Z0-9]{16}|-----BEGIN [A-Z ]*PRIVATE" + " KEY"
)


def _files() -> list[str]:
    """What git keeps or would keep: an untracked file is one that somebody is about to commit."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    return [name for name in done.stdout.splitlines() if (ROOT / name).is_file()]


def _texts() -> dict[str, str]:
    return {name: (ROOT / name).read_text(errors="replace") for name in _files()}


@pytest.mark.parametrize("drawer", ["utils", "helpers", "common", "misc", "base", "manager"])
def test_no_module_is_a_drawer_without_a_name(drawer) -> None:
    assert [name for name in _files() if re.search(rf"(^|/){drawer}(\.py|/)", name)] == []


def test_no_file_names_a_path_of_one_machine() -> None:
    assert [name for name, text in _texts().items() if MACHINE_PATHS.search(text)] == []


def test_no_file_holds_a_secret() -> None:
    assert [name for name, text in _texts().items() if SECRETS.search(text)] == []


def test_no_module_is_longer_than_400_lines() -> None:
    long = {
        name: text.count("\n")
        for name, text in _texts().items()
        if name.startswith(PACKAGES) and name.endswith(".py") and text.count("\n") > 400
    }

    assert long == {}


def test_every_module_opens_with_a_door_sign() -> None:
    modules = {n: t for n, t in _texts().items() if n.startswith(PACKAGES) and n.endswith(".py")}

    assert [name for name, text in modules.items() if not text.startswith(('"""', 'r"""'))] == []


def test_the_run_script_can_be_run() -> None:
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
