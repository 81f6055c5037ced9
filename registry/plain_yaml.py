"""YAML that others wrote, read without harm: plain values, no bombs. Every YAML text from outside goes through here.

PyYAML's safe loader runs no code, but it recurses as deep as a text asks for, and an alias of an alias of an alias makes ten
lines mean a billion values, on which whoever walks over them hangs. Pure.
"""

import re
from typing import Any, cast

import yaml

_MAX_DEPTH = 64
_MAX_VALUES = 1_000_000
"""With each alias written out. A guess: the longest file of ours has some hundreds."""

_MAX_DIGITS = 1000
"""Of one number. `1:1:1` is a number to base 60 in YAML 1.1, and a megabyte of that takes minutes to be worked out."""
_HALF = re.compile("[\ud800-\udfff]")
"""PyYAML makes it of `"\\ud800"`, and no text that holds it can be written anywhere."""
_NUMBERS = frozenset({"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"})


class _Bomb(yaml.YAMLError):
    """A text that is YAML and means too much."""


class _PlainLoader(yaml.SafeLoader):
    def __init__(self, text: str | bytes) -> None:
        super().__init__(text)
        self._depth = 0
        self._meant: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """As PyYAML's, which recurses here, and at the end of each node what it means is known: its parts came before."""
        if self._depth == _MAX_DEPTH:
            raise _Bomb(f"it is nested deeper than {_MAX_DEPTH}")
        is_alias: bool = cast("Any", self).check_event(yaml.AliasEvent)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is not None and is_alias and id(node) not in self._meant:
            raise _Bomb("an alias stands inside of what it names")
        if (
            isinstance(node, yaml.ScalarNode)
            and node.tag in _NUMBERS
            and len(node.value) > _MAX_DIGITS
        ):
            raise _Bomb(f"a number of {len(node.value)} characters")
        if isinstance(node, yaml.ScalarNode) and _HALF.search(node.value):
            raise _Bomb("a text has half of a surrogate pair, which no file or answer can hold")
        if node is not None and not is_alias:
            self._meant[id(node)] = self._count(node)
        return node

    def _count(self, node: yaml.Node) -> int:
        """How many values the node means; its parts are counted already."""
        parts: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            parts = node.value
        elif isinstance(node, yaml.MappingNode):
            parts = [part for pair in node.value for part in pair]
        count = 1 + sum(self._meant[id(part)] for part in parts)
        if count > _MAX_VALUES:
            raise _Bomb(f"its aliases written out are more than {_MAX_VALUES} values")
        return count


def load_yaml(text: str | bytes) -> Any:
    """The values of the YAML document `text`.

    Raises:
        yaml.YAMLError: it is none, has a date or number that cannot be or is longer than 1000, a tag before what it does not
            fit, or half of a surrogate pair, is nested deeper than 64, or means more than a million values once its aliases
            are written out.
    """
    try:
        return yaml.load(text, _PlainLoader)  # noqa: S506 - a safe loader, and safer
    except (ValueError, TypeError, RecursionError) as error:
        raise yaml.YAMLError(str(error)) from error
    except (AttributeError, LookupError, ArithmeticError) as error:
        # PyYAML takes it for granted that a tag stands before a value of its kind: not so in `!!int ''` or `!!timestamp x`.
        message = f"a value is not of the kind that its tag says ({type(error).__name__}: {error})"
        raise yaml.YAMLError(message) from error
