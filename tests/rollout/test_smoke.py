"""What counts as an answer of the version itself, and what only as not being reachable yet."""

import json
from collections.abc import Callable

import httpx2
import pytest

from deploy_targets.rollout.smoke import SmokeTest
from deploy_targets.routing.traffic import VERSION_HEADER
from tests.builders import a_triton_endpoint, an_endpoint
from tests.guard.stub_triton import ANSWERS, STATUSES

Answer = Callable[[httpx2.Request], httpx2.Response]


def answer(text: object = "Paris.", *, status: int = 200, version: str = "7") -> httpx2.Response:
    body = {"choices": [{"message": {"role": "assistant", "content": text}}]}
    return httpx2.Response(status, json=body, headers={VERSION_HEADER: version})


def smoke(handler: Answer, *prompts: str) -> SmokeTest:
    endpoint = an_endpoint(smoke_prompts=prompts or ("What is the capital of France?",))
    client = httpx2.Client(transport=httpx2.MockTransport(handler))
    return SmokeTest(client, "http://gateway", endpoint)


def test_every_prompt_is_asked_pinned_to_the_version() -> None:
    asked: list[httpx2.Request] = []

    def handle(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        return answer()

    result = smoke(handle, "one", "two").run("7")
    assert result is not None
    assert (result.version, result.passed) == ("7", True)
    assert [request.headers[VERSION_HEADER] for request in asked] == ["7", "7"]
    assert [b'"one"' in asked[0].content, b'"two"' in asked[1].content] == [True, True]


@pytest.mark.parametrize(
    ("response", "said"),
    [
        (answer(status=500), "status 500"),
        (answer(version="6"), "an answer of version 6, not 7"),
        (answer("  \n"), "an empty answer"),
        (httpx2.Response(200, text="<html>", headers={VERSION_HEADER: "7"}), "no chat completion"),
        (answer(None), "no chat completion"),
        (answer(7), "no chat completion"),
        (
            httpx2.Response(200, json={"error": "oom"}, headers={VERSION_HEADER: "7"}),
            "no chat completion",
        ),
    ],
)
def test_an_answer_that_is_none_fails_it_and_names_the_prompt(
    response: httpx2.Response, said: str
) -> None:
    result = smoke(lambda _: response).run("7")
    assert result is not None
    assert not result.passed
    assert said in result.reason
    assert "capital of France" in result.reason


def test_silence_fails_it() -> None:
    def handle(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ReadTimeout("silence", request=request)

    result = smoke(handle).run("7")
    assert result is not None
    assert "no answer" in result.reason


def test_a_gateway_without_a_way_to_it_says_nothing_about_it() -> None:
    def refuse(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("refused", request=request)

    assert smoke(refuse).run("7") is None
    assert smoke(lambda _: httpx2.Response(404)).run("7") is None


def test_a_later_prompt_that_is_not_answered_fails_it() -> None:
    answers = iter((answer(), answer(status=503)))
    result = smoke(lambda _: next(answers), "one", "two").run("7")
    assert result is not None
    assert "status 503" in result.reason
    assert "'two'" in result.reason


def triton_smoke(response: httpx2.Response, asked: list[httpx2.Request]) -> SmokeTest:
    def handle(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        return response

    client = httpx2.Client(transport=httpx2.MockTransport(handle))
    return SmokeTest(client, "http://gateway", a_triton_endpoint())


@pytest.mark.parametrize("how", ["whole", "pieces"])
def test_triton_is_asked_in_its_own_words(how: str) -> None:
    asked: list[httpx2.Request] = []
    told = httpx2.Response(200, content=ANSWERS[how], headers={VERSION_HEADER: "7"})

    result = triton_smoke(told, asked).run("7")

    assert result is not None
    assert result.passed
    assert (asked[0].url.path, asked[0].headers[VERSION_HEADER]) == (
        "/v2/models/chat/generate_stream",
        "7",
    )
    inputs = json.loads(asked[0].content)
    assert json.loads(inputs["text_input"])[0]["content"] == "What is the capital of France?"
    assert json.loads(inputs["sampling_parameters"])["max_tokens"] == 16


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("error", "out of memory"),
        ("cached failure", "the response cache repeats that"),
        ("no end", "before it was finished"),
        ("refused", "too long"),
        ("garbage", "none of our model's"),
    ],
)
def test_what_triton_fails_with_status_200_fails_it(how: str, said: str) -> None:
    told = httpx2.Response(200, content=ANSWERS[how], headers={VERSION_HEADER: "7"})

    result = triton_smoke(told, []).run("7")

    assert result is not None
    assert not result.passed
    assert said in result.reason


def test_what_triton_fails_with_a_status_fails_it_with_tritons_own_words() -> None:
    told = httpx2.Response(400, content=STATUSES["400"].body, headers={VERSION_HEADER: "7"})

    result = triton_smoke(told, []).run("7")

    assert result is not None
    assert "no such name" in result.reason
