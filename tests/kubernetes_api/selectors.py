"""Label and field selectors of lists and watches. Pure."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from tests.kubernetes_api.status import bad_request, not_built

Body = Mapping[str, Any]
Selector = Callable[[Body], bool]

_KEY = r"[A-Za-z0-9]([-A-Za-z0-9_./]*[A-Za-z0-9])?"
_SET = re.compile(rf"(?P<key>{_KEY})\s+(?P<how>in|notin)\s+\((?P<values>[^)]*)\)")
_EQUALITY = re.compile(rf"(?P<key>{_KEY})\s*(?P<how>==|=|!=)\s*(?P<value>[-A-Za-z0-9_.]*)")
_PRESENCE = re.compile(rf"(?P<not>!?)\s*(?P<key>{_KEY})")
_COMMA = re.compile(r",(?![^(]*\))")
_FIELDS = ("metadata.name", "metadata.namespace")


def parse_selectors(labels: str, fields: str) -> Selector:
    """What both selectors let through.

    Raises:
        Refusal: 400 for what is no selector, 501 for a field that is not served here.
    """
    wanted = [_label_requirement(one.strip()) for one in _COMMA.split(labels) if one.strip()]
    wanted += [_field_requirement(one) for one in fields.split(",") if one]
    return lambda body: all(one(body) for one in wanted)


def selected_name(fields: str) -> str:
    """The one name that a field selector lets through: RBAC's resourceNames cover such a list."""
    names = [
        one.partition("=")[2].lstrip("=")
        for one in fields.split(",")
        if one.startswith("metadata.name=")
    ]
    return names[0] if len(names) == 1 else ""


def _label_requirement(text: str) -> Selector:
    if found := _SET.fullmatch(text):
        values = {one.strip() for one in found["values"].split(",")}
        key, is_in = found["key"], found["how"] == "in"
        return lambda body: (_labels(body).get(key) in values) is is_in
    if found := _EQUALITY.fullmatch(text):
        key, value, is_equal = found["key"], found["value"], found["how"] != "!="
        return lambda body: (_labels(body).get(key) == value) is is_equal
    if found := _PRESENCE.fullmatch(text):
        key, is_there = found["key"], not found["not"]
        return lambda body: (key in _labels(body)) is is_there
    raise bad_request(f"unable to parse requirement: {text}")


def _labels(body: Body) -> Mapping[str, str]:
    return body["metadata"].get("labels") or {}


def _field_requirement(text: str) -> Selector:
    key, _, value = text.partition("=")
    is_equal, key = not key.endswith("!"), key.rstrip("!")
    if key not in _FIELDS:
        raise not_built(f"a field selector for {key}")
    wanted = value.lstrip("=")
    return lambda body: (body["metadata"].get(key.partition(".")[2]) == wanted) is is_equal
