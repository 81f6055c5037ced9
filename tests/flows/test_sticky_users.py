"""Users keep their version while weights grow: a real guard and a real Envoy in front of a stub engine."""

import re
from collections import Counter
from collections.abc import Callable, Iterator

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from deploy_targets.endpoint import Endpoint
from deploy_targets.guard_policy import GuardPolicy, StickyPolicy
from deploy_targets.local.adapter import LocalTarget
from deploy_targets.routing.buckets import (
    BUCKET_HEADER,
    BUCKETS,
    SPLIT_HEADER,
    bucket_of,
    bucket_text,
    digest_of,
    shares,
)
from deploy_targets.routing.traffic import VERSION_HEADER, Traffic
from tests.builders import an_endpoint
from tests.flows.front import a_front, a_target
from tests.guard.stub import a_chat
from tests.local.platform import Platform

pytestmark = pytest.mark.real

VERSIONS = ("6", "7", "8")
GROWING = (5, 25, 50, 100)
USERS = 10_000
ASKED = 250
"""Of these users, through the whole chain at each weight."""


@pytest.fixture(scope="module")
def endpoint() -> Endpoint:
    sticky = GuardPolicy(sticky=StickyPolicy(salt="flow"))
    return an_endpoint().model_copy(update={"guard": sticky})


@pytest.fixture(scope="module")
def platform(endpoint: Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    says = dict.fromkeys(VERSIONS, "ok")
    with a_front(tmp_path_factory.mktemp("sticky"), endpoint, says) as platform:
        yield platform


@pytest.fixture
def target(platform: Platform, endpoint: Endpoint) -> LocalTarget:
    return a_target(platform, endpoint, *VERSIONS)


@pytest.fixture
def ask(platform: Platform) -> Iterator[Callable[..., httpx2.Response]]:
    headers = {"Authorization": f"Bearer {platform.secrets.api_key}"}
    with httpx2.Client(headers=headers, timeout=20) as client:

        def send(part: str = "guard", *, user: str = "", **more: str) -> httpx2.Response:
            url = f"{platform.url(f'chat.{part}')}/v1/chat/completions"
            return client.post(url, json=a_chat(user=user), headers=more)

        yield send


def bucket(user: str) -> int:
    return bucket_of(digest_of(user, endpoint="chat", salt="flow"))


def test_ten_thousand_users_keep_the_challenger_as_its_weight_grows_and_shares_are_exact(
    target: LocalTarget, ask: Callable[..., httpx2.Response]
) -> None:
    names = [f"user-{n}" for n in range(USERS)]
    had: set[str] = set()
    for percent in GROWING:
        target.shift(Traffic.split("6", "7", percent))
        # What Envoy does with each bucket; a user's bucket is the guard's.
        version_of = {
            n: ask("envoy", **{BUCKET_HEADER: bucket_text(n)}).headers[VERSION_HEADER]
            for n in range(BUCKETS)
        }
        has = {name for name in names if version_of[bucket(name)] == "7"}

        assert Counter(version_of.values())["7"] == percent
        assert has >= had
        margin = 5 * (USERS * percent / 100 * (1 - percent / 100)) ** 0.5
        assert abs(len(has) - USERS * percent / 100) <= margin
        had = has

        through_the_guard = {name: ask(user=name).headers[VERSION_HEADER] for name in names[:ASKED]}
        assert through_the_guard == {n: "7" if n in has else "6" for n in names[:ASKED]}
    target.shift(Traffic.all_to("6"))
    assert {ask(user=name).headers[VERSION_HEADER] for name in names[:20]} == {"6"}


def test_each_of_three_versions_has_its_buckets(
    target: LocalTarget, ask: Callable[..., httpx2.Response]
) -> None:
    traffic = Traffic(weights={"6": 50, "7": 25, "8": 25})
    target.shift(traffic)
    assert target.observe().traffic == traffic
    for version, own in shares(traffic).items():
        for n in own[:10]:
            answer = ask("envoy", **{BUCKET_HEADER: bucket_text(n)})
            assert answer.headers[VERSION_HEADER] == version
            assert answer.headers[SPLIT_HEADER] == "6,7,8"


def test_a_pin_beats_the_bucket_and_what_is_no_bucket_is_shared_out_by_chance(
    target: LocalTarget, ask: Callable[..., httpx2.Response]
) -> None:
    traffic = Traffic.split("6", "7", 50)
    target.shift(traffic)
    mine = bucket_text(shares(traffic)["6"][0])
    pinned = ask("envoy", **{BUCKET_HEADER: mine, VERSION_HEADER: "7"})
    assert (pinned.headers[VERSION_HEADER], pinned.headers.get(SPLIT_HEADER)) == ("7", None)
    strange = [ask("envoy", **{BUCKET_HEADER: "100"}).headers[VERSION_HEADER] for _ in range(40)]
    assert set(strange) == {"6", "7"}


def test_who_is_not_named_is_shared_out_by_chance_and_no_client_can_choose_its_bucket(
    target: LocalTarget, ask: Callable[..., httpx2.Response]
) -> None:
    traffic = Traffic.split("6", "7", 50)
    target.shift(traffic)
    mine = bucket_text(shares(traffic)["7"][0])
    told = Counter(ask(**{BUCKET_HEADER: mine}).headers[VERSION_HEADER] for _ in range(60))
    assert set(told) == {"6", "7"}


def test_the_guard_compares_each_user_once_in_a_split(
    target: LocalTarget, ask: Callable[..., httpx2.Response], platform: Platform
) -> None:
    def counted() -> Counter[str]:
        page = httpx2.get(f"{platform.url('chat.guard_admin')}/metrics").text
        return Counter(
            {
                route: sum(
                    int(sample.value)
                    for family in text_string_to_metric_families(page)
                    for sample in family.samples
                    if sample.name == "llm_inference_requests_total"
                    and sample.labels["route"] == route
                )
                for route in ("chat", "again")
            }
        )

    target.shift(Traffic.all_to("6"))
    ask(user="nobody-yet")
    before = counted()
    for percent in (5, 25):
        target.shift(Traffic.split("6", "7", percent))
        for n in range(20):
            ask(user=f"again-{n}")
    after = counted()
    assert (after - before) == Counter({"chat": 20, "again": 20})


def test_the_pattern_of_the_file_is_one_that_a_person_can_read(
    target: LocalTarget, platform: Platform
) -> None:
    target.shift(Traffic.split("6", "7", 5))
    text = (platform.envoy_folder("chat") / "routes.json").read_text()
    assert re.search(r"\^\(\d\d\|\d\d\|\d\d\|\d\d\|\d\d\)\$", text)
