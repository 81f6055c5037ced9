"""YAML that means too much, given to each reader of YAML."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy_targets.endpoint import parse_endpoints
from deploy_targets.rollout.observations import parse_policy
from deploy_targets.rollout.scenario import parse_scenario
from pipelines.evaluate.margins import read_margins
from pipelines.quantize.recipes import parse_recipe
from pipelines.retrain.recipe import parse_adapter
from pipelines.schedule.declared import parse_schedules
from registry.errors import BadInput
from registry.plain_yaml import load_yaml

_LETTERS = "abcdefghi"
_STEPS = list(pairwise(_LETTERS))
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{one}: &{one} [{', '.join([f'*{before}'] * 9)}]\n" for before, one in _STEPS
)
MERGES = "a: &a {k: v, l: v}\n" + "".join(
    f"{one}: &{one} {{<<: [{', '.join([f'*{before}'] * 9)}]}}\n" for before, one in _STEPS
)
BOMBS = {
    "a billion laughs": (LAUGHS, "its aliases written out are more than 1000000 values"),
    "a billion merges": (MERGES, "its aliases written out are more than 1000000 values"),
    "nested without end": ("a: " + "[" * 20_000, "nested deeper than 64"),
    "an alias of itself": ("a: &a [*a]", "an alias stands inside of what it names"),
    "an alias of itself as a key": ("&a {*a : 1}", "an alias stands inside of what it names"),
    "a number without end": ("a: 1" + "0" * 5_000, "a number of 5001 characters"),
    "a number to base 60 without end": ("a: 1" + ":1" * 500_000, "a number of 1000001 characters"),
    "a fraction to base 60 without end": ("a: 1" + ":1" * 500_000 + ".5", "a number of 1000003"),
    "an object of Python's": ("a: !!python/object/apply:os.system [id]", "constructor"),
    "a time that is none": ("a: !!timestamp x", "not of the kind that its tag says"),
    "a number that is none": ("a: !!int ''", "not of the kind that its tag says"),
    "a fraction that is none": ("a: !!float ''", "not of the kind that its tag says"),
    "neither true nor false": ("a: !!bool x", "not of the kind that its tag says"),
    "a text that cannot be written": ('a: "\\ud800"', "half of a surrogate pair"),
    "a name that cannot be written": ('{"\\udfff": 1}', "half of a surrogate pair"),
    "a list as a key": ("{[a, b]: c}", "unhashable"),
}


def _margins(text: str, folder: Path) -> Any:
    (folder / "margins.yaml").write_text(text)
    return read_margins(str(folder / "margins.yaml"))


READERS: dict[str, Callable[[str, Path], Any]] = {
    "endpoint file": lambda text, _: parse_endpoints(text, origin="it"),
    "policy": lambda text, _: parse_policy(text, origin="it"),
    "scenario": lambda text, _: parse_scenario(text, origin="it"),
    "recipe": lambda text, _: parse_recipe(text, where="it"),
    "adapter": lambda text, _: parse_adapter(text, where="it"),
    "schedules": lambda text, _: parse_schedules(text, where="it"),
    "margins": _margins,
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize(("text", "says"), BOMBS.values(), ids=BOMBS)
@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_a_yaml_bomb_is_refused_by_every_reader(read, text, says, tmp_path) -> None:
    with pytest.raises(BadInput, match=says):
        read(text, tmp_path)


def test_aliases_that_people_use_are_read() -> None:
    text = "one: &one {a: [1, 2]}\ntwo: {<<: *one, b: 3}\nthree: *one\n"
    assert load_yaml(text) == yaml.safe_load(text)
