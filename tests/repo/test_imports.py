"""Who may import whom, and what is packaged."""

import subprocess
import sys
import tomllib
from pathlib import Path

from tests.repo.reference import PACKAGES, ROOT


def test_the_import_contracts_are_kept() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]

    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_every_package_of_the_tree_is_in_the_wheel() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = {
        ".".join(file.parent.relative_to(ROOT).parts)
        for package in PACKAGES
        for file in (ROOT / package).rglob("*.py")
    }

    assert set(project["tool"]["setuptools"]["packages"]) == folders


def test_an_init_holds_its_docstring_and_nothing_else() -> None:
    inits = [file for package in PACKAGES for file in (ROOT / package).rglob("__init__.py")]
    bodies = {file: compile(file.read_text(), file.name, "exec").co_names for file in inits}

    assert {str(file) for file, names in bodies.items() if set(names) - {"__doc__"}} == set()
    assert {str(file) for file in inits if not file.read_text().startswith('"""')} == set()
