"""The Dockerfiles, which cannot be built here: linted, and held to what the images promise."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.repo.reference import ROOT

FILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
INSTALL = r'uv pip install [^\n]*-c constraints\.txt "\.\[([a-z]+)\]"'


def test_there_is_one_for_each_part() -> None:
    assert [file.stem for file in FILES] == ["controller", "engine", "guard", "pipeline", "ray"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_linter_finds_nothing(file) -> None:
    command = [str(Path(sys.executable).with_name("hadolint")), str(file)]

    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_installs_its_own_extra_under_the_constraints(file) -> None:
    assert re.findall(INSTALL, file.read_text()) == [file.stem]


def test_the_makefile_installs_in_the_same_way() -> None:
    makefile = (ROOT / "Makefile").read_text()

    assert re.search(r"uv pip install [^\n]*-c constraints\.txt", makefile)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_runs_without_root_and_says_how_it_feels(file) -> None:
    final = file.read_text().split("\nFROM ")[-1]

    assert re.findall(r"^USER (.*)$", final, flags=re.MULTILINE) == ["10001:10001"]
    assert "\nHEALTHCHECK " in final


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_it_copies_reaches_the_builder(file) -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", file.read_text(), flags=re.MULTILINE)
    sources = [source for line in copied for source in line.split()]

    assert sources
    assert [s for s in sources if f"!{s}" not in ignored and f"!{s}/" not in ignored] == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_no_secret_is_baked_in(file) -> None:
    assert not re.search(r"(?i)(secret|password|token|access_key)\w*=\S", file.read_text())
