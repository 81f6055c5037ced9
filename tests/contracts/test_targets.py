"""What every `Target` promises, asked of each: the fake that other tests trust, the local ones for real, three on a cluster.

The local ones run on a real Ray or real Tritons, a real S3 and a real Envoy for each endpoint; their models are tiny.
Versions 6 and 7 are deployed once and stay; version 9 is promised other bytes than lie in S3, until they are mended. Those
on a cluster may stand on the stand-in for its API server. Knative mode has room for two versions: the wrong one takes the
place of 7 when it is asked for, and what needs three at once is not asked there.
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import httpx2
import psutil
import pytest

from deploy_targets.endpoint import Endpoint, Resources, TargetKind
from deploy_targets.guard.compose import composed, prepare
from deploy_targets.guard.settings import GuardSettings
from deploy_targets.local.process import find_marked
from deploy_targets.local.split import Split
from deploy_targets.local.triton_adapter import LocalTritonTarget
from deploy_targets.local.triton_revision import SPEC_FILE, RevisionSpec
from deploy_targets.local.triton_server import STUB
from deploy_targets.placement import Triton
from deploy_targets.routing.traffic import VERSION_HEADER, Traffic
from deploy_targets.target import Observed, Readiness, Target
from deploy_targets.triton.repository import put_repository
from registry.digests import MANIFEST_NAME
from registry.errors import TargetChanged, TargetUnavailable
from registry.release import Release, split_source
from tests.builders import a_digest, a_release, an_endpoint
from tests.contracts.cluster_world import ClusterWorld
from tests.fakes import FakeTarget
from tests.guard.stub import a_chat
from tests.local.platform import Platform, a_platform, needs_triton
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

    def try_wrong(self) -> None:
        """Version 9 is applied, where it is not yet."""
        ...

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

    def try_wrong(self) -> None:
        """It was applied from the start."""

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
        servers: Servers,
        models: tuple[Path, Path],
    ) -> None:
        self._platform = platform
        self._endpoint = endpoint
        self._s3 = servers.environment
        self._store = servers.store
        self._models = models
        self._good, self._wrong = map(self._store.put, models)
        self.target = self.fresh_target()

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

    def fresh_target(self) -> Target:
        return self._platform.target(self._endpoint)

    def kill_a_replica(self, version: str) -> None:
        assert self._platform.ray is not None
        details = self._platform.ray.get("/api/serve/applications/").json()["applications"]
        (replica,) = details[f"{self._endpoint.name}-v{version}"]["deployments"]["llm"]["replicas"]
        os.kill(replica["pid"], signal.SIGKILL)

    def try_wrong(self) -> None:
        """It was applied from the start."""

    def mend(self) -> None:
        self._store.put(self._models[1])

    def cut_off(self) -> Target:
        return self._platform.target(self._endpoint, self._nobody())

    def _nobody(self) -> httpx2.Client:
        return self._platform.clients.enter_context(httpx2.Client(base_url="http://127.0.0.1:1"))

    def ask(self, body: Mapping[str, Any] | None = None, **pin: str) -> httpx2.Response:
        url = f"{self._platform.url(f'{self._endpoint.name}.envoy')}/v1/chat/completions"
        return httpx2.post(url, json=body or a_chat("hello"), headers=pin, timeout=60)

    def make_ready(self) -> None:
        seen = self.target.observe()
        for version in KEPT:
            if version not in seen.revisions:
                self.target.apply(self.release(version))
        until(self.target, lambda seen: all(map(seen.is_ready, KEPT)))
        self.target.shift(Traffic.all_to("6"))


class TritonWorld(LocalWorld):
    def fresh_target(self) -> LocalTritonTarget:
        return self._platform.triton_target(self._endpoint, self._s3)

    def kill_a_replica(self, version: str) -> None:
        self.process(version, "tritonserver").kill()

    def ask(self, body: Mapping[str, Any] | None = None, **pin: str) -> httpx2.Response:
        """Through a guard: before Triton nobody else speaks OpenAI's protocol."""

        name = self._endpoint.name
        settings = GuardSettings(
            endpoint=name,
            upstream_url=self._platform.url(f"{name}.envoy"),
            protocol="triton",
            port=1,
            admin_port=2,
            auth="none",
        )

        async def ask() -> httpx2.Response:
            async with composed(prepare(settings)) as guard:
                transport = httpx2.ASGITransport(guard.front)
                async with httpx2.AsyncClient(transport=transport, base_url="http://guard") as http:
                    return await http.post(
                        "/v1/chat/completions", json=body or a_chat("hello"), headers=pin
                    )

        return asyncio.run(ask())

    def process(self, version: str, name: str) -> psutil.Process:
        """The one of that name among the revision's processes."""
        marked = find_marked(self._platform.home.mark(f"{self._endpoint.name}.triton-v{version}"))
        (found,) = [one for one in marked if one.name().startswith(name[:15])]
        return found

    def release_of(self, model: Path, version: str) -> Release:
        """Another model than those of the suite."""
        stored = self._store.put(model)
        return replace(self.release(version), source=stored.source, digest=stored.manifest.digest)

    def overwrite_in_repository(self, release: Release, file: str) -> None:
        """From now on that file of the model repository holds other bytes, of the same number."""
        stored = put_repository(self._store, self._endpoint, release)
        bucket, prefix = split_source(stored.source)
        path = f"{self._endpoint.name}/{release.version}/checkpoint/{file}"
        (size,) = [one.size_bytes for one in stored.manifest.files if one.path == path]
        self._store._client.put_object(Bucket=bucket, Key=f"{prefix}/{path}", Body=b" " * size)

    def metric(self, version: str, name: str) -> int:
        """One of Triton's own, of the model."""
        folder = self._platform.home.folder(f"endpoints/{self._endpoint.name}/triton/{version}")
        spec = RevisionSpec.model_validate_json((folder / SPEC_FILE).read_bytes())
        status = httpx2.get(f"http://127.0.0.1:{spec.port}/status").json()
        text = httpx2.get(status["metrics_url"]).text
        return sum(
            int(line.rpartition(" ")[2])
            for line in text.splitlines()
            if line.startswith(f"{name}{{")
        )

    def cut_off(self) -> LocalTritonTarget:
        folder = self._platform.envoy_folder(self._endpoint.name)
        split = Split(self._endpoint, admin=self._nobody(), folder=folder)
        return self._platform.triton_target(self._endpoint, self._s3, split)


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
            worlds.append(LocalWorld(platform, endpoint, servers, models))
        first, second = worlds
        first.tamper()
        for version in (*KEPT, WRONG):
            first.target.apply(first.release(version))
        yield first, second


