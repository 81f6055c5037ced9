"""Lists and watches with the client's own Watch: selectors, bookmarks, versions that are too old."""

import threading
from typing import Any

import pytest
from kubernetes import client, watch
from kubernetes.client.exceptions import ApiException

from tests.kubernetes_api.objects import Objects, a_route, backend
from tests.kubernetes_api.selectors import parse_selectors, selected_name
from tests.kubernetes_api.status import Refusal

ROUTES = ("gateway.networking.k8s.io", "v1")


@pytest.fixture
def objects(cluster) -> Objects:
    return Objects(by=cluster.admin, namespace=cluster.a_namespace())


def named(name: str, **labels: str) -> dict[str, Any]:
    return {**a_route(backend("v6", 100)), "metadata": {"name": name, "labels": labels}}


def told(objects: Objects, count: int, **options: Any) -> list[tuple[str, str]]:
    """The first events of a watch: what happened, and to which object."""
    found = []
    for event in raw_events(objects, timeout_seconds=10, **options):
        metadata = event["object"]["metadata"]
        found.append((event["type"], metadata.get("name", "")))
        if len(found) == count:
            break
    return found


def raw_events(objects: Objects, **options: Any) -> Any:
    api = client.CustomObjectsApi(objects.by)
    place = (*ROUTES, objects.namespace, "httproutes")
    return watch.Watch().stream(api.list_namespaced_custom_object, *place, **options)


def test_a_list_tells_from_where_a_watch_goes_on(objects):
    objects.post(named("a"))
    listed = objects.list(a_route())
    objects.post(named("b"))
    objects.merge(named("a"), {"metadata": {"labels": {"x": "y"}}})
    objects.delete(named("b"))

    assert [one["metadata"]["name"] for one in listed["items"]] == ["a"]
    since = listed["metadata"]["resourceVersion"]
    assert told(objects, 3, resource_version=since) == [
        ("ADDED", "b"),
        ("MODIFIED", "a"),
        ("DELETED", "b"),
    ]


def test_a_watch_without_a_version_begins_with_what_is_there(objects):
    objects.post(named("a"))
    objects.post(named("b"))

    assert told(objects, 2) == [("ADDED", "a"), ("ADDED", "b")]


@pytest.mark.stand_in("when it compacts and sends bookmarks")
def test_a_watch_is_told_while_it_waits(cluster, objects):
    found: list[tuple[str, str]] = []
    watching = threading.Thread(target=lambda: found.extend(told(objects, 1)))
    watching.start()
    cluster.server.wait_for_watches(1)
    objects.post(named("a"))
    watching.join(60)

    assert found == [("ADDED", "a")]


def test_other_namespaces_and_kinds_are_not_told(cluster, objects):
    elsewhere = Objects(by=cluster.admin, namespace=cluster.a_namespace())
    since = objects.list(a_route())["metadata"]["resourceVersion"]
    elsewhere.post(named("a"))
    objects.post(named("b"))

    assert told(objects, 1, resource_version=since) == [("ADDED", "b")]
    everywhere = client.CustomObjectsApi(cluster.admin).list_cluster_custom_object(
        *ROUTES, "httproutes"
    )
    assert {one["metadata"]["name"] for one in everywhere["items"]} == {"a", "b"}


def test_labels_select_what_is_listed_and_watched(objects):
    objects.post(named("ours", app="shipway"))
    objects.post(named("theirs", app="other"))

    listed = objects.list(a_route(), label_selector="app=shipway")

    assert [one["metadata"]["name"] for one in listed["items"]] == ["ours"]
    assert told(objects, 1, label_selector="app=other") == [("ADDED", "theirs")]


def test_what_is_no_longer_selected_was_deleted_for_the_watch(objects):
    objects.post(named("a", app="shipway"))
    since = objects.list(a_route())["metadata"]["resourceVersion"]
    objects.merge(named("a"), {"metadata": {"labels": {"app": "other"}}})
    objects.merge(named("a"), {"metadata": {"labels": {"app": "shipway"}}})

    events = told(objects, 2, resource_version=since, label_selector="app=shipway")

    assert events == [("DELETED", "a"), ("ADDED", "a")]


def test_what_was_deleted_is_shown_as_it_was_with_the_version_of_its_end(objects):
    objects.post(named("a", app="shipway"))
    since = objects.list(a_route())["metadata"]["resourceVersion"]
    now = objects.merge(named("a"), {"metadata": {"labels": {"app": "other"}}})

    selected = raw_events(
        objects, resource_version=since, label_selector="app=shipway", timeout_seconds=10
    )

    shown = next(selected)["object"]["metadata"]
    assert shown["labels"] == {"app": "shipway"}
    assert shown["resourceVersion"] == now["metadata"]["resourceVersion"]


