"""Which chats keep to a policy's limits."""

from typing import Any

import pytest

from deploy_targets.filter_policy import RequestLimits
from deploy_targets.guard.errors import RequestInvalid
from deploy_targets.guard.request_limits import check_limits
from tests.guard.stub import a_chat

BY_TURNS = RequestLimits(is_order_checked=True)


def said(*roles: str) -> dict[str, Any]:
    return a_chat(messages=[{"role": role, "content": "hi"} for role in roles])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"n": 0}, "n"),
        ({"presence_penalty": 2.5}, "presence_penalty"),
        ({"frequency_penalty": "1"}, "frequency_penalty"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": "x" * 201}, "stop"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"seed": "x"}, "seed"),
        ({"user": "x" * 513}, "user"),
    ],
)
def test_what_is_out_of_range_is_refused_with_its_place(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestInvalid) as refused:
        check_limits(a_chat(**fields), RequestLimits())
    assert refused.value.param == param


def test_ordinary_fields_pass() -> None:
    fields = {"n": 1, "presence_penalty": -2, "stop": ["a", "b"], "logit_bias": {"50256": -100}}
    check_limits(a_chat(**fields, logprobs=True, top_logprobs=3, seed=1, user="u"), RequestLimits())


@pytest.mark.parametrize(
    ("limits", "document", "param"),
    [
        (RequestLimits(max_messages=2), said("user", "assistant", "user"), "messages"),
        (RequestLimits(max_prompt_chars=3), said("user", "user"), "messages"),
        (RequestLimits(max_answer_tokens=7), a_chat(), "max_tokens"),
        (
            RequestLimits(max_answer_tokens=7),
            a_chat(max_completion_tokens=9, max_tokens=1),
            "max_completion_tokens",
        ),
        (RequestLimits(roles=("user",)), said("system", "user"), "messages.0.role"),
        (BY_TURNS, said("user", "system", "user"), "messages"),
        (BY_TURNS, said("assistant", "user"), "messages.0.role"),
        (BY_TURNS, said("system", "user", "user"), "messages.2.role"),
        (BY_TURNS, said("user", "assistant"), "messages"),
        (BY_TURNS, said("system"), "messages"),
        (BY_TURNS, said("user", "tool", "user"), "messages.1.role"),
    ],
)
def test_each_limit_refuses_what_is_beyond_it(
    limits: RequestLimits, document: dict[str, Any], param: str
) -> None:
    with pytest.raises(RequestInvalid) as refused:
        check_limits(document, limits)
    assert refused.value.param == param
    check_limits(document, RequestLimits())


def test_what_is_just_within_the_limits_passes() -> None:
    limits = RequestLimits(
        max_messages=4, max_prompt_chars=8, max_answer_tokens=8, is_order_checked=True
    )
    check_limits(said("system", "user", "assistant", "user"), limits)
