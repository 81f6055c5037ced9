"""Whether an answer is the JSON that its request asked for by `response_format`. Pure.

Schemas come from clients: none is fetched from anywhere, patterns in them are matched in linear time, and one that may be
too much work (`schema_work`) is not begun with.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import jsonschema_rs

from deploy_targets.guard.errors import RequestInvalid
from deploy_targets.guard.schema_work import MAX_LOOKS, count_looks, is_too_much

_MAX_SCHEMA_CHARS = 64_000
_PLACE = "response_format"


@dataclass(frozen=True, slots=True)
class JsonCheck:
    """What an answer has to be."""

    schema: jsonschema_rs.Validator | None
    """None where any JSON object will do."""
    looks: tuple[int, ...] = ()
    """What it takes to hold an answer against it, as `count_looks` says."""

    def holds(self, answer: str) -> bool:
        """Whether the whole answer is that, and nothing else. One that could be too much work is not."""
        try:
            document: object = json.loads(answer)
        except (ValueError, RecursionError):
            return False
        if self.schema is None:
            return isinstance(document, dict)
        return not is_too_much(document, self.looks) and self.schema.is_valid(document)


def json_check(document: dict[str, Any]) -> JsonCheck | None:
    """The check that a request asks for; None where it asks for text.

    Raises:
        RequestInvalid: its schema is none, is too large or too much work, or refers to one that would have to be fetched.
    """
    asked = document.get("response_format")
    if asked is None:
        return None
    if not isinstance(asked, dict):
        raise RequestInvalid(f"{_PLACE}: must be an object.", param=_PLACE)
    match cast("dict[str, Any]", asked):
        case {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return JsonCheck(None)
        case {"type": "json_schema", "json_schema": {"schema": schema}} if isinstance(schema, dict):
            return _compiled(cast("dict[str, Any]", schema))
        case _:
            message = (
                f"{_PLACE}: must be text, json_object, or json_schema with json_schema.schema."
            )
            raise RequestInvalid(message, param=_PLACE)


def _compiled(schema: dict[str, Any]) -> JsonCheck:
    text = json.dumps(schema)
    if len(text) > _MAX_SCHEMA_CHARS:
        message = f"{_PLACE}: the schema is larger than {_MAX_SCHEMA_CHARS} characters."
        raise RequestInvalid(message, param=_PLACE)
    return _check_by(text)


@lru_cache(maxsize=16)
def _check_by(text: str) -> JsonCheck:
    """The check by that schema. Programs ask with the same one again and again, and a request asks for it thrice."""
    schema: dict[str, Any] = json.loads(text)
    try:
        looks = count_looks(schema)
        compiled = jsonschema_rs.validator_for(
            schema, offline=True, pattern_options=jsonschema_rs.RegexOptions()
        )
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
        message = f"{_PLACE}: the schema is no JSON schema, or refers to one that is not in it."
        raise RequestInvalid(message, param=_PLACE) from error
    if looks[0] > MAX_LOOKS:
        message = f"{_PLACE}: to hold an answer against the schema could take too long. Use fewer references."
        raise RequestInvalid(message, param=_PLACE)
    return JsonCheck(compiled, looks)
