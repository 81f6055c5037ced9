"""Which version the guards are told to mirror requests to, and when."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest

from deploy_targets.guard.shadow_target import SHADOW_PATH, Word
from deploy_targets.rollout.mirror import GuardMirror
from deploy_targets.rollout.observe import GuardMetrics
from registry.errors import MetricsUnavailable
from tests.builders import FakeClock, a_shadowed_endpoint
from tests.rollout.test_controller import World


class Guards:
    def __init__(self) -> None:
        self.told: list[str | None] = []
        self.are_away = False

    def put(self, path: str, document: Mapping[str, object]) -> None:
        assert path == SHADOW_PATH
        if self.are_away:
            raise MetricsUnavailable("away")
        self.told.append(Word.model_validate(document).version)


def test_a_challenger_is_mirrored_to_while_it_steps_beside_a_champion(tmp_path: Path) -> None:
    world, guards = World(tmp_path), Guards()
    world.unit = replace(world.unit, mirror=GuardMirror(guards, endpoint="chat"))
    world.restart()
    world.release("6")
    assert guards.told == []
    world.release("7")
    *during, after = guards.told
    assert set(during) == {"7"}
    assert len(during) >= 3  # a look at each step, at the least
    assert after is None


def test_guards_that_do_not_hear_hold_up_nothing_and_are_told_again() -> None:
    guards = Guards()
    mirror = GuardMirror(guards, endpoint="chat")
    guards.are_away = True
    mirror.follow("7")
    guards.are_away = False
    mirror.follow("7")
    guards.are_away = True
    mirror.follow(None)
    guards.are_away = False
    mirror.follow(None)
    mirror.follow(None)
    assert guards.told == ["7", None]


def test_each_guard_is_told_at_its_own_address() -> None:
    asked: list[tuple[str, str, bytes]] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append((str(request.url), request.headers["host"], request.content))
        return httpx2.Response(204 if request.url.host != "10.0.0.3" else 404)

    metrics = GuardMetrics(
        httpx2.Client(transport=httpx2.MockTransport(answer)),
        "http://chat-counts:9090/metrics",
        endpoint="chat",
        clock=FakeClock(),
        addresses=lambda url: [url.copy_with(host=f"10.0.0.{n}") for n in (1, 2, 3)],
    )
    with pytest.raises(MetricsUnavailable):
        metrics.put("/shadow", {"version": "7"})
    assert [url for url, _, _ in asked] == [f"http://10.0.0.{n}:9090/shadow" for n in (1, 2, 3)]
    assert {(host, body) for _, host, body in asked} == {("chat-counts:9090", b'{"version":"7"}')}


def test_a_rollout_that_begins_at_weight_0_waits_for_mirrored_requests(tmp_path: Path) -> None:
    steps = [{"weight": 0, "dwell_s": 0, "requests": 40}, {"weight": 50, "dwell_s": 0}]
    world = World(tmp_path, a_shadowed_endpoint(steps=steps))
    guards = Guards()
    world.unit = replace(world.unit, mirror=GuardMirror(guards, endpoint="chat"))
    world.restart()
    world.release("6")
    world.registry.aliases["challenger"] = "7"
    world.tick(10)
    assert guards.told[-1] == "7"
    assert world.target.traffic.weights == {"6": 100}
    assert world.state.rollout is not None
    world.users.mirrored["7"] = 39
    world.tick(5)
    assert world.target.traffic.weights == {"6": 100}
    world.users.mirrored["7"] = 40
    world.tick()
    assert world.target.traffic.percent("7") == 50
    world.tick(10)
    assert world.target.traffic.weights == {"7": 100}