@pytest.fixture(scope="module")
def triton_world(
    servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonWorld]:
    from tests.tiny_model import write_tiny_model

    models = tuple(write_tiny_model(tmp_path_factory.mktemp("tiny"), seed=n) for n in (3, 4))
    cached = {"target": TargetKind.LOCAL_TRITON, "triton": Triton(response_cache_bytes=1 << 24)}
    endpoint = small("chat", "smollm2").model_copy(update=cached)
    with a_platform(tmp_path_factory.mktemp("tritons")) as platform:
        platform.start_envoy(endpoint.name)
        world = TritonWorld(platform, endpoint, servers, models)
        world.tamper()
        for version in (*KEPT, WRONG):
            world.target.apply(world.release(version))
        yield world


@pytest.fixture
def triton(triton_world: TritonWorld) -> TritonWorld:
    triton_world.make_ready()
    return triton_world


@pytest.fixture
def local(local_worlds: tuple[LocalWorld, LocalWorld]) -> LocalWorld:
    world = local_worlds[0]
    world.make_ready()
    return world


REAL = [
    pytest.param("local", marks=pytest.mark.real),
    pytest.param("triton", marks=[pytest.mark.real, needs_triton]),
]


ROOMY = ["fake", "ray-serve", "standard", *REAL]
on_roomy = pytest.mark.parametrize("world", ROOMY, indirect=True)


