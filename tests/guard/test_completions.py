"""/v1/completions: the older words for the same request, through either protocol."""

import json
from collections.abc import Callable
from typing import Any

import openai
import pytest

from deploy_targets.guard.completions import parse_completion
from deploy_targets.guard.errors import RequestInvalid
from tests.guard.stub import ENDPOINT, KEY
from tests.guard.world import World

OK = {"openai": "ok", "triton": "pieces"}


@pytest.fixture(params=["openai", "triton"])
def told(request: pytest.FixtureRequest, start_world: Callable[..., World]) -> tuple[World, str]:
    return start_world(protocol=request.param), OK[request.param]


def client_of(world: World) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{world.url}/v1", api_key=KEY, max_retries=0, timeout=20)


def test_the_official_client_gets_a_whole_completion(told: tuple[World, str]) -> None:
    world, prompt = told
    with client_of(world) as client:
        answer = client.completions.create(model=ENDPOINT, prompt=prompt, max_tokens=8)
    assert answer.object == "text_completion"
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("Paris.", "stop")
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 2)


def test_the_official_client_gets_a_stream(told: tuple[World, str]) -> None:
    world, prompt = told
    world.sent()
    with client_of(world) as client:
        chunks = list(client.completions.create(model=ENDPOINT, prompt=[prompt], stream=True))
    assert {one.object for one in chunks} == {"text_completion"}
    assert "".join(one.choices[0].text for one in chunks) == "Paris."
    assert world.counted() == (1, 0)


def test_the_prompt_is_what_a_user_says() -> None:
    asked = parse_completion(b'{"model": "m", "prompt": "hi", "max_tokens": 3, "seed": 1}')
    assert asked.is_completion
    assert asked.document() == {
        "model": "m",
        "max_tokens": 3,
        "seed": 1,
        "messages": [{"role": "user", "content": "hi"}],
    }


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": "a", "echo": True}, "echo"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a", "logprobs": 5}, "logprobs"),
        ({"prompt": "a", "best_of": 3}, "best_of"),
        ({"prompt": "a", "temperature": 9}, "temperature"),
    ],
)
def test_what_a_chat_does_not_have_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestInvalid) as refused:
        parse_completion(json.dumps({"model": "m", **fields}).encode())
    assert refused.value.param == param
