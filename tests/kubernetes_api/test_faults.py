"""What goes wrong on demand, as the unmodified client sees it."""

import threading
import time

import pytest
import urllib3
from kubernetes import client, watch

from tests.kubernetes_api.cluster import a_cluster
from tests.kubernetes_api.objects import Objects, a_route, backend
from tests.kubernetes_api.server import ADMIN_TOKEN
from tests.kubernetes_api.test_measured_answers import refused
from tests.kubernetes_api.test_watches import raw_events

LATENCY_S = 0.2


pytestmark = pytest.mark.stand_in("faults on demand")


@pytest.fixture
def objects(cluster) -> Objects:
    """Somebody whose client tries once: what is seen is what was answered."""
    once = cluster.client_with(ADMIN_TOKEN, retries=0)
    return Objects(by=once, namespace=cluster.a_namespace())


def test_every_answer_takes_its_time(cluster, objects):
    cluster.server.faults.latency_s = LATENCY_S
    began = time.monotonic()

    objects.list(a_route())

    assert time.monotonic() - began >= LATENCY_S


def test_an_answer_that_takes_too_long_is_given_up(cluster, objects):
    cluster.server.faults.latency_s = 60

    with pytest.raises(urllib3.exceptions.HTTPError):
        objects.list(a_route(), _request_timeout=0.05)


def test_the_next_requests_are_told_to_come_later(cluster, objects):
    cluster.server.faults.answer_next(429, times=2, retry_after_s=3)

    status = refused(429, objects.list, a_route())

    assert status["reason"] == "TooManyRequests"
    assert status["details"]["retryAfterSeconds"] == 3
    with pytest.raises(client.ApiException) as caught:
        objects.list(a_route())
    assert caught.value.headers["Retry-After"] == "3"
    assert objects.list(a_route())["items"] == []


@pytest.mark.parametrize(("code", "reason"), [(500, "InternalError"), (503, "ServiceUnavailable")])
def test_a_request_that_fails_changes_nothing(cluster, objects, code, reason):
    cluster.server.faults.answer_next(code)

    assert refused(code, objects.post, a_route(backend("v6", 100)))["reason"] == reason
    assert objects.list(a_route())["items"] == []


def test_a_quota_or_a_webhook_can_say_no(cluster, objects):
    cluster.server.faults.answer_next(403, verbs=("create",), message="exceeded quota: gpus")

    status = refused(403, objects.post, a_route(backend("v6", 100)))

    assert (status["reason"], status["message"]) == ("Forbidden", "exceeded quota: gpus")
    assert objects.list(a_route())["items"] == []


def test_the_next_writes_conflict_and_reads_do_not(cluster, objects):
    created = objects.post(a_route(backend("v6", 100)))
    cluster.server.faults.conflict_next_writes(2)

    assert objects.get(created) == created
    assert refused(409, objects.put, created)["reason"] == "Conflict"
    refused(409, objects.merge, created, {})
    assert objects.put(created) == created


def test_a_fault_is_for_its_kind_and_verb_alone(cluster, objects):
    cluster.server.faults.answer_next(500, plural="httproutes", verbs=("list",))
    client.CoreV1Api(cluster.admin).list_namespace()
    objects.post(a_route(backend("v6", 100)))

    refused(500, objects.list, a_route())

    assert cluster.server.faults.left == 0


def test_faults_can_be_forgotten(cluster, objects):
    cluster.server.faults.answer_next(500, times=9)
    cluster.server.faults.latency_s = 60

    cluster.server.faults.clear()

    assert objects.list(a_route())["items"] == []


def test_a_dropped_watch_ends_without_a_last_word_and_can_go_on(cluster, objects):
    since = objects.list(a_route())["metadata"]["resourceVersion"]
    ended = threading.Event()

    def look() -> None:
        with pytest.raises(urllib3.exceptions.ProtocolError):
            list(raw_events(objects, resource_version=since, timeout_seconds=60))
        ended.set()

    watching = threading.Thread(target=look)
    watching.start()
    cluster.server.wait_for_watches(1)
    cluster.server.drop_watches()
    watching.join(60)
    objects.post(a_route(backend("v6", 100)))

    assert ended.is_set()
    seen = next(raw_events(objects, resource_version=since, timeout_seconds=10))
    assert (seen["type"], seen["object"]["metadata"]["name"]) == ("ADDED", "chat")


def test_a_server_that_is_away_refuses_connections_and_comes_back_with_its_state(cluster, objects):
    created = objects.post(a_route(backend("v6", 100)))
    url = cluster.server.url

    cluster.server.go_away()

    with pytest.raises(urllib3.exceptions.HTTPError) as caught:
        objects.get(created)
    assert "Connection refused" in str(caught.value)
    cluster.server.come_back()
    assert cluster.server.url == url
    assert objects.get(created) == created


def test_a_watch_ends_when_the_server_goes_away(cluster, objects):
    def look() -> None:
        api = client.CustomObjectsApi(objects.by)
        place = ("gateway.networking.k8s.io", "v1", objects.namespace, "httproutes")
        with pytest.raises(urllib3.exceptions.HTTPError):
            list(watch.Watch().stream(api.list_namespaced_custom_object, *place))
        ended.set()

    ended = threading.Event()
    watching = threading.Thread(target=look)
    watching.start()
    cluster.server.wait_for_watches(1)

    cluster.server.go_away()

    watching.join(60)
    assert ended.is_set()
    cluster.server.wait_for_watches(0)


def test_a_server_starts_and_ends_well_within_a_second(cluster):
    took_s: list[float] = []
    for _ in range(3):
        began = time.monotonic()
        cluster.server.go_away()
        cluster.server.come_back()
        took_s.append(time.monotonic() - began)

    assert min(took_s) < 1  # the others may have met a busy box


def test_a_failure_inside_fails_the_test(cluster, objects, monkeypatch):
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("tests.kubernetes_api.server.answer", fail)

    status = refused(500, objects.list, a_route())

    assert "ZeroDivisionError" in status["message"]
    assert "ZeroDivisionError" in cluster.server.errors.pop()


def test_a_crd_that_is_not_installed_is_not_served(cluster):
    catalogue = cluster.server.catalogue.without("httproutes")

    with a_cluster(catalogue) as bare:
        api = client.CustomObjectsApi(bare.admin)
        listed = api.get_api_resources("gateway.networking.k8s.io", "v1")

        with pytest.raises(client.ApiException) as caught:
            Objects(by=bare.admin, namespace="default").list(a_route())

    assert caught.value.status == 404
    assert [one.name for one in listed.resources] == ["gateways"]