@pytest.fixture(params=[*ROOMY, "knative"])
def world(request: pytest.FixtureRequest) -> World:
    if request.param == "fake":
        return FakeWorld()
    if request.param in {"local", "triton"}:
        return request.getfixturevalue(request.param)
    server = request.getfixturevalue("cluster")
    return ClusterWorld(server, request.param, versions=KEPT, wrong=WRONG)


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
    assert world.fresh_target().observe().disturbance == ""


@on_roomy
def test_applying_and_retiring_leave_the_weights_alone(world: World) -> None:
    wanted = Traffic.split("6", "7", 25)
    world.target.shift(wanted)

    world.target.apply(world.release("5"))
    assert world.target.observe().traffic == wanted
    world.target.retire("5")

    assert world.target.observe().traffic == wanted


def test_a_version_of_which_the_bytes_differ_never_becomes_ready_and_says_why(world: World) -> None:
    world.try_wrong()

    seen = until(world.target, lambda seen: readiness(seen, WRONG) is not Readiness.STARTING)

    assert readiness(seen, WRONG) is Readiness.FAILED
    assert f"{world.release(WRONG).digest} was evaluated" in seen.revisions[WRONG].reason
    assert seen.traffic == Traffic.all_to("6")


def test_one_that_failed_is_repaired_by_applying_it_again(world: World) -> None:
    world.try_wrong()
    until(world.target, lambda seen: readiness(seen, WRONG) is Readiness.FAILED)
    world.mend()

    world.target.apply(world.release(WRONG))

    assert until(world.target, lambda seen: seen.is_ready(WRONG)).traffic == Traffic.all_to("6")


@on_roomy
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
    world.try_wrong()
    others = world.target.observe().revisions.keys() - {WRONG}
    for _ in range(2):
        world.target.retire(WRONG)

    def is_gone(seen: Observed) -> bool:
        """In Knative mode it takes more than one look, as the controller gives it."""
        if WRONG in seen.revisions:
            world.target.retire(WRONG)
        return WRONG not in seen.revisions

    seen = until(world.target, is_gone)
    assert others == seen.revisions.keys()
    assert all(map(seen.is_ready, others))
    assert seen.traffic == Traffic.all_to("6")


@pytest.mark.parametrize("world", ["knative"], indirect=True)
def test_where_there_is_no_room_a_third_version_is_told_to_wait_and_the_weights_stay(
    world: World,
) -> None:
    wanted = Traffic.split("6", "7", 25)
    world.target.shift(wanted)

    with pytest.raises(TargetUnavailable, match="room for one challenger"):
        world.target.apply(world.release("5"))

    assert world.target.observe().traffic == wanted


def test_requests_are_never_sent_to_what_is_not_applied(world: World) -> None:
    with pytest.raises(TargetChanged, match=UNKNOWN):
        world.target.shift(Traffic.split("6", UNKNOWN, 5))

    assert world.target.observe().traffic == Traffic.all_to("6")


def test_what_has_traffic_is_not_retired(world: World) -> None:
    with pytest.raises(TargetChanged, match="6"):
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


@pytest.fixture(params=REAL)
def real(request: pytest.FixtureRequest) -> LocalWorld:
    return request.getfixturevalue(request.param)


def test_a_pin_is_answered_by_its_version_or_by_none(real: LocalWorld) -> None:
    answers = {pin: real.ask(**{VERSION_HEADER: pin}) for pin in (*KEPT, UNKNOWN)}

    assert [answers[pin].headers[VERSION_HEADER] for pin in KEPT] == list(KEPT)
    assert [answer.status_code for answer in answers.values()] == [200, 200, 404]
    assert answers["7"].json()["choices"][0]["message"]["content"]


