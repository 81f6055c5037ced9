"""MLproject and the entry points' own options agree."""

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

PROJECT = yaml.safe_load((Path(__file__).parents[2] / "MLproject").read_text())
MODULES = {
    "release": "pipelines.release",
    "retrain": "pipelines.retrain.__main__",
    "download": "pipelines.download.__main__",
    "quantize": "pipelines.quantize.__main__",
    "evaluate": "pipelines.compare",
    "version": "pipelines.version",
}


def options(name: str) -> dict[str, Any]:
    """Each option of the entry point: its default, or None where it must be given."""
    app = typer.Typer(add_completion=False)
    app.command()(importlib.import_module(MODULES[name]).main)
    command = typer.main.get_command(app)
    return {p.name: None if p.required else p.default for p in command.params if p.name != "help"}


def test_every_stage_is_an_entry_point() -> None:
    assert PROJECT["entry_points"].keys() == MODULES.keys()


@pytest.mark.parametrize("name", MODULES)
def test_an_entry_point_offers_exactly_the_modules_options(name) -> None:
    declared = PROJECT["entry_points"][name]["parameters"]
    offered = options(name)
    assert declared.keys() == offered.keys()
    for parameter, default in offered.items():
        spec = declared[parameter]
        if isinstance(spec, dict) and default is not None:
            assert str(spec["default"]) == str(getattr(default, "value", default))
        elif isinstance(spec, dict):
            # MLproject may know an example that the module does not: a recipe.
            assert (Path(__file__).parents[2] / spec["default"]).is_file()
        else:
            assert default is None


@pytest.mark.parametrize("name", MODULES)
def test_an_entry_points_command_passes_each_parameter_to_its_option(name) -> None:
    entry = PROJECT["entry_points"][name]
    passed = re.findall(r"--([a-z-]+) \{([a-z_]+)\}", entry["command"])
    module = MODULES[name].removesuffix(".__main__")
    assert entry["command"].split()[:3] == ["python", "-m", module]
    assert {parameter for _, parameter in passed} == entry["parameters"].keys()
    assert all(option.replace("-", "_") == parameter for option, parameter in passed)
