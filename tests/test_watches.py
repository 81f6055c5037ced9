"""Watches as hints, on the stand-in through the real client: real threads, and short pauses."""

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from deploy_targets.api_answer import Kind
from deploy_targets.cluster import HTTP_ROUTE, RAY_SERVICE, Cluster, EventStream
from deploy_targets.kubernetes_targets import ClusterSettings, cluster_watches, watched_kinds
from deploy_targets.manifest import OWN_LABELS, object_labels
from deploy_targets.rollout.loop import Loop
from deploy_targets.rollout.settings import ControllerSettings
from deploy_targets.watches import _JOIN_S, Pauses, Place, Watch, Watches, places_of
from registry.errors import KindMissing, TargetChanged, TargetRefused, TargetUnavailable
from registry.events import Event
from tests.builders import GATEWAY, a_knative_endpoint, a_ray_endpoint, an_endpoint
from tests.kubernetes_api.objects import Objects, a_ray_service, a_route, backend

pytestmark = pytest.mark.stand_in("when watches are dropped, expire and get bookmarks")

_LONG_S = 60.0
QUICK = Pauses(first_s=0.02, longest_s=0.1, refused_s=0.1, standby_s=0.02, spacing_s=0.02)
_EVERYTHING = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}


class Notes:
    """What happened, and a way to wait for more of it."""

    def __init__(self) -> None:
        self.wakes: list[tuple[float, str]] = []
        self.since: list[str] = []
        """From where each watch was asked for."""
        self.lists = 0
        self.events: list[Any] = []
        self.changed = threading.Condition()

    def note(self, change: Callable[[], object]) -> None:
        with self.changed:
            change()
            self.changed.notify_all()

    def wake(self, name: str) -> None:
        self.note(lambda: self.wakes.append((time.monotonic(), name)))

    @property
    def woken(self) -> Counter[str]:
        return Counter(name for _, name in self.wakes)

    def wait_for(self, holds: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(holds, _LONG_S), (self.woken, self.since, self.lists)

    def wait_for_wake_of(self, name: str, *, after: int) -> None:
        self.wait_for(lambda: self.woken[name] > after)


class Noted(Cluster):
    """The real adapter; what is asked of it and heard from it is noted."""

    notes: Notes

    def newest_version(self, *args: Any, **named: Any) -> str:
        self.notes.note(lambda: setattr(self.notes, "lists", self.notes.lists + 1))
        return super().newest_version(*args, **named)

    def watch(self, *args: Any, since: str, **named: Any) -> EventStream:
        self.notes.note(lambda: self.notes.since.append(since))
        notes, stream = self.notes, super().watch(*args, since=since, **named)

        class Heard(EventStream):
            def __init__(self) -> None: ...

            def __iter__(self) -> Iterator[Any]:
                for event in stream:
                    yield event
                    notes.note(lambda event=event: notes.events.append(event))

            def end(self) -> None:
                stream.end()

            def close(self) -> None:
                stream.close()

        return Heard()


@pytest.fixture
def namespace(cluster: Any) -> str:
    return cluster.a_namespace()


@pytest.fixture
def objects(cluster: Any, namespace: str) -> Objects:
    return Objects(by=cluster.admin, namespace=namespace)


@pytest.fixture
def notes() -> Notes:
    return Notes()


def connected(api: Any, notes: Notes) -> Noted:
    api.rest_client.pool_manager.connection_pool_kw["retries"] = False  # as `connect` has it
    made = Noted(api, sleep=time.sleep, jitter=lambda: 0.0, attempts=1, answer_s=5)
    made.notes = notes
    return made


Begin = Callable[..., Watches]


@pytest.fixture
def begin(cluster: Any, namespace: str, notes: Notes) -> Iterator[Begin]:
    """Starts watches on RayServices and routes for endpoints a and b, and waits until they are open."""
    begun: list[Watches] = []
    numbers = itertools.count()

    def start(
        *,
        kinds: Iterable[Kind] = (HTTP_ROUTE, RAY_SERVICE),
        rules: Any = (_EVERYTHING,),
        open_ones: int | None = None,
        **options: Any,
    ) -> Watches:
        kinds = tuple(kinds)
        api = cluster.an_account(namespace, f"watcher-{next(numbers)}", list(rules))
        watches = Watches(
            connected(api, notes),
            places_of((name, namespace, kinds) for name in "ab"),
            **{
                "wake": notes.wake,
                "leads": lambda: True,
                "jitter": lambda: 0.0,
                "pauses": QUICK,
                **options,
            },
        )
        watches.begin()
        begun.append(watches)
        cluster.server.wait_for_watches(len(kinds) if open_ones is None else open_ones)
        if open_ones != 0:
            notes.wait_for(lambda: min(notes.woken["a"], notes.woken["b"]) >= 1)
            settle(watches)
        return watches

    def settle(watches: Watches) -> None:
        """Until the hints of the lists have all been passed on."""
        hints = watches._hints
        while True:
            with hints._changed:
                if not hints._due:
                    return
            time.sleep(0.01)

    yield start
    for watches in begun:
        watches.end()


def of(endpoint: str, body: Any, name: str | None = None) -> Any:
    metadata = {"name": name or body["metadata"]["name"], "labels": object_labels(endpoint)}
    return {**body, "metadata": metadata}


def the_route(endpoint: str) -> Any:
    return of(endpoint, a_route(backend("v6", 100)), f"{endpoint}-route")


def test_a_change_wakes_the_endpoint_whose_object_it_is(begin, notes, objects) -> None:
    begin()
    before = notes.woken

    objects.post(the_route("stranger"))
    objects.post(a_route(backend("v6", 100)))
    objects.post(the_route("a"))
    notes.wait_for_wake_of("a", after=before["a"])

    assert notes.woken["b"] == before["b"]
    assert set(notes.woken) == {"a", "b"}


@pytest.mark.parametrize("what", ["status", "weights", "deleted", "label"])
def test_whatever_happens_to_an_object_wakes_its_endpoint(begin, notes, objects, what) -> None:
    service = of("a", a_ray_service())
    objects.post(service)
    begin()
    before = notes.woken["a"]

    match what:
        case "status":
            objects.merge_status(service, {"serviceStatus": "Running"})
        case "weights":
            objects.merge(service, {"spec": {"serveConfigV2": "applications: []\n"}})
        case "label":
            objects.merge(service, {"metadata": {"labels": dict.fromkeys(OWN_LABELS)}})
        case _:
            objects.delete(service)

    notes.wait_for_wake_of("a", after=before)


def test_a_dropped_watch_goes_on_where_it_was_and_misses_nothing(
    begin, notes, objects, cluster
) -> None:
    objects.post(the_route("b"))
    begin(kinds=[HTTP_ROUTE])
    first = objects.post(the_route("a"))["metadata"]["resourceVersion"]
    notes.wait_for(lambda: len(notes.events) == 1)
    before = notes.woken

    cluster.server.drop_watches()
    objects.delete(the_route("b"))
    notes.wait_for_wake_of("b", after=before["b"])

    assert notes.since[1] == first
    assert notes.lists == 1
    assert notes.woken["a"] - before["a"] <= 1  # the first change's hint may still have been due


def test_a_bookmark_says_how_far_the_watch_has_come(begin, notes, objects, cluster) -> None:
    cluster.server.bookmark_s = 0.05
    begin(kinds=[HTTP_ROUTE])
    before = notes.woken
    written = objects.post(of("a", a_ray_service()))["metadata"]["resourceVersion"]

    def is_marked() -> bool:
        marks = [one for one in notes.events if one["type"] == "BOOKMARK"]
        return any(one["object"]["metadata"]["resourceVersion"] == written for one in marks)

    notes.wait_for(is_marked)
    cluster.server.drop_watches()
    notes.wait_for(lambda: len(notes.since) == 2)

    assert notes.since[1] == written
    assert notes.lists == 1
    assert notes.woken == before


def test_after_410_it_lists_again_and_has_all_looked_at(begin, notes, objects, cluster) -> None:
    begin(kinds=[HTTP_ROUTE])
    objects.post(of("a", a_ray_service()))
    cluster.server.compact()
    before = notes.woken

    with capture_logs() as logs:
        cluster.server.drop_watches()
        notes.wait_for(lambda: notes.lists == 2 and len(notes.since) == 3)
        notes.wait_for_wake_of("a", after=before["a"])
        notes.wait_for_wake_of("b", after=before["b"])
    cluster.server.wait_for_watches(1)

    assert int(notes.since[2]) > int(notes.since[1])
    assert not [one for one in logs if one["event"] == Event.WATCH_FAILED]  # that is how watches go


def test_a_refusal_of_a_version_and_a_fault_are_told_apart(cluster, namespace, notes) -> None:
    ours = connected(cluster.admin, notes)
    version = ours.newest_version(HTTP_ROUTE, namespace, OWN_LABELS)

    def answered(code: int) -> type[Exception]:
        cluster.server.faults.answer_next(code, verbs=("watch",))
        with pytest.raises(TargetUnavailable) as failure:
            ours.watch(HTTP_ROUTE, namespace, OWN_LABELS, since=version)
        return failure.type

    codes = (410, 429, 500, 504, 403)
    refusals = [TargetChanged, *[TargetUnavailable] * 3, TargetRefused]
    assert [answered(code) for code in codes] == refusals
    with pytest.raises(TargetChanged):
        list(ours.watch(HTTP_ROUTE, namespace, OWN_LABELS, since="1"))
    with pytest.raises(KindMissing):
        ours.watch(Kind("ray.io/v9", "RayService", "rayservices"), namespace, {}, since=version)


def test_a_server_that_is_away_is_asked_ever_more_rarely_and_then_watched_again(
    begin, notes, objects, cluster
) -> None:
    with capture_logs() as logs:
        begin(kinds=[HTTP_ROUTE], pauses=Pauses(first_s=0.05, longest_s=0.4, spacing_s=0.02))
        cluster.server.go_away()
        notes.wait_for(lambda: len(logs) >= 3)
        time.sleep(1.5)
        asked = notes.lists + len(notes.since)
        cluster.server.come_back()
        cluster.server.wait_for_watches(1)
        notes.wait_for(lambda: len(notes.since) > 2)
        objects.post(the_route("a"))
        notes.wait_for(lambda: bool(notes.events))

    assert asked <= 12  # 0.05 + 0.1 + 0.2 + 0.4 + 0.4 + …, after the two of the beginning
    told = [one["event"] for one in logs]
    assert told == [Event.WATCH_OPENED, *[Event.WATCH_FAILED] * 2, Event.WATCH_OPENED]
    """Once that the watch could not be taken up, and once that nothing could be listed."""


def test_pauses_grow_from_a_second_to_a_minute_and_begin_anew(notes: Notes) -> None:
    watch = Watch(Place("llm", HTTP_ROUTE), frozenset("a"), notes.wake)
    waits = [watch.next_pause_s(Pauses()) for _ in range(9)]
    watch.heard({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "7"}}})

    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert watch.next_pause_s(Pauses()) == 1
    assert watch.since == "7"


