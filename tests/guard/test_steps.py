"""The places of a policy's steps: a check before anything is sent on, a filter before anything is given out."""

import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from deploy_targets.guard.errors import RequestInvalid
from deploy_targets.guard.exchange import Exchange
from deploy_targets.guard.steps import Steps
from deploy_targets.guard.wire import Asked
from tests.guard.stub import DONE, a_chat
from tests.guard.world import World


async def shouting(asked: Asked, exchange: Exchange) -> Asked:
    document = asked.document()
    document["user"] = "LOUD"
    exchange.redacted_by("loud")
    return asked.changed(document)


async def refusing(asked: Asked, exchange: Exchange) -> Asked:
    message = "not here"
    raise RequestInvalid(message, rule="house rule")


class Holding:
    """Holds text back until the end, to show that all of it passes."""

    is_over = False

    def __init__(self) -> None:
        self._held: list[dict[str, Any]] = []

    def whole(self, document: dict[str, Any]) -> dict[str, Any]:
        document["choices"][0]["message"]["content"] = "***"
        return document | {}

    def event(self, event: dict[str, Any]) -> Iterable[dict[str, Any]]:
        self._held.append(event)
        return []

    def end(self) -> Iterable[dict[str, Any]]:
        return self._held


class Withholding(Holding):
    """Lets some events through, then refuses."""

    def whole(self, document: dict[str, Any]) -> dict[str, Any]:
        del document
        message = "withheld"
        raise RequestInvalid(message, rule="no names")

    def event(self, event: dict[str, Any]) -> Iterable[dict[str, Any]]:
        if len(self._held) == 30:
            self.whole(event)
        self._held.append(event)
        return [event]


Start = Callable[..., World]


def test_what_a_check_changes_is_what_goes_on(start_world: Start) -> None:
    world = start_world(steps=Steps(checks=(shouting,)))
    assert world.post().status_code == 200
    assert json.loads(world.stub.bodies[0])["user"] == "LOUD"
    assert world.line()["redactions"] == 1


def test_what_a_check_refuses_goes_nowhere_and_the_rule_is_told(start_world: Start) -> None:
    world = start_world(steps=Steps(checks=(refusing, shouting)))
    assert world.post().status_code == 400
    assert world.stub.bodies == []
    line = world.line()
    assert (line["rule"], line["outcome"]) == ("house rule", "refused")


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_filter_sees_the_answer_before_the_client(
    start_world: Start, *, is_streamed: bool
) -> None:
    world = start_world(steps=Steps(filters=(lambda *_: Holding(),)))
    response = world.post(a_chat(stream=is_streamed))
    if is_streamed:
        assert response.text.count("data: ") == 3
        assert response.content.endswith(DONE)
        assert response.text.count("\n\n") == 3
    else:
        assert response.json()["choices"][0]["message"]["content"] == "***"
    assert world.counted() == (1, 0)


def test_a_filter_that_withholds_a_whole_answer_gives_its_status(start_world: Start) -> None:
    world = start_world(steps=Steps(filters=(lambda *_: Withholding(),)))
    assert world.post().status_code == 400
    assert world.line()["rule"] == "no names"
    assert world.counted() == (1, 0)  # the version has answered


def test_a_filter_that_withholds_the_rest_of_a_stream_ends_it_with_an_error(
    start_world: Start,
) -> None:
    world = start_world(steps=Steps(filters=(lambda *_: Withholding(),)))
    response = world.post(a_chat("drip", stream=True))
    assert response.status_code == 200
    assert "withheld" in response.text
    assert "[DONE]" not in response.text
    line = world.line()
    assert (line["rule"], line["outcome"]) == ("no names", "answered")
    assert world.counted() == (1, 0)


def test_a_stream_ends_with_its_usage_behind_but_not_for_who_has_not_asked(world: World) -> None:
    response = world.post(a_chat(stream=True))
    assert json.loads(world.stub.bodies[0])["stream_options"] == {"include_usage": True}
    assert "usage" not in response.text
    asked = world.post(a_chat(stream=True, stream_options={"include_usage": True}))
    assert '"prompt_tokens": 3' in asked.text
