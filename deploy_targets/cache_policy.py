"""Which answers the guard gives again, as a user declares it: the endpoint file's `guard.cache`.

Without it nothing is kept. What is kept, and when none of it may be given, is in `guard.answer_cache` and
docs/decisions/0012.
"""

from typing import Annotated, Literal

from pydantic import Field

from deploy_targets.declared import Declared


class CachePolicy(Declared):
    """Answers to the same request, byte for byte, by the version that serves alone."""

    lifetime_s: Annotated[int, Field(ge=1, le=86_400)] = 3600
    """How long an answer is kept."""
    max_bytes: Annotated[int, Field(ge=1 << 20, le=1 << 30)] = 64 << 20
    """Of all that are kept: in the memory of each process, or in Redis for the endpoint. The oldest go first."""
    scope: Literal["key", "endpoint"] = "key"
    """Who may be given an answer: the API key that has asked for it before, or every key of the endpoint."""
    store: Literal["memory", "redis"] = "memory"
    """Each process's own memory, or the Redis of SHIPWAY_GUARD_REDIS_URL for all processes together."""
    recheck_s: Annotated[int, Field(ge=1, le=300)] = 30
    """For how long a request that the split sent to a version shows that this version serves: the longest time that an
    answer may outlive its version. Longer than most answers take, or nothing is ever given again."""
