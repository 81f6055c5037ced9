"""Mirroring, spool and shipping between real processes: a guard, an Envoy and an S3; the engines are stubs."""

import gzip
import json
from collections.abc import Callable, Iterator

import httpx2
import pytest

from deploy_targets.endpoint import Endpoint
from deploy_targets.local import parts
from deploy_targets.local.process import end_all, find_marked
from deploy_targets.rollout.answer_records import FOLDER, ship
from deploy_targets.rollout.mirror import GuardMirror
from deploy_targets.rollout.observe import GuardMetrics
from deploy_targets.rollout.state import Scrape
from tests.builders import NOON
from tests.flows.front import a_front, a_target
from tests.guard.stub import a_chat
from tests.guard.two_versions import page_counts, until
from tests.local.platform import Platform
from tests.servers import Servers

pytestmark = pytest.mark.real

REQUESTS = 20


@pytest.fixture(scope="module")
def endpoint() -> Endpoint:
    guard = {
        "shadow": {"sample": 1, "concurrent": REQUESTS},
        "record": {"sample": 1, "lifetime_days": 1},
    }
    return Endpoint.model_validate({"name": "chat", "model": "smollm2", "guard": guard})


@pytest.fixture(scope="module")
def platform(endpoint: Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    says = {"6": "ok", "7": "ok", "8": "ok"}
    with a_front(tmp_path_factory.mktemp("mirror"), endpoint, says) as platform:
        a_target(platform, endpoint, "6", "8")
        yield platform


@pytest.fixture
def guards(platform: Platform) -> Iterator[GuardMetrics]:
    with httpx2.Client(timeout=20) as client:
        url = f"{platform.url('chat.guard_admin')}/metrics"
        yield GuardMetrics(client, url, endpoint="chat", clock=lambda: NOON)


@pytest.fixture
def ask(platform: Platform) -> Iterator[Callable[[], str]]:
    url = f"{platform.url('chat.guard')}/v1/chat/completions"
    headers = {"Authorization": f"Bearer {platform.secrets.api_key}"}
    with httpx2.Client(headers=headers, timeout=20) as client:
        yield lambda: client.post(url, json=a_chat()).headers["x-shipway-version"]


def results(platform: Platform, version: str) -> dict[str, float]:
    url = platform.url("chat.guard_admin")
    return page_counts(url, "llm_shadow_compared_total", "result", version=version)


def test_what_the_champion_answers_is_asked_of_the_challenger_which_answers_no_client(
    platform: Platform, guards: GuardMetrics, ask: Callable[[], str]
) -> None:
    mirror = GuardMirror(guards, endpoint="chat")
    before = guards.scrape()
    mirror.follow("8")
    assert {ask() for _ in range(REQUESTS)} == {"6"}
    until(lambda: sum(results(platform, "8").values()) == REQUESTS)
    assert results(platform, "8") == {"same": REQUESTS}
    after = guards.scrape()
    assert after.mirrored["8"] == REQUESTS
    assert live(after, "6") - live(before, "6") == REQUESTS
    assert live(after, "8") == 0
    mirror.follow(None)
    ask()
    assert guards.scrape().mirrored == after.mirrored


def live(scrape: Scrape, version: str) -> int:
    return scrape.totals[version].requests if version in scrape.totals else 0


def test_a_version_without_a_route_is_dropped_and_no_failure(
    platform: Platform, guards: GuardMetrics, ask: Callable[[], str]
) -> None:
    GuardMirror(guards, endpoint="chat").follow("7")
    assert ask() == "6"
    until(lambda: results(platform, "7") == {"dropped": 1})
    assert guards.scrape().mirrored.get("7", 0) == 0
    GuardMirror(guards, endpoint="chat").follow("8")


def test_what_the_guard_keeps_is_sealed_when_it_ends_and_shipped(
    platform: Platform, servers: Servers, ask: Callable[[], str]
) -> None:
    folder = platform.home.endpoint("chat") / parts.SPOOL_FOLDER
    ask()
    until(lambda: any(folder.iterdir()))
    end_all(find_marked(f"{platform.mark}chat.guard|"), patience_s=20)
    assert ship(folder, servers.records, endpoint="mirrored", lifetime_days=1) >= 1
    lines = [
        json.loads(line)
        for piece in servers.records.read(f"{FOLDER}/mirrored")
        for line in gzip.decompress(piece).splitlines()
    ]
    assert {(one["answer"], one["version"]) for one in lines} == {("Paris.", "6")}
    for key in servers.records.keys(f"{FOLDER}/mirrored"):
        servers.records.delete(key)
