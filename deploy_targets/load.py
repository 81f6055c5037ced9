"""A load generator: clients that each send one chat request after the other, and count what came back.

Closed loop, so that a slow endpoint is not buried. Bounded in requests and in time. A failure is what a client would
call one: another status than 200, a broken stream, an error inside a 200, a time-out, no connection.
"""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import aiohttp

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


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """What is sent."""

    url: str
    """The endpoint's address, without /v1."""
    model: str
    api_key: str
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
class LoadReport:
    """What came back."""

    seconds: float = 0.0
    versions: dict[str, VersionLoad] = field(default_factory=dict[str, VersionLoad])
    faults: Counter[str] = field(default_factory=Counter[str])
    """Kind of failure to how often."""

    @property
    def requests(self) -> int:
        """All that were finished."""
        return sum(one.requests for one in self.versions.values())

    @property
    def failures(self) -> int:
        """All that failed."""
        return sum(one.failures for one in self.versions.values())

    def to_json(self) -> dict[str, object]:
        """Counts and percentiles, by version and in all."""
        return {
            "seconds": round(self.seconds, 2),
            "requests": self.requests,
            "failures": self.failures,
            "requests_per_s": round(self.requests / self.seconds, 2) if self.seconds else 0.0,
            "faults": dict(self.faults),
            "versions": {
                version: {
                    **{k: v for k, v in asdict(one).items() if k != "durations_s"},
                    "p50_s": one.percentile(0.5),
                    "p95_s": one.percentile(0.95),
                }
                for version, one in sorted(self.versions.items())
            },
        }


@dataclass(frozen=True, slots=True)
class _Result:
    version: str
    fault: str
    tokens: int


async def generate_load(
    plan: LoadPlan,
    *,
    stop: Callable[[], bool] = lambda: False,
    on_result: Callable[[LoadReport], None] = lambda _: None,
) -> LoadReport:
    """Sends until the plan's requests or seconds are used up, or `stop` says so; `on_result` follows each answer."""
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
            version = report.versions.setdefault(result.version, VersionLoad())
            version.requests += 1
            version.completion_tokens += result.tokens
            version.durations_s.append(time.monotonic() - started)
            if result.fault:
                version.failures += 1
                report.faults[result.fault] += 1
            report.seconds = time.monotonic() - began
            on_result(report)

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
    version = _UNKNOWN
    try:
        async with session.post(f"{plan.url}/v1/chat/completions", json=body) as response:
            version = response.headers.get(VERSION_HEADER, _UNKNOWN)
            content = await response.read()
            if response.status != 200:  # noqa: PLR2004
                return _Result(version, f"status {response.status}", 0)
    except TimeoutError:
        return _Result(version, "time-out", 0)
    except aiohttp.ClientError as error:
        return _Result(version, type(error).__name__, 0)
    try:
        tokens = _streamed_tokens(content) if body["stream"] else _whole_tokens(content)
    except (ValueError, KeyError, IndexError, TypeError):
        return _Result(version, "no answer in a 200", 0)
    return _Result(version, "", tokens)


def _whole_tokens(content: bytes) -> int:
    document = json.loads(content)
    document["choices"][0]["message"]["content"]
    return int(document["usage"]["completion_tokens"])


def _streamed_tokens(content: bytes) -> int:
    """The completion tokens of a whole stream.

    Raises:
        ValueError: it was broken off, or an error came in it.
    """
    events = [line[6:] for line in content.split(b"\n") if line.startswith(b"data: ")]
    if not events or events[-1].strip() != b"[DONE]":
        message = "the stream was broken off"
        raise ValueError(message)
    documents = [json.loads(event) for event in events[:-1]]
    if any("error" in document for document in documents):
        message = "an error came in the stream"
        raise ValueError(message)
    return int(documents[-1]["usage"]["completion_tokens"])
