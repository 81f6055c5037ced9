"""The guard's API asked whatever its own OpenAPI document allows, and what it does not: never an error of our own."""

from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

from deploy_targets.guard.openapi import openapi_document
from deploy_targets.guard.steps import steps_of
from deploy_targets.guard_policy import GuardPolicy
from tests.guard.stub import ENDPOINT, KEY, StubEngine, served
from tests.guard.world import World

POLICY = GuardPolicy.model_validate(
    {
        "input": {
            "limits": {"max_messages": 50},
            "rules": [
                {"name": "pii", "kind": "personal_data", "action": "redact"},
                {"name": "keys", "kind": "secrets", "action": "refuse"},
                {"name": "words", "kind": "words", "words": ["a", "0"], "action": "redact"},
            ],
        },
        "output": {
            "rules": [{"name": "pii", "kind": "personal_data", "action": "redact"}],
            "json_answers": "refuse",
        },
    }
)
SCHEMA = schemathesis.openapi.from_dict(openapi_document(ENDPOINT))


@pytest.fixture(scope="module")
def engine_url():
    with served() as serve:
        yield serve(StubEngine(always="ok").app)


POSITIVE, NEGATIVE = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE
CHAT, COMPLETIONS, FEEDBACK = "/v1/chat/completions", "/v1/completions", "/v1/feedback"


@pytest.mark.parametrize("is_policed", [False, True])
@pytest.mark.parametrize(
    ("path", "mode"),
    [(CHAT, POSITIVE), (CHAT, NEGATIVE), (COMPLETIONS, POSITIVE), (COMPLETIONS, NEGATIVE)],
)
def test_no_request_gets_an_error_of_our_own(
    start_world: Any, engine_url: str, path: str, mode: Any, *, is_policed: bool
) -> None:
    """What the document allows is answered as it says, unless a policy refuses it; what it forbids is refused or answered."""
    world: World = start_world(
        upstream_url=engine_url, steps=steps_of(POLICY if is_policed else GuardPolicy())
    )
    operation = SCHEMA[path]["POST"]
    answered: list[int] = []

    @settings(
        max_examples=25,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: schemathesis.Case) -> None:
        response = case.call(
            base_url=world.url, timeout=20, headers={"Authorization": f"Bearer {KEY}"}
        )
        answered.append(response.status_code)
        assert response.status_code in {200, 400, 401, 404, 413, 502}, response.text
        assert "internal_error" not in response.text
        if response.status_code == 502:
            assert "answer_unfit" in response.text
        if mode is POSITIVE and not is_policed:
            # JSON Schema calls 1.0 an integer; OpenAI's API and the guard do not.
            assert response.status_code == 200 or "valid integer" in response.text

    ask()
    # Both ends were met: a fuzzer that is refused throughout proves nothing.
    assert (200 if mode is POSITIVE else 400) in answered


@pytest.mark.parametrize("mode", [POSITIVE, NEGATIVE])
def test_no_feedback_gets_an_error_of_our_own(start_world: Any, engine_url: str, mode: Any) -> None:
    """What the document allows is unknown here, for nobody can guess an answer's id; what it forbids is refused."""
    world: World = start_world(upstream_url=engine_url)
    answered: set[int] = set()

    @settings(
        max_examples=50,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=SCHEMA[FEEDBACK]["POST"].as_strategy(generation_mode=mode))
    def ask(case: schemathesis.Case) -> None:
        response = case.call(
            base_url=world.url, timeout=20, headers={"Authorization": f"Bearer {KEY}"}
        )
        # JSON Schema calls 1.0 an integer; the guard does not.
        if mode is NEGATIVE or "valid integer" not in response.text:
            answered.add(response.status_code)
        assert "internal_error" not in response.text

    ask()
    if mode is POSITIVE:
        assert answered == {404}
    else:
        assert 400 in answered
        assert answered <= {400, 401, 404, 413}


def test_the_document_is_served_to_anybody(world: World) -> None:
    response = httpx2.get(f"{world.url}/openapi.json")
    assert response.json() == openapi_document(ENDPOINT)
