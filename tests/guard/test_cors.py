"""Pages of other origins: only those that the policy names get answers that their browser shows them."""

from collections.abc import Callable

import httpx2
import pytest
from pydantic import ValidationError

from deploy_targets.guard_policy import GuardPolicy
from tests.guard.stub import a_chat
from tests.guard.world import World

PAGE = "https://app.example.com"
ALLOWED = "access-control-allow-origin"


@pytest.fixture
def world(start_world: Callable[..., World]) -> World:
    return start_world(policy=GuardPolicy(cors_origins=(PAGE,)))


def preflight(world: World, origin: str) -> httpx2.Response:
    """What a browser asks before a page of that origin may post JSON with a key."""
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang",
    }
    return httpx2.options(f"{world.url}/v1/chat/completions", headers=headers)


def test_a_page_that_is_named_may_ask_with_its_key_and_reads_version_and_limits(
    world: World,
) -> None:
    asked = preflight(world, PAGE)
    answer = world.post(Origin=PAGE)

    assert (asked.status_code, asked.headers[ALLOWED]) == (200, PAGE)
    assert "x-stainless-lang" in asked.headers["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in asked.headers
    assert (answer.status_code, answer.headers[ALLOWED]) == (200, PAGE)
    assert "x-shipway-version" in answer.headers["access-control-expose-headers"]
    assert world.counted() == (1, 0)


def test_a_refusal_can_be_read_by_the_page_too(world: World) -> None:
    for refused in (world.post(Origin=PAGE, Authorization="x"), world.post({"a": 1}, Origin=PAGE)):
        assert refused.status_code in {400, 401}
        assert refused.headers[ALLOWED] == PAGE


@pytest.mark.parametrize("origin", ["https://evil.example.com", f"{PAGE}.evil.com", "null"])
def test_another_page_is_not_told_that_it_may(world: World, origin: str) -> None:
    assert preflight(world, origin).status_code == 400
    assert ALLOWED not in world.post(a_chat(), Origin=origin).headers


def test_without_a_policy_no_page_may(start_world: Callable[..., World]) -> None:
    world = start_world()
    assert preflight(world, PAGE).status_code == 405
    assert ALLOWED not in world.post(Origin=PAGE).headers


@pytest.mark.parametrize("origin", ["app.example.com", f"{PAGE}/", "https://*.example.com", ""])
def test_what_is_no_origin_is_refused_with_the_policy(origin: str) -> None:
    with pytest.raises(ValidationError):
        GuardPolicy(cors_origins=(origin,))
