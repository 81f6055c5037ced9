"""One policy for dynamic batching, rendered by each engine in its own words."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class BatchPolicy(BaseModel):
    """How many requests an engine may answer together, and how long the first may wait for the others."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    max_size: Annotated[int, Field(ge=1, le=1024)] = 8
    """Requests in one batch, at the most."""
    max_delay_ms: Annotated[int, Field(ge=0, le=10_000)] = 20
    """How long the first request waits for others."""
