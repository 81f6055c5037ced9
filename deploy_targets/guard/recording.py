"""A sample of prompts and answers is kept, always redacted, in a spool folder. Without a policy nothing ever is.

Before a record is written, everything that the guard's recognisers know of secrets and personal data is replaced, and
whatever else the endpoint's own rules redact or refuse. A text that cannot be looked through in time is not written.
What has no form that can be told (names, addresses, what somebody tells about himself) stays in it: see docs/shadow.md.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog
from prometheus_client import CollectorRegistry

from deploy_targets import metrics
from deploy_targets.aside_policy import RecordPolicy
from deploy_targets.filter_policy import (
    Action,
    FilterRule,
    HiddenTextRule,
    PersonalDataRule,
    Secret,
    SecretsRule,
)
from deploy_targets.guard.allowance import Allowance
from deploy_targets.guard.aside import Aside, Seen, Watch, is_sampled
from deploy_targets.guard.counters import make_counter
from deploy_targets.guard.errors import PolicyUnusable
from deploy_targets.guard.events import GuardEvent
from deploy_targets.guard.exchange import Exchange
from deploy_targets.guard.filtering import Rule, filter_text
from deploy_targets.guard.prompt_filter import text_of
from deploy_targets.guard.rules import rules_of
from deploy_targets.guard.spool import Spool
from deploy_targets.guard.wire import Asked
from deploy_targets.guard_policy import GuardPolicy
from deploy_targets.pattern_reach import PatternInvalid

_AT_ONCE = 16
"""Records on their way to the folder. Each may hold a request of a megabyte."""
_TURN_S = 15.0
_PARAMETERS = ("temperature", "top_p", "max_tokens", "max_completion_tokens", "seed")
"""Numbers alone: other fields of a request may say who asks."""
_ALWAYS: tuple[FilterRule, ...] = (
    SecretsRule(name="secret", kind="secrets", action=Action.REDACT, types=tuple(Secret)),
    PersonalDataRule(name="personal-data", kind="personal_data", action=Action.REDACT),
    HiddenTextRule(name="hidden-text", kind="hidden_text", action=Action.REDACT),
)
_log = structlog.get_logger()


Passes = tuple[tuple[Rule, ...], ...]
"""Rules, one set after the other: what one has replaced in part, none before it has missed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """What a policy that records has to have before anything is served."""

    policy: RecordPolicy
    spool: Spool
    passes: Passes


def recording_of(policy: GuardPolicy, folder: Path | None) -> Recording | None:
    """What this policy needs, with its spool in `folder`; None where it does not record.

    Raises:
        PolicyUnusable: there is no folder, or none that can be used; or as `redaction_of`.
    """
    if policy.record is None:
        return None
    if folder is None:
        message = (
            "The policy records, and SHIPWAY_GUARD_SPOOL_FOLDER names no folder for what it keeps."
        )
        raise PolicyUnusable(message)
    passes = redaction_of(policy)
    try:
        spool = Spool(folder, max_bytes=policy.record.max_bytes)
    except OSError as error:
        message = f"The spool folder {folder} cannot be used ({error.strerror})."
        raise PolicyUnusable(message) from error
    return Recording(policy=policy.record, spool=spool, passes=passes)


def redaction_of(policy: GuardPolicy) -> Passes:
    """The rules by which records are redacted: more than any policy of requests asks for, and never less.

    Raises:
        PolicyUnusable: a pattern of the policy cannot be matched.
    """
    try:
        return rules_of(_ALWAYS), rules_of(_own(policy))
    except PatternInvalid as error:
        raise PolicyUnusable(str(error)) from error


def _own(policy: GuardPolicy) -> Iterator[FilterRule]:
    for part in (policy.input, policy.output):
        for rule in () if part is None else part.rules:
            # What a rule allows is no exception here.
            if rule.action is not Action.ALLOW:
                yield rule.model_copy(update={"action": Action.REDACT})


def record_of(seen: Seen, passes: Passes, *, endpoint: str, at: float) -> dict[str, Any] | None:
    """What is written of an answer; None where a text cannot be looked through in time."""
    document = seen.asked.document()
    texts = [*(text_of(message) for message in document["messages"]), seen.text]
    redacted: list[str] = []
    for text in texts:
        kept = text
        for rules in passes:
            done = filter_text(rules, kept)
            if done.refusal is not None:
                return None
            kept = done.text
        redacted.append(kept)
    *said, answer = redacted
    roles = [message["role"] for message in document["messages"]]
    numbers = {name: document.get(name) for name in _PARAMETERS}
    return {
        "at": datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds"),
        "endpoint": endpoint,
        "version": seen.version,
        "request_id": seen.request_id,
        "messages": [
            {"role": role, "content": text} for role, text in zip(roles, said, strict=True)
        ],
        "answer": answer,
        "parameters": {
            name: number for name, number in numbers.items() if isinstance(number, int | float)
        },
        "is_streamed": seen.asked.is_streamed,
        "seconds": round(seen.seconds, 3),
    }


class Recorder:
    """Keeps a share of one endpoint's prompts and answers."""

    def __init__(
        self, recording: Recording, registry: CollectorRegistry, *, endpoint: str, aside: Aside
    ) -> None:
        """None is kept yet."""
        self._policy = recording.policy
        self._passes = recording.passes
        self._spool = recording.spool
        self._endpoint = endpoint
        self._aside = aside
        self._allowance = Allowance(
            concurrent=_AT_ONCE,
            requests_per_minute=self._policy.requests_per_minute,
            clock=time.time,
        )
        self._is_broken = False
        counts = make_counter(metrics.RECORDS, registry)
        self._counts = {
            result: counts.labels(endpoint, result) for result in metrics.RECORD_RESULTS
        }

    def watch(self, asked: Asked, exchange: Exchange) -> Watch | None:
        """Sees the answer to a live request that is to be kept; None where none is."""
        is_one = is_sampled(asked, exchange, share=self._policy.sample)
        return Watch(asked, exchange, self._begin) if is_one else None

    async def seal_in_time(self) -> None:
        """Seals what has waited long enough, until it is cancelled."""
        while True:
            await asyncio.sleep(_TURN_S)
            await asyncio.to_thread(self._tried, self._spool.seal_if_due)

    async def close(self) -> None:
        """Seals what is there."""
        await asyncio.to_thread(self._tried, self._spool.seal)

    def _begin(self, seen: Seen) -> None:
        if self._allowance.take():
            self._aside.begin(self._keep(seen))
        else:
            self._counts[metrics.DROPPED].inc()

    async def _keep(self, seen: Seen) -> None:
        try:
            is_written = await asyncio.to_thread(self._written, seen)
        finally:
            self._allowance.settle()
        self._counts[metrics.WRITTEN if is_written else metrics.DROPPED].inc()

    def _written(self, seen: Seen) -> bool:
        record = record_of(seen, self._passes, endpoint=self._endpoint, at=time.time())
        if record is None:
            return False
        return bool(self._tried(lambda: self._spool.write(record)))

    def _tried(self, work: Callable[[], bool | None]) -> bool | None:
        """None where the folder does not take it; logged when that begins."""
        try:
            done = work()
        except OSError as error:
            if not self._is_broken:
                _log.error(GuardEvent.SPOOL_FAILED, reason=str(error))
            self._is_broken = True
            return None
        self._is_broken = False
        return done