def test_what_is_forbidden_is_said_once_and_does_not_hinder_the_others(
    begin, notes, objects, cluster
) -> None:
    routes = {"apiGroups": [HTTP_ROUTE.group], "resources": ["httproutes"], "verbs": ["*"]}
    services = {"apiGroups": ["ray.io"], "resources": ["rayservices"], "verbs": ["list"]}
    with capture_logs() as logs:
        begin(rules=[routes, services], open_ones=1)
        notes.wait_for(lambda: len(notes.since) >= 5)
    before = notes.woken["a"]
    objects.post(the_route("a"))
    notes.wait_for_wake_of("a", after=before)

    (said,) = [one for one in logs if one["event"] == Event.WATCH_FAILED]
    assert "cannot watch resource" in said["reason"]
    assert said["kind"] == "RayService"


def test_a_refusal_is_tried_again_slowly(begin, notes) -> None:
    nothing = {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}
    begin(rules=[nothing], open_ones=0, pauses=Pauses(first_s=0.001, refused_s=600))
    notes.wait_for(lambda: notes.lists == 2)
    time.sleep(0.3)

    assert notes.lists == 2  # one for each kind
    assert notes.since == []
    assert not notes.woken


def test_a_kind_that_is_not_installed_is_said_once(begin, notes, objects) -> None:
    missing = Kind("ray.io/v9", "RayService", "rayservices")
    with capture_logs() as logs:
        begin(kinds=[HTTP_ROUTE, missing], open_ones=1)
        notes.wait_for(lambda: notes.lists >= 5)

    (said,) = [one for one in logs if one["event"] == Event.WATCH_FAILED]
    assert "no kind RayService" in said["reason"]


