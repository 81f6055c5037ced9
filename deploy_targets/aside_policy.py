"""What is done with answers aside from the request path: the endpoint file's `guard.shadow`, `.judge` and `.record`.

Each takes a sample, within bounds of its own; what is over them is left out and counted. No client waits for any of it.
"""

from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from deploy_targets.declared import Count, Declared

Share = Annotated[float, Field(gt=0, le=1)]


class ShadowPolicy(Declared):
    """Live requests are asked of the challenger as well, whose answers nobody gets."""

    sample: Share = 0.1
    """Which share of the requests that clients ask without naming a version."""
    concurrent: Count = 2
    """Mirrored requests under way at once in one process of the guard."""
    requests_per_minute: Count = 60
    """In each minute of the clock, for one process of the guard."""
    micros_per_day: Count | None = None
    """What mirrored requests may cost in a day, by UTC, in one process of the guard since its start. Needs prices."""
    similar_from: Annotated[float, Field(gt=0, lt=1)] = 0.8
    """From which likeness on, of 0 to 1, two answers count as similar."""


class AnswerJudgePolicy(Declared):
    """Another model is asked whether answers are good."""

    url: Annotated[str, Field(pattern=r"^https?://[^/\s]+", max_length=500)]
    """Of an API like OpenAI's, with its /v1. Prompts and answers go there as clients see them. Its key is
    SHIPWAY_GUARD_JUDGE_KEY."""
    model: Annotated[str, Field(min_length=1, max_length=200)]
    """What the judge is called there."""
    sample: Share = 0.01
    """Which share of answers."""
    concurrent: Count = 2
    """Questions under way at once in one process of the guard."""
    requests_per_minute: Count = 60
    """In each minute of the clock, for one process of the guard."""
    timeout_s: Annotated[float, Field(gt=0)] = 30
    """For one verdict."""

    @model_validator(mode="after")
    def _is_an_address(self) -> Self:
        url = urlsplit(self.url)
        if "@" in url.netloc:
            message = "url holds a user or a password; give the key as SHIPWAY_GUARD_JUDGE_KEY"
            raise ValueError(message)
        if url.query or url.fragment:
            message = "url ends with its path, like https://judge.example.com/v1"
            raise ValueError(message)
        return self

    @property
    def port(self) -> int:
        """Where it listens."""
        url = urlsplit(self.url)
        return url.port or (443 if url.scheme == "https" else 80)


class RecordPolicy(Declared):
    """Prompts and answers are kept, redacted, and shipped to S3. Without this none is ever written."""

    sample: Share = 0.01
    """Which share of answers."""
    requests_per_minute: Count = 60
    """In each minute of the clock: to look through a long text takes the guard's core some milliseconds."""
    max_bytes: Annotated[int, Field(ge=1 << 16)] = 64 << 20
    """Of what waits in the folder to be shipped; what comes when it is full is dropped."""
    lifetime_days: Annotated[int, Field(ge=1, le=3650)] = 30
    """After which the controller deletes what it has shipped."""
