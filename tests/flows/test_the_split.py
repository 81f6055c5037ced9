"""Weights move under load and no client notices: a real guard and a real Envoy in front of a stub engine."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from deploy_targets import metrics
from deploy_targets.endpoint import Endpoint
from deploy_targets.load import LoadPlan, generate_load
from deploy_targets.local import envoy
from deploy_targets.local.adapter import LocalTarget
from deploy_targets.local.demo_traffic import Clients
from deploy_targets.local.home import write_json
from deploy_targets.routing.traffic import VERSION_HEADER, Traffic
from tests.builders import a_release, an_endpoint
from tests.flows.front import FakeRay, a_front, a_target
from tests.guard.stub import a_chat
from tests.local.platform import Platform

pytestmark = pytest.mark.real

VERSIONS = ("6", "7", "8")
FLIPS, BETWEEN = 40, 40
"""So often weights move, after so many answers each."""


@pytest.fixture(scope="module")
def endpoint() -> Endpoint:
    return an_endpoint()


@pytest.fixture(scope="module")
def platform(endpoint: Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    says = dict.fromkeys(VERSIONS, "ok")
    with a_front(tmp_path_factory.mktemp("split"), endpoint, says) as platform:
        yield platform


@pytest.fixture
def target(platform: Platform, endpoint: Endpoint) -> LocalTarget:
    return a_target(platform, endpoint, "6", "7")


@pytest.fixture
def ask(platform: Platform) -> Iterator[Callable[..., httpx2.Response]]:
    url = f"{platform.url('chat.guard')}/v1/chat/completions"
    headers = {"Authorization": f"Bearer {platform.secrets.api_key}"}
    with httpx2.Client(headers=headers, timeout=20) as client:
        yield lambda **pin: client.post(url, json=a_chat(), headers=pin)


@pytest.fixture
def plan(platform: Platform) -> LoadPlan:
    return LoadPlan(
        url=platform.url("chat.guard"),
        model="chat",
        api_key=platform.secrets.api_key,
        clients=8,
        requests=800,
    )


def test_no_client_sees_weights_shift_and_versions_come_and_go(
    target: LocalTarget, plan: LoadPlan
) -> None:
    percents = itertools.islice(itertools.cycle((5, 25, 50, 100, 0)), FLIPS)

    with Clients(replace(plan, requests=1_000_000)) as clients:
        for percent in percents:
            target.shift(Traffic.split("6", "7", percent))
            if percent == 25:
                target.apply(a_release("8"))
            if percent == 100:
                target.retire("8")
            clients.wait_for_answers(clients.report.requests + BETWEEN)

    report = clients.report
    assert (report.failures, dict(report.faults)) == (0, {})
    assert set(report.versions) == {"6", "7"}


@pytest.mark.parametrize("percent", [5, 50])
def test_the_shares_that_clients_see_are_near_those_that_were_asked_for(
    target: LocalTarget, plan: LoadPlan, percent: int
) -> None:
    target.shift(Traffic.split("6", "7", percent))

    report = asyncio.run(generate_load(plan))

    seen = Counter({version: load.requests for version, load in report.versions.items()})
    # Five standard deviations: less than one false alarm in a million runs.
    margin = 5 * (800 * percent / 100 * (1 - percent / 100)) ** 0.5
    assert abs(seen["7"] - 800 * percent / 100) < margin
    assert seen.total() == 800
    assert report.failures == 0


def test_a_pin_beats_the_weights_and_an_unknown_one_is_never_answered_by_another(
    target: LocalTarget, ask: Callable[..., httpx2.Response]
) -> None:
    target.shift(Traffic.all_to("6"))

    pinned, unknown = ask(**{VERSION_HEADER: "7"}), ask(**{VERSION_HEADER: "99"})

    assert (pinned.status_code, pinned.headers[VERSION_HEADER]) == (200, "7")
    assert unknown.status_code == 404
    assert unknown.json()["error"]["type"] == "not_found_error"


@pytest.mark.promise("what serves comes back by itself")
def test_when_ray_has_lost_every_version_in_the_middle_they_are_applied_again_one_by_one(
    platform: Platform, endpoint: Endpoint, target: LocalTarget
) -> None:
    target.shift(Traffic.split("6", "7", 25))
    reborn = platform.target(endpoint, FakeRay().client)

    reborn.apply(a_release("6"))
    assert reborn.observe().traffic == Traffic.split("6", "7", 25)
    reborn.shift(Traffic.all_to("6"))

    assert reborn.observe().traffic == Traffic.all_to("6")


def test_a_dead_challenger_is_counted_by_name_while_its_clients_get_the_champions_answers(
    platform: Platform, target: LocalTarget, plan: LoadPlan, ask: Callable[..., httpx2.Response]
) -> None:
    asyncio.run(
        generate_load(replace(plan, requests=400))
    )  # all to 6, which is the champion by now
    before = counted(platform)
    alive = platform.ports["ray_serve"]
    backends = {
        "6": envoy.Backend(host="127.0.0.1", port=alive, prefix="/chat-v6/"),
        "7": envoy.Backend(host="127.0.0.1", port=1, prefix="/chat-v7/"),
    }
    folder = platform.envoy_folder("chat")
    write_json(folder / envoy.CLUSTERS_FILE, envoy.render_clusters(backends))
    routes = envoy.render_routes(backends, Traffic.split("6", "7", 50), timeout_s=5)
    write_json(folder / envoy.ROUTES_FILE, routes)

    while target.observe().traffic.percent("7") != 50:
        pass
    answers = [ask() for _ in range(40)]
    pinned = ask(**{VERSION_HEADER: "7"})

    assert Counter((one.headers[VERSION_HEADER], one.status_code) for one in answers) == {
        ("6", 200): 40
    }
    assert (pinned.headers[VERSION_HEADER], pinned.status_code) == ("7", 503)
    now = counted(platform)
    new = {key: now[key] - before.get(key, 0) for key in now}
    failed = new["errors", "7", "chat"]
    assert 0 < failed < 40
    assert new["requests", "7", "chat"] == new["requests", "6", "retry"] == failed
    assert new["requests", "6", "chat"] == 40 - failed
    assert new["errors", "6", "chat"] == new["errors", "6", "retry"] == 0


def counted(platform: Platform) -> dict[tuple[str, str, str], float]:
    """(requests or errors, version, route): how many, by the guard's metrics page."""
    page = httpx2.get(f"{platform.url('chat.guard_admin')}/metrics").text
    kinds = {metrics.REQUESTS.name: "requests", metrics.ERRORS.name: "errors"}
    return {
        (kinds[one.name], one.labels[metrics.VERSION], one.labels[metrics.ROUTE]): one.value
        for family in text_string_to_metric_families(page)
        for one in family.samples
        if one.name in kinds
    }


def test_without_a_version_that_serves_clients_are_told_so(
    target: LocalTarget, ask: Callable[..., httpx2.Response]
) -> None:
    target.shift(Traffic())

    answer = ask()

    assert answer.status_code == 503
    assert "No version serves here yet" in answer.json()["error"]["message"]