class Passed(dict[str, float]):
    """When each endpoint's last hint was passed on, and all the times before."""

    def __init__(self, now: dict[str, float]) -> None:
        super().__init__(now)
        self.times: list[float] = []

    def __setitem__(self, name: str, at: float) -> None:
        super().__setitem__(name, at)
        if name == "a":
            self.times.append(at)


def test_a_storm_of_updates_is_a_few_hints_and_the_last_update_is_not_lost(
    begin, notes, objects
) -> None:
    spacing_s = 0.3
    service = of("a", a_ray_service())
    objects.post(service)
    hints = begin(kinds=[RAY_SERVICE], pauses=Pauses(spacing_s=spacing_s))._hints
    time.sleep(spacing_s)
    before, began = len(notes.wakes), time.monotonic()
    hints._passed = passed = Passed(hints._passed)

    for number in range(100):
        sent = time.monotonic()
        objects.merge_status(service, {"numServeEndpoints": number})
    notes.wait_for(lambda: len(notes.events) >= 100)
    notes.wait_for(lambda: notes.wakes[-1][0] > sent)
    time.sleep(2 * spacing_s)

    assert not hints._due
    wakes = [at for at, name in notes.wakes[before:] if name == "a"]
    assert len(wakes) <= (wakes[-1] - began) / spacing_s + 2
    assert len(wakes) < 50
    gaps = [later - earlier for earlier, later in itertools.pairwise(passed.times)]
    assert (
        min(gaps) >= spacing_s - 1e-6
    )  # by the clock of who passes them on, which alone is never late


