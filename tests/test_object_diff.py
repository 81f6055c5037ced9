"""What counts as a change, and how it is shown."""

from typing import Any

from deploy_targets.object_diff import Change


def an_object(weight: int = 95, **metadata: Any) -> dict[str, Any]:
    named = {"name": "chat", "namespace": "llm", "labels": {"a": "b"}, **metadata}
    return {"apiVersion": "v1", "kind": "Route", "metadata": named, "spec": {"weight": weight}}


def test_the_servers_own_bookkeeping_and_the_status_are_no_change() -> None:
    kept = {"resourceVersion": "5", "generation": 2, "uid": "u", "managedFields": [{}]}
    live = {**an_object(**kept), "status": {"ready": True}}

    change = Change(before=live, after=an_object(resourceVersion="6"))

    assert change.is_none
    assert change.text() == "= Route llm/chat stays as it is\n"


def test_a_changed_field_is_shown_before_and_after() -> None:
    change = Change(before=an_object(95), after=an_object(50))

    assert not change.is_none
    lines = change.text().splitlines()
    assert lines[:2] == ["--- Route llm/chat (live)", "+++ Route llm/chat (applied)"]
    assert [line for line in lines[2:] if line[0] in "+-"] == ["-  weight: 95", "+  weight: 50"]


def test_what_is_new_is_shown_whole() -> None:
    change = Change(before=None, after=an_object())

    assert not change.is_none
    assert change.text().startswith("--- nothing\n+++ Route llm/chat (applied)\n")
    assert "+  weight: 95\n" in change.text()


def test_labels_and_annotations_are_part_of_an_object() -> None:
    assert not Change(before=an_object(), after=an_object(labels={"a": "c"})).is_none
    assert not Change(before=an_object(), after=an_object(annotations={"x": "y"})).is_none
