"""Server-side apply on plain values: what becomes of an object, and whose its fields are."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kubernetes_api.apply import Applied, apply, updated_managers
from tests.kubernetes_api.ownership import (
    Manager,
    decoded,
    encoded,
    fields_of,
    read_managers,
    shown_path,
    written_managers,
)

TEXT = {"type": "string"}
PORT = {
    "type": "object",
    "properties": {
        "port": {"type": "integer"},
        "protocol": {**TEXT, "default": "TCP"},
        "name": TEXT,
    },
}
SPEC = {
    "type": "object",
    "properties": {
        "image": TEXT,
        "replicas": {"type": "integer"},
        "rules": {"type": "array", "items": TEXT, "x-kubernetes-list-type": "atomic"},
        "finalizers": {"type": "array", "items": TEXT, "x-kubernetes-list-type": "set"},
        "labels": {"type": "object", "additionalProperties": TEXT},
        "selector": {
            "type": "object",
            "additionalProperties": TEXT,
            "x-kubernetes-map-type": "atomic",
        },
        "ports": {
            "type": "array",
            "items": PORT,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["port", "protocol"],
        },
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"metadata": {"type": "object"}, "spec": SPEC},
}


def by(name: str, operation: str = "Apply") -> Manager:
    return Manager(name=name, operation=operation, api_version="v1")


def applied(live: Any, name: str, *, force: bool = False, **spec: Any) -> Any:
    """The object after an apply that must work."""
    base = live or {"metadata": {}}
    done = apply(base, {"spec": spec}, SCHEMA, manager=by(name), force=force)
    assert isinstance(done, Applied), done
    entries = written_managers(done.managers, live, "now")
    return {**done.body, "metadata": {"managedFields": entries}}


def conflicts(live: Any, name: str, **spec: Any) -> dict[str, list[str]]:
    """With whom an apply conflicts, and about which fields."""
    done = apply(live, {"spec": spec}, SCHEMA, manager=by(name), force=False)
    assert not isinstance(done, Applied)
    return {one.manager.name: [shown_path(path) for path in one.paths] for one in done}


def owned(body: Any) -> dict[str, list[str]]:
    managers = read_managers(body).items()
    return {one.name: sorted(shown_path(path) for path in fields) for one, fields in managers}


def test_a_field_that_another_manager_owns_is_a_conflict():
    live = applied(None, "first", image="a", replicas=1)

    assert conflicts(live, "second", image="b") == {"first": [".spec.image"]}


def test_the_same_value_is_owned_together():
    live = applied(applied(None, "first", image="a"), "second", image="a")

    assert owned(live) == {"first": [".spec.image"], "second": [".spec.image"]}


def test_force_takes_the_field_from_the_other():
    live = applied(applied(None, "first", image="a", replicas=1), "second", image="b", force=True)

    assert live["spec"] == {"image": "b", "replicas": 1}
    assert owned(live) == {"first": [".spec.replicas"], "second": [".spec.image"]}


def test_what_a_manager_no_longer_applies_goes_away():
    live = applied(applied(None, "first", image="a", replicas=1), "first", image="a")

    assert live["spec"] == {"image": "a"}


def test_what_somebody_else_owns_too_stays():
    both = applied(applied(None, "first", image="a", replicas=1), "second", replicas=1)

    assert applied(both, "first", image="a")["spec"] == {"image": "a", "replicas": 1}


def test_an_atomic_list_is_one_field():
    live = applied(None, "first", rules=["a", "b"])

    assert conflicts(live, "second", rules=["a", "b", "c"]) == {"first": [".spec.rules"]}
    assert owned(live) == {"first": [".spec.rules"]}


def test_an_atomic_map_is_one_field():
    live = applied(None, "first", selector={"app": "a"})

    assert conflicts(live, "second", selector={"app": "a", "b": "c"}) == {
        "first": [".spec.selector"]
    }


def test_maps_and_sets_are_shared_item_by_item():
    live = applied(None, "first", labels={"a": "1"}, finalizers=["x"])
    live = applied(live, "second", labels={"b": "2"}, finalizers=["y"])

    assert live["spec"] == {"labels": {"a": "1", "b": "2"}, "finalizers": ["y", "x"]}
    assert applied(live, "first")["spec"] == {"labels": {"b": "2"}, "finalizers": ["y"]}


def test_items_of_a_keyed_list_are_told_apart_by_key_with_its_default():
    live = applied(None, "first", ports=[{"port": 80, "name": "http"}])
    live = applied(live, "second", ports=[{"port": 443, "protocol": "TCP", "name": "https"}])
    moved = [{"port": 80, "protocol": "TCP", "name": "web"}]

    assert {one["port"] for one in live["spec"]["ports"]} == {80, 443}
    assert conflicts(live, "second", ports=moved) == {
        "first": ['.spec.ports[port=80,protocol="TCP"].name']
    }


def test_an_item_that_is_no_longer_applied_goes_with_all_that_is_in_it():
    live = applied(None, "first", ports=[{"port": 80}, {"port": 443}])

    assert applied(live, "first", ports=[{"port": 443}])["spec"] == {"ports": [{"port": 443}]}


def test_an_item_in_which_somebody_else_owns_a_field_stays():
    live = applied(None, "first", ports=[{"port": 80, "protocol": "TCP"}])
    live = applied(live, "second", ports=[{"port": 80, "protocol": "TCP", "name": "http"}])

    after = applied(live, "first", image="a")

    assert after["spec"]["ports"] == [{"port": 80, "protocol": "TCP", "name": "http"}]


def test_a_write_that_is_no_apply_takes_what_it_changes():
    live = applied(None, "first", image="a", replicas=1)
    body = {**live, "spec": {"image": "b", "replicas": 1}}

    managers = updated_managers(live, body, SCHEMA, manager=by("editor", "Update"))

    assert managers[by("first")] == {("f:spec", "f:replicas")}
    assert managers[by("editor", "Update")] == {("f:spec", "f:image")}


def test_a_write_that_changes_nothing_owns_nothing():
    live = applied(None, "first", image="a")

    assert updated_managers(live, live, SCHEMA, manager=by("editor", "Update")) == read_managers(
        live
    )


def test_an_entry_that_says_what_it_said_keeps_its_time():
    live = applied(None, "first", image="a")
    both = {**read_managers(live), by("second"): frozenset({("f:spec", "f:replicas")})}

    entries = written_managers(both, live, "later")

    assert [one["time"] for one in entries] == ["now", "later"]


VALUES = st.fixed_dictionaries(
    {},
    optional={
        "image": st.sampled_from("ab"),
        "replicas": st.integers(0, 2),
        "rules": st.lists(st.sampled_from("ab"), max_size=2),
        "finalizers": st.lists(st.sampled_from("abc"), max_size=3, unique=True),
        "labels": st.dictionaries(st.sampled_from("abc"), st.sampled_from("12"), max_size=3),
        "ports": st.lists(
            st.fixed_dictionaries({"port": st.integers(1, 3)}, optional={"name": st.just("n")}),
            max_size=3,
            unique_by=lambda one: one["port"],
        ),
    },
)


@given(first=VALUES, second=VALUES)
def test_what_is_forced_stands_there_and_is_owned(first, second):
    live = applied(applied(None, "first", **first), "second", force=True, **second)

    wanted = fields_of({"spec": second}, SCHEMA)
    assert wanted.keys() == read_managers(live).get(by("second"), frozenset())
    stands = fields_of(live, SCHEMA)
    said = {path: one for path, one in wanted.items() if one != {}}  # an empty map adds nothing
    assert {path: stands.get(path, []) for path in said} == said


@given(first=VALUES, second=VALUES)
def test_applying_again_changes_nothing(first, second):
    live = applied(applied(None, "first", **first), "second", force=True, **second)

    assert applied(live, "second", **second) == live


@given(before=VALUES, after=VALUES)
def test_a_lone_manager_gets_exactly_what_it_applies(before, after):
    live = applied(applied(None, "first", **before), "first", **after)

    stands, wanted = fields_of(live, SCHEMA), fields_of({"spec": after}, SCHEMA)
    assert stands == wanted


@given(spec=VALUES)
def test_fields_survive_being_written_down(spec):
    fields = frozenset(fields_of({"spec": spec}, SCHEMA))

    assert decoded(encoded(fields)) == fields


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        (("f:spec", "f:rules"), ".spec.rules"),
        (("f:a", 'k:{"name":"x"}', "f:b"), '.a[name="x"].b'),
        (("f:a", 'v:"x"'), '.a[="x"]'),
    ],
)
def test_paths_are_shown_as_kubernetes_does(path, shown):
    assert shown_path(path) == shown
