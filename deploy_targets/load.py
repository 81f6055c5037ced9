"""A load generator: clients that each send one chat request after the other, and count what came back.

Closed loop, so that a slow endpoint is not buried. Bounded in requests and in time. A failure is what a client would
call one: another status than 200, a broken stream, an error inside a 200, a time-out, no connection.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from http import HTTPStatus
from typing import Annotated

import aiohttp
from pydantic import BaseModel, Field, ValidationError

from deploy_targets.routing.traffic import VERSION_HEADER

_SUBJECTS = (
    "the sea", "a river", "the moon", "bread", "a bicycle", "gravity", "a violin", "rain", "copper",
    "a lighthouse", "the alphabet", "honey", "a clock", "glass", "winter", "a map", "salt", "a bridge",
    "paper", "thunder",
)  # fmt: skip
_QUESTIONS = (
    "In one sentence, what is {}?",
    "Name one thing people use {} for.",
    "What comes to mind when you think of {}?",
)
_SYSTEM = "You are a terse assistant."
_UNKNOWN = "unknown"
_NO_CONNECTION = "no connection"
_PAUSE_S = 0.1
"""After a failure to connect, so that a guard that is down is not called thousands of times a second."""
_SLICE_S = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """What is sent."""

    url: str
    """The endpoint's address, without /v1."""
    model: str
    api_key: str = field(repr=False)
    clients: int = 4
    requests: int = 100
    """At the most."""
    seconds: float = 3600
    """At the most."""
    max_tokens: int = 8
    system_share: float = 0.3
    """Share of requests with a system message."""
    stream_share: float = 0.25
    timeout_s: float = 90
    seed: int = 0


@dataclass(slots=True)
class VersionLoad:
    """What one version gave its clients."""

    requests: int = 0
    failures: int = 0
    completion_tokens: int = 0
    durations_s: list[float] = field(default_factory=list[float])

    def percentile(self, share: float) -> float | None:
        """The duration in seconds below which that share of the requests was; None without any."""
        ordered = sorted(self.durations_s)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else None


@dataclass(slots=True)
class Slice:
    """The answers of five seconds."""

    from_s: int
    """Since the beginning."""
    requests: Counter[str] = field(default_factory=Counter[str])
    """By version."""
    failures: Counter[str] = field(default_factory=Counter[str])


