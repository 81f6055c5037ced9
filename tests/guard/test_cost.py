"""Whole micros for tokens and time, and what is reserved before either is known."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from deploy_targets.engine.chat import Usage
from deploy_targets.guard.cost import cost_micros, expected_usage
from deploy_targets.guard.wire import parse_chat
from deploy_targets.guard_policy import GuardPolicy, Limits, Prices

TOKENS = Prices(prompt_micros_per_million=150_000, completion_micros_per_million=600_000)
GPU = Prices(
    hardware_micros_per_hour={"h100": 3_600_000, "cpu": 1}, runs_on="h100", devices=2, requests_at_once=4
)  # fmt: skip


def test_tokens_cost_what_a_million_of_them_costs() -> None:
    assert cost_micros(Usage(prompt=1_000_000, completion=0), TOKENS, seconds=9) == 150_000
    assert cost_micros(Usage(prompt=100, completion=50), TOKENS, seconds=9) == 45
    assert cost_micros(Usage(prompt=1, completion=0), TOKENS, seconds=0) == 1  # rounded up


def test_time_costs_a_requests_part_of_the_devices() -> None:
    """1,000 micros for a device's second, two devices, four requests at once: 500 for a second of one."""
    assert cost_micros(Usage(prompt=9, completion=9), GPU, seconds=2.0) == 1000
    assert cost_micros(Usage(prompt=9, completion=9), GPU, seconds=0) == 0


@given(st.integers(0, 10**7), st.integers(0, 10**7), st.floats(0, 10**4))
def test_more_never_costs_less(prompt: int, completion: int, seconds: float) -> None:
    prices = GPU.model_copy(update=TOKENS.model_dump(include={"prompt_micros_per_million"}))
    less = cost_micros(Usage(prompt=prompt, completion=completion), prices, seconds=seconds)
    more = cost_micros(
        Usage(prompt=prompt + 1, completion=completion + 1), prices, seconds=seconds + 1
    )
    assert 0 <= less <= more


def test_an_answer_of_unknown_length_is_reserved_by_the_policy() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "x" * 300}]}
    asked = parse_chat(json.dumps(body).encode())
    assert expected_usage(asked, answer_tokens=256) == Usage(prompt=108, completion=256)
    asked = parse_chat(json.dumps({**body, "max_tokens": 5, "n": 3}).encode())
    assert expected_usage(asked, answer_tokens=256) == Usage(prompt=108, completion=15)


def test_a_keys_own_limits_go_before_the_endpoints() -> None:
    own, common = Limits(requests_per_minute=5), Limits(requests_per_minute=1, tokens_per_minute=2)
    assert own.over(common) == Limits(requests_per_minute=5, tokens_per_minute=2)


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"limits": {"key": {"micros_per_day": 5}}}, "nothing has a price"),
        ({"prices": {"runs_on": "h100"}}, "no price in hardware_micros_per_hour"),
        ({"limits": {"key": {"requests_per_minute": 0}}}, "greater than or equal to 1"),
        ({"limits": {"key": {"requests": 5}}}, "Extra inputs"),
    ],
)
def test_what_could_not_act_is_refused(document: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        GuardPolicy.model_validate(document)


def test_the_document_that_the_guard_reads_says_the_same() -> None:
    policy = GuardPolicy(prices=GPU)
    assert GuardPolicy.model_validate_json(policy.document()) == policy
    assert GuardPolicy().document() == "{}"
