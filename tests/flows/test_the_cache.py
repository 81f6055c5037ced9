"""Kept answers while weights move: a real guard and a real Envoy, and clients that ask the same few things all the time."""

import itertools
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from deploy_targets.endpoint import Endpoint
from deploy_targets.local.adapter import LocalTarget
from deploy_targets.routing.traffic import VERSION_HEADER, Traffic
from tests.builders import an_endpoint
from tests.flows.front import a_front, a_target
from tests.guard.stub import a_chat
from tests.local.platform import Platform

pytestmark = pytest.mark.real

RECHECK_S = 2
IN_FORCE_S = 0.3
"""What weights that Envoy has may take until all of its threads go by them."""


@dataclass(frozen=True)
class Seen:
    """One answer, and when it was asked for."""

    at: float
    version: str
    cache: str


@pytest.fixture(scope="module")
def endpoint() -> Endpoint:
    cache = {"cache": {"recheck_s": RECHECK_S}}
    return Endpoint.model_validate({**an_endpoint().model_dump(by_alias=True), "guard": cache})


@pytest.fixture(scope="module")
def platform(endpoint: Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    says = {"6": "ok", "7": "ok"}
    with a_front(tmp_path_factory.mktemp("cache"), endpoint, says) as platform:
        yield platform


@pytest.fixture
def target(platform: Platform, endpoint: Endpoint) -> LocalTarget:
    return a_target(platform, endpoint, "6", "7")


class Clients:
    """Four that ask three things by turns, until they are told to stop."""

    def __init__(self, platform: Platform) -> None:
        self._url = f"{platform.url('chat.guard')}/v1/chat/completions"
        self._key = platform.secrets.api_key
        self.seen: list[Seen] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(4)]

    def __enter__(self) -> Self:
        for one in self._threads:
            one.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for one in self._threads:
            one.join(20)

    def until(self, count: int) -> None:
        """Returns when so many more answers are there."""
        wanted, end = len(self.seen) + count, time.monotonic() + 60
        while len(self.seen) < wanted:
            assert time.monotonic() < end
            time.sleep(0.01)

    def _ask(self) -> None:
        with httpx2.Client(headers={"Authorization": f"Bearer {self._key}"}, timeout=20) as client:
            for prompt in itertools.cycle(("a", "b", "c")):
                if self._stop.is_set():
                    return
                at = time.monotonic()
                answer = client.post(self._url, json=a_chat(prompt, temperature=0))
                answer.raise_for_status()
                headers = answer.headers
                cache = headers["x-shipway-cache"]
                self.seen.append(Seen(at, headers[VERSION_HEADER], cache))


def test_a_version_without_requests_is_soon_heard_no_more(
    platform: Platform, target: LocalTarget
) -> None:
    """Nearly all requests are hits, so the guard has to find out by itself that the weights have moved."""
    with Clients(platform) as clients:
        clients.until(200)
        for before, after in itertools.pairwise(("6", "7", "6")):
            began = len(clients.seen)
            target.shift(Traffic.all_to(after))
            shifted = time.monotonic()
            while time.monotonic() < shifted + 2 * RECHECK_S:
                clients.until(1)
            later = clients.seen[began:]
            assert {one.version for one in later} <= {before, after}
            stale = [one.at - shifted for one in later if one.version == before]
            assert max(stale, default=0) < RECHECK_S + IN_FORCE_S
            assert later[-1].version == after

    page = httpx2.get(f"{platform.url('chat.guard_admin')}/metrics").text
    samples = [
        one
        for family in text_string_to_metric_families(page)
        for one in family.samples
        if one.name == "llm_inference_requests_total"
    ]
    counted = sum(one.value for one in samples)
    told = [one.cache for one in clients.seen]
    assert told[:200].count("hit") > 150
    assert counted == told.count("miss")
