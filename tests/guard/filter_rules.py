"""Rules for tests, as a policy declares them."""

from typing import Any

from pydantic import TypeAdapter

from deploy_targets.filter_policy import FilterRule
from deploy_targets.guard.filtering import Rule, StreamFilter
from deploy_targets.guard.rules import rules_of

# Put together, so that no file of ours looks as if it held a secret.
AWS_KEY = "AKIA" + "IOSFODNN7EXAMPLE"
BEGIN, END = "-----BEGIN {}PRIVATE " + "KEY-----", "-----END {}PRIVATE " + "KEY-----"
"""Of a private key; in the braces its kind and a space, or nothing."""
_ADAPTER: TypeAdapter[Any] = TypeAdapter(FilterRule)


def rules(*declared: dict[str, Any]) -> tuple[Rule, ...]:
    """Each redacts, and is called by its kind, unless it says otherwise."""
    return rules_of(
        _ADAPTER.validate_python({"name": one["kind"], "action": "redact", **one})
        for one in declared
    )


def streamed(by: tuple[Rule, ...], pieces: list[str]) -> tuple[str, StreamFilter]:
    """What comes out of a stream of these pieces, and the filter at its end."""
    stream = StreamFilter(by)
    return "".join([*map(stream.feed, pieces), stream.end()]), stream
