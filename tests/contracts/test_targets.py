"""What every `Target` promises, asked of each: the fake that other tests trust, and the local one for real.

The local one runs on a real Ray, a real S3 and a real Envoy for each endpoint; its models are tiny. Versions 6 and 7 are
deployed once and stay; version 9 is promised other bytes than lie in S3, until they are mended.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import httpx2
import pytest

from deploy_targets.endpoint import Endpoint, Resources
from deploy_targets.local.adapter import LocalTarget
from deploy_targets.routing.traffic import VERSION_HEADER, Traffic
from deploy_targets.target import Observed, Readiness, Target
from registry.artifact_store import ArtifactStore, split_source
from registry.digests import MANIFEST_NAME
from registry.errors import TargetUnavailable
from registry.release import Release
from tests.builders import a_digest, a_release, an_endpoint
from tests.fakes import FakeTarget
from tests.guard.stub import a_chat
from tests.local.platform import Platform, a_platform
from tests.servers import Servers

LIMIT_S = 240
KEPT, WRONG, UNKNOWN = ("6", "7"), "9", "99"


class World(Protocol):
    """A target with versions 6 and 7 ready and all traffic to 6; perhaps there are others that do not become ready."""

    target: Target

    def release(self, version: str) -> Release: ...

    def fresh_target(self) -> Target:
        """An adapter that has seen nothing yet."""
        ...

    def kill_a_replica(self, version: str) -> None: ...

    def mend(self) -> None:
        """From now on there is nothing wrong with the bytes of version 9."""
        ...

    def cut_off(self) -> Target:
        """The target when its platform does not answer."""
        ...


class FakeWorld:
    def __init__(self) -> None:
        self.target = FakeTarget()
        self.target.fail(WRONG, f"{a_digest(WRONG)} was evaluated")
        for version in (*KEPT, WRONG):
            self.target.apply(self.release(version))
        self.target.observe()
        self.target.shift(Traffic.all_to("6"))

    def release(self, version: str) -> Release:
        return a_release(version)

    def fresh_target(self) -> Target:
        return self.target

    def kill_a_replica(self, version: str) -> None:
        self.target.crash(version)

    def mend(self) -> None:
        self.target.mend(WRONG)

    def cut_off(self) -> Target:
        self.target.is_away = True
        return self.target


class LocalWorld:
    def __init__(
        self,
        platform: Platform,
        endpoint: Endpoint,
        store: ArtifactStore,
        models: tuple[Path, Path],
    ) -> None:
        self._platform = platform
        self._endpoint = endpoint
        self._store = store
        self._models = models
        self._good, self._wrong = map(store.put, models)
        self.target = platform.target(endpoint)

    def release(self, version: str) -> Release:
        stored = self._wrong if version == WRONG else self._good
        return Release(
            model=self._endpoint.model,
            version=version,
            source=stored.source,
            digest=stored.manifest.digest,
        )

    def tamper(self) -> None:
        """At the address of version 9 there lies something else now."""
        bucket, prefix = split_source(self._wrong.source)
        self._store._client.put_object(
            Bucket=bucket,
            Key=f"{prefix}/{MANIFEST_NAME}",
            Body=self._good.manifest.to_json().encode(),
        )

    def fresh_target(self) -> LocalTarget:
        return self._platform.target(self._endpoint)

    def kill_a_replica(self, version: str) -> None:
        assert self._platform.ray is not None
        details = self._platform.ray.get("/api/serve/applications/").json()["applications"]
        (replica,) = details[f"{self._endpoint.name}-v{version}"]["deployments"]["llm"]["replicas"]
        os.kill(replica["pid"], signal.SIGKILL)

    def mend(self) -> None:
        self._store.put(self._models[1])

    def cut_off(self) -> LocalTarget:
        nobody = httpx2.Client(base_url="http://127.0.0.1:1")
        self._platform.clients.enter_context(nobody)
        return self._platform.target(self._endpoint, nobody)

    def ask(self, **pin: str) -> httpx2.Response:
        url = f"{self._platform.url(f'{self._endpoint.name}.envoy')}/v1/chat/completions"
        return httpx2.post(url, json=a_chat("hello"), headers=pin, timeout=60)

    def make_ready(self) -> None:
        seen = self.target.observe()
        for version in KEPT:
            if version not in seen.revisions:
                self.target.apply(self.release(version))
        until(self.target, lambda seen: all(map(seen.is_ready, KEPT)))
        self.target.shift(Traffic.all_to("6"))


def until(target: Target, holds: Callable[[Observed], bool]) -> Observed:
    deadline = time.monotonic() + LIMIT_S
    while not holds(seen := target.observe()):
        assert time.monotonic() < deadline, seen
        time.sleep(0.2)
    return seen


def readiness(seen: Observed, version: str) -> Readiness:
    return seen.revisions[version].readiness


def small(name: str, model: str) -> Endpoint:
    endpoint = an_endpoint()
    resources = Resources(cpus=0.1, memory_gib=0.1)
    return endpoint.model_copy(update={"name": name, "model": model, "resources": resources})


@pytest.fixture(scope="module")
def local_worlds(
    servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[LocalWorld, LocalWorld]]:
    """Two endpoints on one Ray."""
    from tests.tiny_model import write_tiny_model  # torch, which the fake does without

    models = tuple(write_tiny_model(tmp_path_factory.mktemp("tiny"), seed=n) for n in (1, 2))
    with a_platform(tmp_path_factory.mktemp("platform")) as platform:
        platform.start_ray(servers.environment)
        worlds: list[LocalWorld] = []
        for endpoint in (small("chat", "smollm2"), small("chat-v2", "other")):
            platform.start_envoy(endpoint.name)
            worlds.append(LocalWorld(platform, endpoint, servers.store, models))
        first, second = worlds
        first.tamper()
        for version in (*KEPT, WRONG):
            first.target.apply(first.release(version))
        yield first, second


@pytest.fixture
def local(local_worlds: tuple[LocalWorld, LocalWorld]) -> LocalWorld:
    world = local_worlds[0]
    world.make_ready()
    return world


@pytest.fixture(params=["fake", pytest.param("local", marks=pytest.mark.real)])
def world(request: pytest.FixtureRequest) -> World:
    return FakeWorld() if request.param == "fake" else request.getfixturevalue("local")


def test_what_is_applied_becomes_ready_and_gets_no_traffic(world: World) -> None:
    seen = world.target.observe()

    assert all(map(seen.is_ready, KEPT))
    assert seen.revisions["7"].reason == ""
    assert seen.traffic == Traffic.all_to("6")


def test_applying_again_changes_nothing(world: World) -> None:
    before = world.target.observe()

    for version in KEPT:
        world.target.apply(world.release(version))

    after = until(world.target, lambda seen: all(map(seen.is_ready, KEPT)))
    assert after.traffic == before.traffic
    assert [after.revisions[v].restarts for v in KEPT] == [
        before.revisions[v].restarts for v in KEPT
    ]


@pytest.mark.parametrize("percent", [0, 5, 50, 100])
def test_what_was_shifted_is_what_is_observed(world: World, percent: int) -> None:
    wanted = Traffic.split("6", "7", percent)

    world.target.shift(wanted)
    world.target.shift(wanted)

    assert world.target.observe().traffic == wanted
    assert world.fresh_target().observe().traffic == wanted


def test_applying_and_retiring_leave_the_weights_alone(world: World) -> None:
    wanted = Traffic.split("6", "7", 25)
    world.target.shift(wanted)

    world.target.apply(world.release("5"))
    assert world.target.observe().traffic == wanted
    world.target.retire("5")

    assert world.target.observe().traffic == wanted


def test_a_version_of_which_the_bytes_differ_never_becomes_ready_and_says_why(world: World) -> None:
    seen = until(world.target, lambda seen: readiness(seen, WRONG) is not Readiness.STARTING)

    assert readiness(seen, WRONG) is Readiness.FAILED
    assert f"{world.release(WRONG).digest} was evaluated" in seen.revisions[WRONG].reason
    assert seen.traffic == Traffic.all_to("6")


def test_one_that_failed_is_repaired_by_applying_it_again(world: World) -> None:
    until(world.target, lambda seen: readiness(seen, WRONG) is Readiness.FAILED)
    world.mend()

    world.target.apply(world.release(WRONG))

    assert until(world.target, lambda seen: seen.is_ready(WRONG)).traffic == Traffic.all_to("6")


def test_nothing_that_is_done_to_one_version_makes_another_look_unready(world: World) -> None:
    for _ in range(5):
        world.target.apply(world.release("5"))
        assert all(map(world.target.observe().is_ready, KEPT))
        world.target.retire("5")
        assert all(map(world.target.observe().is_ready, KEPT))


def test_a_killed_replica_is_seen_and_remembered_by_an_adapter_that_was_not_there(
    world: World,
) -> None:
    before = world.target.observe().revisions["7"].restarts

    world.kill_a_replica("7")

    seen = until(
        world.target, lambda seen: not seen.is_ready("7") or seen.revisions["7"].restarts > before
    )
    assert seen.is_ready("6")
    until(world.target, lambda seen: seen.is_ready("7"))
    assert world.fresh_target().observe().revisions["7"].restarts == before + 1


def test_retiring_a_version_leaves_the_others_alone_and_may_be_repeated(world: World) -> None:
    for _ in range(2):
        world.target.retire(WRONG)

    seen = until(world.target, lambda seen: WRONG not in seen.revisions)
    assert all(map(seen.is_ready, KEPT))
    assert seen.traffic == Traffic.all_to("6")


def test_requests_are_never_sent_to_what_is_not_applied(world: World) -> None:
    with pytest.raises(ValueError, match=UNKNOWN):
        world.target.shift(Traffic.split("6", UNKNOWN, 5))

    assert world.target.observe().traffic == Traffic.all_to("6")


def test_what_has_traffic_is_not_retired(world: World) -> None:
    with pytest.raises(ValueError, match="6"):
        world.target.retire("6")

    assert world.target.observe().is_ready("6")


def test_a_platform_that_does_not_answer_is_no_observation(world: World) -> None:
    cut_off = world.cut_off()
    for act in (
        cut_off.observe,
        lambda: cut_off.apply(world.release("7")),
        lambda: cut_off.retire("7"),
        lambda: cut_off.shift(Traffic.all_to("6")),
    ):
        with pytest.raises(TargetUnavailable):
            act()


def test_what_would_be_applied_can_be_rendered_beforehand(world: World) -> None:
    twice = [world.target.render(world.release("7")) for _ in range(2)]

    assert twice[0] == twice[1]
    assert "7" in str(twice[0])


@pytest.mark.real
def test_a_pin_is_answered_by_its_version_or_by_none(local: LocalWorld) -> None:
    answers = {pin: local.ask(**{VERSION_HEADER: pin}) for pin in (*KEPT, UNKNOWN)}

    assert [answers[pin].headers[VERSION_HEADER] for pin in KEPT] == list(KEPT)
    assert [answer.status_code for answer in answers.values()] == [200, 200, 404]
    assert answers["7"].json()["choices"][0]["message"]["content"]


@pytest.mark.real
def test_a_version_that_is_retired_is_no_longer_to_be_pinned(local: LocalWorld) -> None:
    def is_known() -> bool:
        """Ray has a 404 of its own for a version that is not ready, to which Envoy adds the version."""
        return VERSION_HEADER in local.ask(**{VERSION_HEADER: "5"}).headers

    local.target.apply(local.release("5"))
    until(local.target, lambda _: is_known())

    local.target.retire("5")

    until(local.target, lambda _: not is_known())


@pytest.mark.real
def test_two_endpoints_on_one_ray_do_not_delete_each_others_applications(
    local_worlds: tuple[LocalWorld, LocalWorld], local: LocalWorld
) -> None:
    _, other = local_worlds
    other.target.apply(other.release("6"))
    local.target.apply(local.release("7"))
    until(other.target, lambda seen: seen.is_ready("6"))
    assert set(other.target.observe().revisions) == {"6"}

    other.target.shift(Traffic.all_to("6"))
    assert other.ask().status_code == 200
    other.target.shift(Traffic())
    other.target.retire("6")

    assert until(other.target, lambda seen: not seen.revisions).traffic == Traffic()
    seen = local.target.observe()
    assert all(map(seen.is_ready, KEPT))
    assert seen.traffic == Traffic.all_to("6")
