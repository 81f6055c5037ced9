"""An experiment from its request to its finding: a real guard and a real Envoy, stub engines, and the real controller."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest

from deploy_targets.endpoint import Endpoint
from deploy_targets.guard_policy import GuardPolicy, StickyPolicy
from deploy_targets.rollout.controller import Controller, Unit
from deploy_targets.rollout.experiment_state import Finding
from deploy_targets.rollout.observe import GuardMetrics
from deploy_targets.rollout.state import EndpointState
from deploy_targets.rollout.store import SqliteStore
from deploy_targets.routing.buckets import bucket_of, digest_of, shares
from deploy_targets.routing.traffic import VERSION_HEADER, Traffic
from tests.builders import FakeClock, a_release, a_version, an_endpoint
from tests.fakes import (
    FakeInspector,
    FakeRecord,
    FakeRegistry,
    FakeSmoke,
    FakeTrail,
    FakeWatcher,
)
from tests.flows.front import FakeRay, a_front
from tests.guard.stub import a_chat
from tests.local.platform import Platform
from tests.rollout.test_experiments import an_experiment

pytestmark = pytest.mark.real


class HealthyRay(FakeRay):
    """On which whatever was put is ready."""

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        told = super()._answer(request).json()["applications"]
        healthy = {"llm": {"status": "HEALTHY"}}
        return httpx2.Response(
            200,
            json={
                "applications": {
                    name: {**one, "deployments": healthy} for name, one in told.items()
                }
            },
        )


@pytest.fixture(scope="module")
def endpoint() -> Endpoint:
    sticky = GuardPolicy(sticky=StickyPolicy(salt="flow"))
    return an_endpoint().model_copy(update={"guard": sticky})


@pytest.fixture(scope="module")
def platform(endpoint: Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """v7 fails whatever it is asked."""
    says = {"6": "ok", "7": "500"}
    with a_front(tmp_path_factory.mktemp("experiment"), endpoint, says) as platform:
        yield platform


def test_an_experiment_runs_from_its_request_to_its_finding_and_counts_each_user_once(
    platform: Platform, endpoint: Endpoint, tmp_path: Path
) -> None:
    clock, store = FakeClock(), SqliteStore(tmp_path / "state.db")
    target = platform.target(endpoint, HealthyRay().client)
    target.apply(a_release("6"))
    target.shift(Traffic.all_to("6"))
    experiment = replace(an_experiment("7", endpoint=endpoint, share=50), phase_since=clock())
    state = EndpointState(
        endpoint="chat", serving=a_release("6"), settled_champion="6", experiment=experiment
    )
    store.save(state, expected=store.load("chat").revision)
    registry = FakeRegistry(a_version("6"), a_version("7"))
    registry.aliases["champion"] = "6"
    headers = {"Authorization": f"Bearer {platform.secrets.api_key}"}
    with httpx2.Client(timeout=20) as metrics, httpx2.Client(headers=headers, timeout=20) as client:
        unit = Unit(
            endpoint=endpoint,
            target=target,
            counters=GuardMetrics(
                metrics,
                f"{platform.url('chat.guard_admin')}/metrics",
                endpoint="chat",
                clock=clock,
            ),
            smoke=FakeSmoke(),
            record=FakeRecord(),
            trail=FakeTrail(),
            inspector=FakeInspector(),
        )
        controller = Controller(
            (unit,),
            registry=registry,
            store=store,
            clock=clock,
            leads=lambda: True,
            watcher=FakeWatcher(),
        )

        def look() -> None:
            clock.advance(61)
            controller.tick("chat")

        def ask(user: str) -> str:
            url = f"{platform.url('chat.guard')}/v1/chat/completions"
            return client.post(url, json=a_chat(user=user)).headers[VERSION_HEADER]

        for _ in range(6):
            look()
            if target.observe().traffic.percent("7"):
                break
        look()
        users = [f"user-{n}" for n in range(60)]
        got = {user: ask(user) for user in users}
        for _ in range(40):
            assert ask(users[0]) == got[users[0]]
        look()

        ended = store.load("chat").state.past_experiments[-1]
        assert ended.findings == {"7": Finding.LOSER}
        assert ended.counted["6"] == (sum(one == "6" for one in got.values()), 0)
        assert ended.counted["7"] == (sum(one == "7" for one in got.values()),) * 2
        assert got == {user: belongs(user) for user in users}
        assert target.observe().traffic == Traffic.all_to("6")
        assert {ask(user) for user in users[:10]} == {"6"}


def belongs(user: str) -> str:
    """The version that has the user's bucket at half and half."""
    bucket = bucket_of(digest_of(user, endpoint="chat", salt="flow"))
    return next(v for v, own in shares(Traffic.split("6", "7", 50)).items() if bucket in own)
