"""A challenger that fails no request and says nothing of use: a real guard sees it, the controller rolls it back.

The split is a stub that follows the target's weights; the platform, the registry and the clock are fakes.
"""

import queue
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from deploy_targets.endpoint import Endpoint
from deploy_targets.rollout.observe import GuardMetrics
from deploy_targets.routing.traffic import Traffic
from tests.builders import an_endpoint
from tests.guard.stub import COMPLETION, DONE, a_chat, event, served
from tests.guard.world import World as Guard
from tests.rollout.test_controller import World

pytestmark = pytest.mark.real
GOOD = "The capital of France is Paris."
LOOP = "The capital of the capital of " * 8


class Split:
    """Sends each request to a version by the weights; v7 says `challenger`, everybody else what is good."""

    def __init__(self, weights: Callable[[], Traffic], challenger: str) -> None:
        self._weights = weights
        self._challenger = challenger
        self._random = random.Random(1)
        self.app = Starlette(routes=[Route("/v1/chat/completions", self._chat, methods=["POST"])])

    async def _chat(self, request: Request) -> Response:
        asked = await request.json()
        shares = self._weights().weights
        (version,) = self._random.choices(list(shares), weights=list(shares.values()))
        text = self._challenger if version == "7" else GOOD
        headers = {"x-shipway-version": version}
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
        if asked.get("stream"):
            said = {**choice, "delta": {"content": text}}
            events = (event({"id": "c", "choices": [said]}), DONE)
            return StreamingResponse(iter(events), media_type="text/event-stream", headers=headers)
        said = {**choice, "message": {"role": "assistant", "content": text}}
        return JSONResponse({**COMPLETION, "choices": [said]}, headers=headers)


class Story:
    """v6 serves, and v7 is asked for."""

    def __init__(self, folder: Path, challenger: str, serve: Callable[[Any], str]) -> None:
        told = an_endpoint(promote={"by": "exposure", "requests": 60}).model_dump(mode="json")
        told["rollout"]["metrics"]["quality"] = told["guard"]["quality"] = {}
        self.endpoint = Endpoint.model_validate(told)
        self.world = World(folder, self.endpoint)
        split = Split(lambda: self.world.target.traffic, challenger)
        self.guard = Guard(queue.Queue(), policy=self.endpoint.guard)
        self.guard.start(keys_file=None, upstream_url=serve(split.app), timeout_s=10)
        self.http = httpx2.Client()
        self.world.unit = replace(
            self.world.unit,
            counters=GuardMetrics(
                self.http,
                f"{self.guard.admin_url}/metrics",
                endpoint="chat",
                clock=self.world.clock,
            ),
        )
        self.world.restart()
        self.statuses: set[int] = set()

    def close(self) -> None:
        self.http.close()
        self.guard.stop()

    def release(self, version: str) -> str:
        """How the rollout of this version ended; every look is at forty requests more, every second one a stream."""
        world, ended = self.world, len(self.world.outcomes)
        world.registry.aliases["challenger"] = version
        for _ in range(60):
            if world.target.traffic.weights:
                for number in range(40):
                    response = self.guard.http.post(
                        "/v1/chat/completions", json=a_chat("hi", stream=bool(number % 2))
                    )
                    self.statuses.add(response.status_code)
            world.clock.advance(10)
            world.controller.tick("chat")
            if len(world.outcomes) > ended:
                return world.outcomes[-1]
        raise AssertionError(world.state.rollout)


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Callable[[str], Story]]:
    stories: list[Story] = []
    with served() as serve:

        def tell(challenger: str) -> Story:
            stories.append(Story(tmp_path, challenger, serve))
            return stories[-1]

        yield tell
        for one in stories:
            one.close()


@pytest.mark.parametrize("challenger", [LOOP, ""], ids=["loops", "empty"])
def test_a_challenger_whose_answers_are_of_no_use_is_rolled_back_though_none_failed(
    story: Callable[[str], Story], challenger: str
) -> None:
    told = story(challenger)
    assert told.release("6") == "promoted"
    assert told.release("7") == "rolled_back"
    reason = told.world.registry.versions["7"].tags["shipway.reason"]
    assert "quality: challenger" in reason
    assert "bad answers in" in reason
    assert "worse: e-value" in reason
    assert told.world.target.traffic == Traffic.all_to("6")
    assert told.statuses == {200}


def test_one_whose_answers_are_as_good_is_promoted(story: Callable[[str], Story]) -> None:
    told = story(GOOD)
    told.release("6")
    assert told.release("7") == "promoted"
    assert told.statuses == {200}
