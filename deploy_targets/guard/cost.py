"""What a request costs, in whole micros; and what it may cost before it is known. Pure."""

from deploy_targets.engine.chat import Usage
from deploy_targets.guard.wire import Asked
from deploy_targets.guard_policy import Prices

_MILLION = 1_000_000
_HOUR_S = 3600
_BYTES_PER_TOKEN = 3
"""English has about four bytes for a token, other languages and code about three."""
_TOKENS_AROUND_A_MESSAGE = 8
"""What a chat template puts around each; those of the models here take 3 to 6."""


def cost_micros(usage: Usage, prices: Prices, *, seconds: float) -> int:
    """Tokens and time, each at its price; rounded up, so that nothing that has a price is free."""
    tokens = (
        usage.prompt * prices.prompt_micros_per_million
        + usage.completion * prices.completion_micros_per_million
    )
    time_micros = seconds * prices.micros_per_device_hour / _HOUR_S / prices.requests_at_once
    return -(-tokens // _MILLION) + -int(-time_micros // 1)


def expected_usage(asked: Asked, *, answer_tokens: int) -> Usage:
    """What is reserved before anything is known: the prompt by its size, the answer by the most that it may have."""
    prompt = -(-asked.prompt_bytes // _BYTES_PER_TOKEN)
    return Usage(
        prompt=prompt + _TOKENS_AROUND_A_MESSAGE * asked.messages,
        completion=(asked.max_tokens or answer_tokens) * asked.choices,
    )
