"""What the parts of this machine may answer, and whoever has taken their ports."""

import httpx2
import pytest

from deploy_targets.local.split import ask
from registry.errors import TargetUnavailable


def asked(answer: httpx2.Response) -> object:
    transport = httpx2.MockTransport(lambda _: answer)
    with httpx2.Client(transport=transport, base_url="http://part") as client:
        return ask(client, "GET", "/x")


def test_an_object_is_taken_and_nothing_is_an_empty_one() -> None:
    assert asked(httpx2.Response(200, json={"a": 1})) == {"a": 1}
    assert asked(httpx2.Response(200)) == {}


@pytest.mark.parametrize(
    "answer",
    [
        httpx2.Response(503, json={"a": 1}),
        httpx2.Response(200, text="<html>"),
        httpx2.Response(200, json=[]),
        httpx2.Response(200, json="ok"),
        httpx2.Response(200, text="null"),
    ],
)
def test_whatever_else_is_answered_says_nothing_about_the_platform(answer) -> None:
    with pytest.raises(TargetUnavailable, match="`shipway status` shows the parts"):
        asked(answer)