def test_a_version_that_is_retired_is_no_longer_to_be_pinned(real: LocalWorld) -> None:
    def is_known() -> bool:
        """One that is not ready answers with an error, to which Envoy adds the version."""
        return VERSION_HEADER in real.ask(**{VERSION_HEADER: "5"}).headers

    real.target.apply(real.release("5"))
    until(real.target, lambda _: is_known())

    real.target.retire("5")

    until(real.target, lambda _: not is_known())


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


@pytest.mark.real
@needs_triton
def test_a_dead_model_process_counts_as_a_restart_though_triton_would_replace_it_unseen(
    triton: TritonWorld,
) -> None:
    before = triton.target.observe().revisions["7"].restarts

    triton.process("7", STUB).kill()

    until(triton.target, lambda seen: not seen.is_ready("7"))
    until(triton.target, lambda seen: seen.is_ready("7"))
    assert triton.target.observe().revisions["7"].restarts == before + 1


@pytest.mark.real
@needs_triton
def test_a_revision_whose_own_process_is_gone_leaves_nothing_behind_and_is_applied_again(
    triton: TritonWorld,
) -> None:
    before = triton.target.observe().revisions["7"].restarts
    server, keeper = triton.process("7", "tritonserver"), triton.process("7", "python")

    keeper.kill()

    until(triton.target, lambda seen: "7" not in seen.revisions)
    assert triton.ask(**{VERSION_HEADER: "7"}).status_code == 503
    until(triton.target, lambda _: not server.is_running())
    triton.target.apply(triton.release("7"))
    seen = until(triton.target, lambda seen: seen.is_ready("7"))
    assert seen.revisions["7"].restarts == before + 1
    assert seen.traffic == Traffic.all_to("6")


@pytest.mark.real
@needs_triton
def test_a_failure_that_tritons_cache_repeats_with_status_200_is_an_error_each_time(
    triton: TritonWorld, tmp_path: Path
) -> None:
    from tests.tiny_model import TEMPLATE, write_tiny_model

    broken = "{% if messages[0]['role'] == 'system' %}{{ 1 + nothing }}{% endif %}" + TEMPLATE
    triton.target.apply(triton.release_of(write_tiny_model(tmp_path, template=broken), "8"))
    until(triton.target, lambda seen: seen.is_ready("8"))
    body = a_chat("hello", temperature=0)
    body["messages"].insert(0, {"role": "system", "content": "Be brief."})

    first, again = (triton.ask(body, **{VERSION_HEADER: "8"}) for _ in range(2))

    told = [answer.json()["error"]["message"] for answer in (first, again)]
    assert [first.status_code, again.status_code] == [500, 500]
    assert "UndefinedError" in told[0]
    assert "the response cache repeats that" in told[1]
    # Triton itself saw nothing but a hit.
    assert triton.metric("8", "nv_cache_num_hits_per_model") == 1
    assert triton.metric("8", "nv_inference_request_failure") == 0
    assert triton.ask(**{VERSION_HEADER: "8"}).status_code == 200
    triton.target.retire("8")


@pytest.mark.real
@needs_triton
def test_a_checkpoint_that_was_changed_in_the_repository_itself_is_not_loaded(
    triton: TritonWorld, tmp_path: Path
) -> None:
    from tests.tiny_model import write_tiny_model

    release = triton.release_of(write_tiny_model(tmp_path, seed=8), "8")
    triton.overwrite_in_repository(release, "generation_config.json")

    triton.target.apply(release)

    seen = until(triton.target, lambda seen: readiness(seen, "8") is not Readiness.STARTING)
    assert readiness(seen, "8") is Readiness.FAILED
    assert f"{release.digest} was evaluated" in seen.revisions["8"].reason
    triton.target.retire("8")