def test_it_stops_within_seconds_while_watches_wait(begin, cluster) -> None:
    before = set(threading.enumerate())
    watches = begin()
    began = time.monotonic()
    watches.end()

    assert time.monotonic() - began < _JOIN_S
    cluster.server.wait_for_watches(0)
    left = set(threading.enumerate()) - before
    assert not [one for one in left if one.name in {"watch", "hints"}]


def test_it_stops_within_seconds_while_the_server_is_away_or_refuses(begin, cluster) -> None:
    watches = begin(pauses=Pauses())
    cluster.server.go_away()
    began = time.monotonic()
    watches.end()

    assert time.monotonic() - began < _JOIN_S


def test_only_who_leads_watches(begin, notes, cluster) -> None:
    cluster.server.bookmark_s = 0.05
    leads = threading.Event()
    begin(leads=leads.is_set, open_ones=0)
    time.sleep(0.1)
    assert notes.lists == 0

    leads.set()
    cluster.server.wait_for_watches(2)
    leads.clear()
    cluster.server.wait_for_watches(0)
    lists = notes.lists
    leads.set()
    cluster.server.wait_for_watches(2)

    assert (lists, notes.lists) == (2, 4)  # who leads anew begins anew


def test_a_ready_revision_is_seen_long_before_the_tick(begin, notes, objects) -> None:
    looked = Notes()

    def tick(name: str) -> bool:
        looked.wake(name)
        return True

    def wake(name: str) -> None:
        loop.wake_endpoint(name)
        notes.wake(name)

    settings = ControllerSettings(tick_s=600, poll_s=600)
    loop = Loop({"a": "a", "b": "b"}, tick, settings=settings, looked=lambda *_: None)
    service = of("a", a_ray_service())
    objects.post(service)
    running = threading.Thread(target=loop.run)
    running.start()
    try:
        looked.wait_for(lambda: looked.woken == {"a": 1, "b": 1})  # the loop's own first look
        begin(wake=wake, kinds=[RAY_SERVICE])
        looked.wait_for(lambda: looked.woken == {"a": 2, "b": 2})  # the watch begins
        objects.merge_status(service, {"serviceStatus": "Running"})
        looked.wait_for_wake_of("a", after=2)
    finally:
        loop.stop()
        running.join(_LONG_S)

    assert looked.woken == {"a": 3, "b": 2}


def test_endpoints_that_share_a_namespace_share_its_watches() -> None:
    gateway = {"namespace": "llm", "gateway": GATEWAY}
    chat = a_ray_endpoint(kubernetes={**gateway, "image": "engine:1"})
    knative = a_knative_endpoint(kubernetes={"namespace": "llm"})

    places = places_of(
        (name, one.cluster.namespace, watched_kinds(one))
        for name, one in (("chat", chat), ("more", chat), ("draft", knative))
    )

    assert {(place.kind.kind, names) for place, names in places.items()} == {
        ("RayService", frozenset({"chat", "more"})),
        ("HTTPRoute", frozenset({"chat", "more"})),
        ("InferenceService", frozenset({"draft"})),
    }


def test_without_an_endpoint_on_a_cluster_nothing_is_watched() -> None:
    settings = ClusterSettings(kube_context="no-such-context")

    assert cluster_watches([an_endpoint()], settings, wake=print, leads=lambda: True) is None
