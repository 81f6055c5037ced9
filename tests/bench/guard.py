"""What the guard costs a request, beside LiteLLM's proxy, and what it bears: `python -m tests.bench.guard`.

Server under test on one core, engine and clients on another, each a process of its own; Redis where it is needed. The
engine has a fixed speed. Times are of this machine and of now, so they are printed, not tested; CPU times are steadier
than the clock where others work beside. `--part` names one of the parts, `--seconds` is for each measurement.
"""

import argparse
import asyncio
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import psutil

from deploy_targets.local import envoy, parts
from deploy_targets.local.home import write_json
from deploy_targets.local.split import write_first_configuration
from deploy_targets.metrics import LIMITS_LOST
from deploy_targets.routing.traffic import Traffic
from tests.bench.figures import Figure, tell
from tests.bench.guard_clients import (
    RATE,
    Measured,
    as_fast_as_they_can,
    by_the_clock,
    let_through,
    pieces,
    until_up,
)
from tests.guard.redis_server import a_redis
from tests.guard.stub import KEY, keys_json
from tests.repo.reference import ROOT

LITELLM = ROOT / ".venv-litellm" / "bin" / "litellm"
SLOW_STREAMS = 5_000
_MAX_P50_MS, _MAX_P99_MS, _MAX_PIECE_MS = 1.0, 5.0, 0.2
_SLOW_RATE = 20
"""Requests a second: LiteLLM's proxy takes 15 ms of CPU for each, and queues grow without end past its most."""
_LIMITS = {"requests_per_minute": 100_000_000, "tokens_per_minute": 100_000_000_000}
_RULES = [
    {"name": "codename", "kind": "regex", "pattern": r"\bproject[- ]?aurora\b", "action": "refuse"},
    {"name": "ticket", "kind": "regex", "pattern": r"\b[A-Z]{2,5}-\d{3,6}\b", "action": "redact"},
    {"name": "hosts", "kind": "regex", "pattern": r"\b[a-z0-9-]{1,40}\.corp\b", "action": "redact"},
]
_PERSONAL = [{"name": "pii", "kind": "personal_data", "action": "redact"}]
_PRICES = {"prompt_micros_per_million": 100_000, "completion_micros_per_million": 400_000}


def a_policy(rules: list[dict[str, str]] = _RULES, **more: Any) -> dict[str, Any]:
    """All that is asked of a guard in front of people, but for what `more` names."""
    limits = {"max_messages": 50, "max_prompt_chars": 20_000, "max_answer_tokens": 4096}
    return {
        "input": {"limits": limits, "rules": rules},
        "output": {"rules": rules},
        "limits": {"key": _LIMITS},
        "prices": _PRICES,
        "cache": {},
        **more,
    }


def a_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


@contextmanager
def a_process(*command: str, core: int, **environment: str) -> Iterator[psutil.Process]:
    """On one core, where the machine has more."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "HOME") if name in os.environ}
    process = subprocess.Popen(
        command, env={**kept, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    seen = psutil.Process(process.pid)
    seen.cpu_affinity([core % (os.cpu_count() or 1)])
    try:
        yield seen
    finally:
        process.kill()
        process.wait()


@contextmanager
def an_engine(*options: str) -> Iterator[str]:
    """Its address."""
    port = a_port()
    with a_process(sys.executable, "-m", "tests.bench.fast_engine", str(port), *options, core=1):
        url = f"http://127.0.0.1:{port}"
        asyncio.run(until_up(url))
        yield url


@contextmanager
def a_guard(
    upstream: str, policy: Mapping[str, Any], redis: str = "", *, timeout_s: int = 65, core: int = 0
) -> Iterator[tuple[str, psutil.Process]]:
    """Its address and its process."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        port, admin_port = a_port(), a_port()
        (folder / "keys.json").write_text(keys_json(owner=KEY))
        (folder / "policy.json").write_text(json.dumps(policy))
        settings = {
            "endpoint": "chat",
            "upstream_url": upstream,
            "port": port,
            "admin_port": admin_port,
            "keys_file": folder / "keys.json",
            "policy_file": folder / "policy.json",
            "timeout_s": timeout_s,
            **({"redis_url": redis} if redis else {}),
        }
        environment = {f"SHIPWAY_GUARD_{key.upper()}": str(one) for key, one in settings.items()}
        command = (sys.executable, "-m", "deploy_targets.guard")
        with a_process(*command, core=core, **environment) as process:
            url = f"http://127.0.0.1:{port}"
            asyncio.run(until_up(url))
            yield url, process
            if redis:
                page = httpx2.get(f"http://127.0.0.1:{admin_port}/metrics").text
                lost = [line for line in page.splitlines() if line.startswith(LIMITS_LOST.name)]
                if any(float(line.rpartition(" ")[2]) for line in lost):
                    print(
                        "  Redis was asked in vain: ",
                        *(line.partition("what=")[2] for line in lost),
                    )


