"""docs/install-kubernetes.md: its commands do what it says, and the texts that it explains are the code's."""

import re
import subprocess

import pytest

from deploy_targets.guard.access_control import parse_keys
from tests.repo.reference import ROOT

PAGE = (ROOT / "docs" / "install-kubernetes.md").read_text()
CODE = "\n".join(file.read_text() for file in (ROOT / "deploy_targets").rglob("*.py"))
TEXTS = re.findall(r"^\| `([^`]+)` \|", PAGE.split("## When something is wrong")[1], re.MULTILINE)


def test_its_commands_make_a_key_that_the_guard_lets_in(tmp_path) -> None:
    (commands,) = re.findall(r"```sh\n(key=.*?)```", PAGE, re.DOTALL)

    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )

    ring = parse_keys((tmp_path / "keys.json").read_text())
    key = done.stdout.strip()
    assert len(key) > 40
    assert ring.admit(f"Bearer {key}", endpoint="chat").name == "team-a"


def test_it_explains_texts() -> None:
    assert len(TEXTS) > 10


@pytest.mark.parametrize("text", TEXTS)
def test_each_text_that_it_explains_is_one_of_ours(text) -> None:
    assert text in CODE


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`((?:controller|rights|example|monitoring/generated)/)", PAGE)))
)
def test_the_folders_that_it_names_are_there(path) -> None:
    roots = (ROOT / "deploy_targets" / "install", ROOT / "deploy_targets")

    assert any((root / path).is_dir() for root in roots)