def test_one_object_is_watched_by_its_name(objects):
    objects.post(named("a"))
    objects.post(named("b"))

    assert told(objects, 1, field_selector="metadata.name=b") == [("ADDED", "b")]


@pytest.mark.stand_in("when it compacts and sends bookmarks")
def test_bookmarks_move_the_version_on_while_nothing_happens(cluster, objects):
    cluster.server.bookmark_s = 0.01
    since = objects.list(a_route())["metadata"]["resourceVersion"]
    Objects(by=cluster.admin, namespace=cluster.a_namespace()).post(named("elsewhere"))
    now = str(cluster.server.store.revision)

    events = raw_events(
        objects, resource_version=since, allow_watch_bookmarks=True, timeout_seconds=10
    )
    seen = next(one for one in events if one["object"]["metadata"]["resourceVersion"] == now)

    assert seen["type"] == "BOOKMARK"
    assert seen["object"]["kind"] == "HTTPRoute"


@pytest.mark.stand_in("when it compacts and sends bookmarks")
def test_without_asking_there_are_no_bookmarks(cluster, objects):
    cluster.server.bookmark_s = 0.01
    since = objects.list(a_route())["metadata"]["resourceVersion"]

    assert list(raw_events(objects, resource_version=since, timeout_seconds=1)) == []


@pytest.mark.stand_in("when it compacts and sends bookmarks")
def test_a_watch_that_is_open_outlives_a_compaction(cluster, objects):
    found: list[tuple[str, str]] = []
    since = objects.list(a_route())["metadata"]["resourceVersion"]
    watching = threading.Thread(
        target=lambda: found.extend(told(objects, 1, resource_version=since))
    )
    watching.start()
    cluster.server.wait_for_watches(1)
    cluster.server.compact()
    objects.post(named("a"))
    watching.join(60)

    assert found == [("ADDED", "a")]


@pytest.mark.stand_in("when it compacts and sends bookmarks")
def test_after_a_compaction_a_new_list_can_be_watched(cluster, objects):
    objects.post(named("a"))
    old = objects.list(a_route())["metadata"]["resourceVersion"]
    cluster.server.compact()
    new = objects.list(a_route())["metadata"]["resourceVersion"]
    objects.post(named("b"))

    with pytest.raises(ApiException) as caught:
        told(objects, 1, resource_version=old)
    assert caught.value.status == 410
    assert told(objects, 1, resource_version=new) == [("ADDED", "b")]


@pytest.mark.stand_in("when it compacts and sends bookmarks")
def test_what_is_long_ago_is_forgotten_event_by_event(cluster, objects, monkeypatch):
    monkeypatch.setattr("tests.kubernetes_api.store._REMEMBERED", 2)
    first = objects.post(named("a"))["metadata"]["resourceVersion"]
    for name in ("b", "c", "d"):
        last = objects.post(named(name))["metadata"]["resourceVersion"]

    assert [event.key.name for event in cluster.server.store.events] == ["c", "d"]
    with pytest.raises(ApiException) as caught:
        told(objects, 1, resource_version=first)
    assert caught.value.status == 410
    before_last = str(int(last) - 1)
    assert told(objects, 1, resource_version=before_last) == [("ADDED", "d")]


LABELS = {"metadata": {"name": "a", "labels": {"app": "shipway", "version": "7"}}}


@pytest.mark.parametrize(
    ("labels", "is_selected"),
    [
        ("", True),
        ("app=shipway", True),
        ("app==shipway,version=7", True),
        ("app=shipway,version=8", False),
        ("app!=other", True),
        ("missing!=other", True),
        ("version in (6, 7)", True),
        ("version in (6,8),app", False),
        ("version notin (6,8)", True),
        ("app", True),
        ("!app", False),
        ("!missing", True),
    ],
)
def test_label_selectors(labels, is_selected):
    assert parse_selectors(labels, "")(LABELS) is is_selected


def test_what_is_no_selector_gets_400_and_an_unknown_field_501():
    with pytest.raises(Refusal) as caught:
        parse_selectors("a b", "")
    assert caught.value.status["code"] == 400
    with pytest.raises(Refusal) as caught:
        parse_selectors("", "spec.nodeName=a")
    assert caught.value.status["code"] == 501


def test_the_name_in_a_field_selector_is_told():
    assert selected_name("metadata.name=a") == "a"
    assert selected_name("metadata.name!=a") == ""
    assert selected_name("") == ""
