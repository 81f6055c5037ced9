"""A model's card and licence: kept beside the checkpoint as lineage, not inside it, so that a card's typo is no new model."""

import fnmatch
import re
from pathlib import Path
from typing import Any, cast

import yaml

from registry.plain_yaml import load_yaml

CARD = "card"
"""The folder of a work folder that holds them."""
CARD_FILES = ("README.md", "LICEN[CS]E*", "NOTICE*", "USE_POLICY*")
"""What says under which terms a model may be used."""
_MAX_CARD_CHARACTERS = 1 << 20
"""Of a card that is read: it is a stranger's, and the front matter of the longest that we know has some thousands."""
_FRONT = re.compile(r"\A\ufeff?---[ \t]*\n(.*?)\n---[ \t]*(?:\n|\Z)", re.DOTALL)
_MAX_CHARACTERS = 200


def is_card(name: str) -> bool:
    """Whether the file `name` of a checkpoint's folder is a card or a licence."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in CARD_FILES)


def take_card(folder: Path, into: Path, *, move: bool) -> None:
    """The cards and licences at the top of `folder` are in `into` afterwards, and with `move` nowhere else."""
    for file in sorted(folder.iterdir()):
        if file.is_file() and is_card(file.name):
            (into / file.name).write_bytes(file.read_bytes())
            if move:
                file.unlink()


def read_card(folder: Path) -> dict[str, str]:
    """What the card in `folder` states of `licence` and `base_model`; what it does not state is left out."""
    try:
        with (folder / "README.md").open(encoding="utf-8", errors="replace") as file:
            text = file.read(_MAX_CARD_CHARACTERS)
    except FileNotFoundError:
        return {}
    return parse_card(text)


def parse_card(text: str) -> dict[str, str]:
    """The same of a card's text. A front matter that is no YAML states nothing: the card is kept, whatever it says."""
    front = _FRONT.match(text)
    try:
        loaded: Any = load_yaml(front[1]) if front else None
    except yaml.YAMLError:
        return {}
    if not isinstance(loaded, dict):
        return {}
    stated = cast("dict[str, Any]", loaded)
    licence = stated.get("license")
    if licence in ("other", None):
        licence = stated.get("license_name") or licence
    told = {"licence": _words(licence), "base_model": _words(stated.get("base_model"))}
    return {name: value for name, value in told.items() if value}


def _words(value: Any) -> str:
    items = cast("list[Any]", value) if isinstance(value, list) else [value]
    return ", ".join(str(item) for item in items if item)[:_MAX_CHARACTERS]