@dataclass(slots=True)
class LoadReport:
    """What came back."""

    seconds: float = 0.0
    versions: dict[str, VersionLoad] = field(default_factory=dict[str, VersionLoad])
    faults: Counter[str] = field(default_factory=Counter[str])
    """Kind of failure to how often."""
    timeline: list[Slice] = field(default_factory=list[Slice])
    """In order; a slice in which nothing came back is left out."""

    @property
    def requests(self) -> int:
        """All that were finished."""
        return sum(one.requests for one in self.versions.values())

    @property
    def failures(self) -> int:
        """All that failed."""
        return sum(one.failures for one in self.versions.values())

    def add(self, result: "_Result", *, duration_s: float, at_s: float) -> None:
        """Counts one answer that came `at_s` after the beginning."""
        from_s = int(at_s // _SLICE_S) * _SLICE_S
        if not self.timeline or self.timeline[-1].from_s != from_s:
            self.timeline.append(Slice(from_s=from_s))
        now = self.timeline[-1]
        version = self.versions.setdefault(result.version, VersionLoad())
        version.requests += 1
        version.completion_tokens += result.tokens
        version.durations_s.append(duration_s)
        now.requests[result.version] += 1
        if result.fault:
            version.failures += 1
            self.faults[result.fault] += 1
            now.failures[result.version] += 1
        self.seconds = at_s

    def to_json(self) -> dict[str, object]:
        """Counts and percentiles, by version and in all. Durations in seconds."""
        tokens = sum(one.completion_tokens for one in self.versions.values())
        return {
            "seconds": round(self.seconds, 2),
            "requests": self.requests,
            "failures": self.failures,
            "requests_per_s": round(self.requests / self.seconds, 2) if self.seconds else 0.0,
            "completion_tokens_per_s": round(tokens / self.seconds, 2) if self.seconds else 0.0,
            "faults": dict(self.faults),
            "versions": {
                version: {
                    **{k: v for k, v in asdict(one).items() if k != "durations_s"},
                    "p50_s": one.percentile(0.5),
                    "p95_s": one.percentile(0.95),
                }
                for version, one in sorted(self.versions.items())
            },
            "timeline": [
                {
                    "from_s": one.from_s,
                    "requests": dict(one.requests),
                    "failures": dict(one.failures),
                }
                for one in self.timeline
            ],
        }


@dataclass(frozen=True, slots=True)
class _Result:
    version: str
    fault: str
    """Empty for a good answer."""
    tokens: int


async def generate_load(
    plan: LoadPlan,
    *,
    stop: Callable[[], bool] = lambda: False,
    on_result: Callable[[LoadReport], None] = lambda _: None,
) -> LoadReport:
    """Sends until the plan's requests or seconds are used up, or `stop` says so; `on_result` follows each answer.

    Requests under way at the end are waited for, each at most its `timeout_s`, never broken off: a request that its
    client cancels says nothing about a version.
    """
    report = LoadReport()
    began = time.monotonic()
    draw = random.Random(plan.seed)  # noqa: S311 - which prompt comes next is no secret
    left = plan.requests

    async def client(session: aiohttp.ClientSession) -> None:
        nonlocal left
        while left > 0 and not stop() and time.monotonic() - began < plan.seconds:
            left -= 1
            started = time.monotonic()
            result = await _ask(session, plan, _body(plan, draw))
            now = time.monotonic()
            report.add(result, duration_s=now - started, at_s=now - began)
            on_result(report)
            if result.fault == _NO_CONNECTION:
                await asyncio.sleep(_PAUSE_S)

    headers = {"Authorization": f"Bearer {plan.api_key}"}
    timeout = aiohttp.ClientTimeout(total=plan.timeout_s)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(
        headers=headers, timeout=timeout, connector=connector
    ) as session:
        await asyncio.gather(*(client(session) for _ in range(plan.clients)))
    report.seconds = time.monotonic() - began
    return report


def _body(plan: LoadPlan, draw: random.Random) -> dict[str, object]:
    question = draw.choice(_QUESTIONS).format(draw.choice(_SUBJECTS))
    messages = [{"role": "user", "content": question}]
    if draw.random() < plan.system_share:
        messages.insert(0, {"role": "system", "content": _SYSTEM})
    stream = draw.random() < plan.stream_share
    return {
        "model": plan.model,
        "messages": messages,
        "max_tokens": plan.max_tokens,
        "temperature": 0,
        "stream": stream,
        **({"stream_options": {"include_usage": True}} if stream else {}),
    }


async def _ask(session: aiohttp.ClientSession, plan: LoadPlan, body: dict[str, object]) -> _Result:
    version, tokens, fault = _UNKNOWN, 0, ""
    try:
        async with session.post(f"{plan.url}/v1/chat/completions", json=body) as response:
            version = response.headers.get(VERSION_HEADER, _UNKNOWN)
            content = await response.read()
            if response.status == HTTPStatus.OK:
                tokens = _streamed_tokens(content) if body["stream"] else _whole_tokens(content)
            else:
                fault = f"status {response.status}"
    except TimeoutError:
        fault = "time-out"
    except aiohttp.ClientConnectorError:
        fault = _NO_CONNECTION
    except aiohttp.ClientError:
        fault = "connection lost"
    except _NoAnswerError as error:
        fault = str(error)
    return _Result(version, fault, tokens)


class _NoAnswerError(Exception):
    """What is wrong with an answer that came with status 200."""


def _whole_tokens(content: bytes) -> int:
    """The completion tokens of an answer; 0 when it does not count them."""
    try:
        parsed = _Whole.model_validate_json(content)
    except ValidationError as error:
        raise _NoAnswerError("no answer in a 200") from error
    return _counted(parsed.usage)


def _streamed_tokens(content: bytes) -> int:
    """The completion tokens of a whole stream; 0 when it does not count them."""
    events = [line[5:].strip() for line in content.splitlines() if line.startswith(b"data:")]
    try:
        chunks = [_Chunk.model_validate_json(event) for event in events if event != b"[DONE]"]
    except ValidationError as error:
        raise _NoAnswerError("no answer in a stream") from error
    if any(chunk.error for chunk in chunks):
        raise _NoAnswerError("error in a stream")
    if not chunks or events[-1] != b"[DONE]":
        raise _NoAnswerError("broken stream")
    return _counted(chunks[-1].usage)


class _Usage(BaseModel):
    completion_tokens: int = 0


class _Message(BaseModel):
    content: str


class _Choice(BaseModel):
    message: _Message


class _Whole(BaseModel):
    choices: Annotated[list[_Choice], Field(min_length=1)]
    usage: _Usage | None = None


class _Chunk(BaseModel):
    error: object = None
    usage: _Usage | None = None


def _counted(usage: _Usage | None) -> int:
    return 0 if usage is None else usage.completion_tokens