@contextmanager
def a_litellm(upstream: str) -> Iterator[tuple[str, psutil.Process]]:
    """LiteLLM's proxy as its documentation starts it in production, with one worker; the key is its master key."""
    with tempfile.TemporaryDirectory() as name:
        port, file = a_port(), Path(name) / "config.yaml"
        engine = {"model": "openai/chat", "api_base": f"{upstream}/v1", "api_key": "none"}
        config = {
            "model_list": [{"model_name": "chat", "litellm_params": engine}],
            "general_settings": {"master_key": KEY},
            "litellm_settings": {"set_verbose": False, "json_logs": True},
        }
        file.write_text(json.dumps(config))  # which is YAML
        words = ("--config", str(file), "--host", "127.0.0.1", "--port", str(port))
        settings = {"LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION", "LITELLM_TELEMETRY": "False"}  # fmt: skip
        settings |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_DOCS": "True"}
        command = (str(LITELLM), *words, "--num_workers", "1")
        with a_process(*command, core=0, **settings) as process:
            url = f"http://127.0.0.1:{port}"
            asyncio.run(until_up(url, patience_s=180))
            yield url, process


def overhead(seconds: float) -> None:
    """Of a whole answer at 200 requests a second, and of each piece of eight streams.

    A rule for answers holds text back until it cannot be the beginning of a finding; the pieces of a stream are timed without
    such a rule and with it.
    """
    with ExitStack() as stack:
        engine = stack.enter_context(an_engine())
        redis = stack.enter_context(a_redis())
        bare = _measured("the engine alone", engine, seconds)
        print(bare.line(), flush=True)
        ways: dict[str, tuple[dict[str, Any], str]] = {
            "the guard": (a_policy(), ""),
            "the guard without a policy": ({}, ""),
            "the guard, limits in Redis": (a_policy(), redis.url),
            "the guard, with PII recognisers": (a_policy([*_RULES, *_PERSONAL]), ""),
        }
        for name, (policy, url) in ways.items():
            with a_guard(engine, policy, url) as (guard, process):
                way = _measured(name, guard, seconds, process)
                aims = (_MAX_P50_MS, _MAX_P99_MS) if name == "the guard" else (None, None)
                for percent, aim in zip((50, 99), aims, strict=True):
                    more = way.percentile(percent) - bare.percentile(percent)
                    what = f"{name}, {RATE}/s: added at p{percent}"
                    tell(Figure(what=what, value=more, unit="ms", at_most=aim))
                tell(
                    Figure(what=f"{name}, {RATE}/s: CPU of a request", value=way.cpu_ms, unit="ms")
                )
                piece, alone = _streams(engine, guard, process)
                more = piece.percentile(50) - alone.percentile(50)
                aim = _MAX_PIECE_MS if not policy else None
                what = f"{name}: added to a piece of a stream, at p50"
                tell(Figure(what=what, value=more, unit="ms", at_most=aim))
                tell(Figure(what=f"{name}: CPU of a piece", value=piece.cpu_ms, unit="ms"))


def litellm(seconds: float) -> None:
    """The guard with its whole policy and LiteLLM's proxy with none, at a rate that both can bear, and at their fastest."""
    if not LITELLM.exists():
        print("LiteLLM is not here to compare with: run `make setup-litellm`")
        return
    with an_engine() as engine:
        bare = _measured("the engine alone", engine, seconds, rate=_SLOW_RATE)
        print(bare.line(), flush=True)
        with a_guard(engine, a_policy()) as (url, process):
            ours = _measured("the guard", url, seconds, process, rate=_SLOW_RATE)
            our_most = asyncio.run(as_fast_as_they_can(url, seconds=seconds))
            print(f"{ours.line(bare)}   at most {our_most:.0f}/s", flush=True)
            our_piece, _ = _streams(engine, url, process)
        with a_litellm(engine) as (url, process):
            theirs = _measured("LiteLLM's proxy", url, seconds, process, rate=_SLOW_RATE)
            their_most = asyncio.run(as_fast_as_they_can(url, seconds=seconds))
            print(f"{theirs.line(bare)}   at most {their_most:.0f}/s", flush=True)
            their_piece, _ = _streams(engine, url, process)
    more = [one.percentile(50) - bare.percentile(50) for one in (theirs, ours)]
    for what, value, aim in (
        ("how many times less is added at p50", more[0] / more[1], 5),
        ("how many times the requests a second", our_most / their_most, 3),
        ("how many times less CPU for a request", theirs.cpu_ms / ours.cpu_ms, None),
        ("how many times less CPU for a piece", their_piece.cpu_ms / our_piece.cpu_ms, None),
    ):
        tell(Figure(what=what, value=value, unit="x", beside="LiteLLM's proxy", at_least=aim))


