"""OpenAI's own client works against the guard unchanged."""

from collections.abc import Iterator

import openai
import pytest

from tests.guard.stub import ENDPOINT, KEY
from tests.guard.world import World


@pytest.fixture
def client(world: World) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{world.url}/v1", api_key=KEY, max_retries=0, timeout=20
    ) as client:
        yield client


def ask(client: openai.OpenAI, behaviour: str) -> str | None:
    answer = client.chat.completions.create(
        model=ENDPOINT, messages=[{"role": "user", "content": behaviour}], max_tokens=8
    )
    return answer.choices[0].message.content


def stream(client: openai.OpenAI, behaviour: str) -> Iterator[str]:
    chunks = client.chat.completions.create(
        model=ENDPOINT,
        messages=[{"role": "user", "content": behaviour}],
        stream=True,
        stream_options={"include_usage": True},
    )
    with chunks:
        for chunk in chunks:
            if chunk.usage is not None:
                assert (chunk.usage.prompt_tokens, chunk.usage.completion_tokens) == (3, 2)
            for choice in chunk.choices:
                yield choice.delta.content or ""


def test_it_gets_an_answer(client: openai.OpenAI) -> None:
    assert ask(client, "ok") == "Paris."


def test_it_lists_the_one_model(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [ENDPOINT]


def test_it_gets_a_stream(client: openai.OpenAI, world: World) -> None:
    world.sent()
    assert "".join(stream(client, "ok")) == "Paris."
    assert world.counted() == (1, 0)


def test_closing_a_stream_early_ends_the_work_behind(client: openai.OpenAI, world: World) -> None:
    world.sent()
    pieces = stream(client, "drip")
    assert next(pieces) == "Par"
    pieces.close()  # pyright: ignore[reportAttributeAccessIssue] it is a generator
    assert world.stub.ended.wait(10)
    assert world.counted() == (0, 0)


@pytest.mark.parametrize("behaviour", ["break", "truncate", "truncate in a line", "error chunk"])
def test_a_stream_that_breaks_raises(client: openai.OpenAI, world: World, behaviour: str) -> None:
    world.sent()
    world.stub.go_on.set()
    with pytest.raises(openai.APIError):
        list(stream(client, behaviour))
    assert world.counted() == (1, 1)


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        ("500", openai.InternalServerError),
        ("text 503", openai.InternalServerError),
        ("error in 200", openai.InternalServerError),
        ("429", openai.RateLimitError),
    ],
)
def test_it_raises_what_it_should(
    client: openai.OpenAI, behaviour: str, error: type[openai.APIStatusError]
) -> None:
    with pytest.raises(error) as raised:
        ask(client, behaviour)
    assert raised.value.request_id
    assert raised.value.response.headers["x-shipway-version"] == "7"


def test_a_wrong_key_and_a_wrong_model_are_told_apart(client: openai.OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError):
        ask(client.with_options(api_key="sk-wrong"), "ok")
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-4", messages=[{"role": "user", "content": "hi"}])
