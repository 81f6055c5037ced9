"""The body of POST /v1/feedback. Pure.

A comment is read, for clients that send one, and goes nowhere: it is neither logged nor kept.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from deploy_targets import metrics
from deploy_targets.guard.wire import parse_as

_Id = Annotated[str, Field(min_length=1, max_length=200)]
_VERDICTS = {-1: metrics.BAD, 0: metrics.NEUTRAL, 1: metrics.GOOD}


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    request_id: _Id | None = None
    """The header x-request-id of the answer."""
    id: _Id | None = None
    """Or the answer's own id."""
    score: Annotated[int, Field(ge=-1, le=1)] | Literal["good", "bad"]
    comment: Annotated[str, Field(max_length=10_000)] | None = None

    @model_validator(mode="after")
    def _names_one(self) -> Self:
        if (self.request_id is None) == (self.id is None):
            message = "give request_id, or the answer's id, and not both"
            raise ValueError(message)
        return self

    @property
    def name(self) -> str:
        return self.request_id or self.id or ""

    @property
    def verdict(self) -> str:
        return self.score if isinstance(self.score, str) else _VERDICTS[self.score]


def parse_feedback(body: bytes) -> _Body:
    """What the body says: of which answer, by one of its names, which of `metrics.FEEDBACK_VERDICTS`.

    Raises:
        RequestInvalid: another form.
    """
    return parse_as(_Body, body)


def feedback_schema() -> dict[str, Any]:
    """The JSON schema of the body."""
    schema = _Body.model_json_schema()
    name = {"type": "string", "minLength": 1, "maxLength": 200}
    properties = {**schema["properties"], "request_id": name, "id": name}
    one_of = [{"required": ["request_id"]}, {"required": ["id"]}]
    return {**schema, "properties": properties, "oneOf": one_of}