def _measured(
    name: str,
    url: str,
    seconds: float,
    process: psutil.Process | None = None,
    *,
    rate: int = RATE,
) -> Measured:
    way = Measured(name)
    return asyncio.run(by_the_clock(way, url, seconds=seconds, process=process, rate=rate))


def _streams(engine: str, server: str, process: psutil.Process) -> tuple[Measured, Measured]:
    """The pieces of eight streams, through the server and without it."""
    bare, _ = asyncio.run(pieces(Measured("  a piece, bare"), engine, streams=8, process=None))
    way, _ = asyncio.run(
        pieces(Measured("  a piece of a stream"), server, streams=8, process=process)
    )
    print(way.line(bare), flush=True)
    return way, bare


def tokens(_: float) -> None:
    """Pieces a second at 8 clients through guard and Envoy, beside the bare engine; 100 a second for each."""
    with ExitStack() as stack:
        engine = stack.enter_context(an_engine("--gap-ms", "10", "--chunks", "500"))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port, admin_port = a_port(), a_port()
        bootstrap = write_first_configuration(folder, port=port, admin_port=admin_port)
        backend = envoy.Backend(host="127.0.0.1", port=int(engine.rpartition(":")[2]), prefix="/")
        write_json(folder / envoy.CLUSTERS_FILE, envoy.render_clusters({"7": backend}))
        routes = envoy.render_routes({"7": backend}, Traffic.all_to("7"), timeout_s=60)
        write_json(folder / envoy.ROUTES_FILE, routes)
        command = parts.envoy_proxy(folder, bootstrap).command
        stack.enter_context(a_process(*command, core=0))
        split = f"http://127.0.0.1:{port}"
        asyncio.run(until_up(split))
        guard, process = stack.enter_context(a_guard(split, a_policy()))
        _, bare = asyncio.run(pieces(Measured("bare"), engine, streams=8, process=None))
        _, through = asyncio.run(pieces(Measured("through"), guard, streams=8, process=process))
        tell(
            Figure(
                what="tokens a second at 8 clients, through guard and Envoy",
                value=through / bare,
                unit="x",
                beside="the engine alone",
                at_least=0.95,
            )
        )


def streams(_: float) -> None:
    """5,000 at once, each a piece a second, through one guard."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 1 << 16), most))  # which children inherit
    with (
        an_engine("--gap-ms", "2000", "--chunks", "30") as engine,
        a_guard(engine, a_policy(), timeout_s=300) as (guard, process),
    ):
        asyncio.run(pieces(Measured("warm"), guard, streams=1, process=None))
        empty = process.memory_info().rss
        peak = 0

        async def watched() -> Measured:
            async def watch() -> None:
                nonlocal peak
                while True:
                    peak = max(peak, process.memory_info().rss)
                    await asyncio.sleep(1)

            watching = asyncio.create_task(watch())
            way = Measured(f"{SLOW_STREAMS} streams at once")
            await pieces(way, guard, streams=SLOW_STREAMS, process=process, gather_s=30)
            watching.cancel()
            return way

        way = asyncio.run(watched())
        print(way.line())
        print(dict(way.failures))
        what = f"{SLOW_STREAMS} slow streams at once"
        tell(Figure(what=f"{what}: failures", value=way.failures.total(), at_most=0))
        each = (peak - empty) / SLOW_STREAMS / 1024
        tell(Figure(what=f"{what}: memory of each", value=each, unit="KiB"))


def limits(_: float) -> None:
    """What four processes with one Redis let through to 50 clients in a minute, who ask for much more."""
    for rule, limit, each in (("requests_per_minute", 600, 1), ("tokens_per_minute", 3000, 5)):
        with ExitStack() as stack:
            engine = stack.enter_context(an_engine("--latency-ms", "5"))
            redis = stack.enter_context(a_redis())
            policy = {"limits": {"key": {rule: limit}}}
            guards = [stack.enter_context(a_guard(engine, policy, redis.url))[0] for _ in range(4)]
            seen = asyncio.run(let_through(guards, seconds=59, clients=50))
            used = seen[200] * each
            print(dict(seen))
            over = 100 * (used / limit - 1)
            what = f"{rule} {limit}, 4 processes, Redis, 50 clients: let through beyond it"
            tell(Figure(what=what, value=over, unit="%", at_most=1))


PARTS: dict[str, Callable[[float], None]] = {
    "overhead": overhead,
    "litellm": litellm,
    "tokens": tokens,
    "streams": streams,
    "limits": limits,
}


def main() -> None:
    """Print a line for each way."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--part", choices=sorted(PARTS))
    options = parser.parse_args()
    psutil.Process().cpu_affinity([1 % (os.cpu_count() or 1)])
    for name in [options.part] if options.part else PARTS:
        PARTS[name](options.seconds)


if __name__ == "__main__":
    main()
