"""What happens between two steps of a lookup: nothing wrong is given, and nothing that is not whole is kept."""

import asyncio
import json

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message, Send

from deploy_targets.cache_policy import CachePolicy
from deploy_targets.guard.access_control import ANYBODY
from deploy_targets.guard.answer_cache import AnswerCache
from deploy_targets.guard.cache_store import MemoryStore
from deploy_targets.guard.exchange import Exchange
from deploy_targets.guard.outcome import Outcome
from deploy_targets.guard.wire import parse_chat
from tests.guard.stub import ENDPOINT, a_chat


class HeldStore(MemoryStore):
    """A memory that answers a lookup when it is told to."""

    def __init__(self) -> None:
        super().__init__(max_bytes=1 << 20, lifetime_s=60)
        self.was_asked = asyncio.Event()
        self.is_open = asyncio.Event()
        self.is_open.set()

    async def get(self, key: str) -> bytes | None:
        self.was_asked.set()
        await self.is_open.wait()
        return await super().get(key)


class Bench:
    """A cache, and requests to it without a server around them."""

    def __init__(self) -> None:
        self.store = HeldStore()
        self.results: list[str] = []
        self.cache = AnswerCache(
            CachePolicy(),
            self.store,
            endpoint=ENDPOINT,
            whole_policy="{}",
            told=self.results.append,
            clock=lambda: 0.0,
        )

    async def ask(self, version: str, *, temperature: float = 0, leaves: bool = False) -> bytes:
        """What the client gets; `version` answers with its own number if it is asked."""
        exchange = Exchange(request_id="1", caller=ANYBODY)
        got = bytearray()

        async def send(message: Message) -> None:
            exchange.status = message.get("status", exchange.status)
            got.extend(message.get("body", b""))

        async def forward(to: Send) -> None:
            exchange.version = version
            exchange.decide(Outcome.ANSWERED)
            await to({"type": "http.response.start", "status": 200, "headers": []})
            if leaves:
                raise ClientDisconnect
            await to({"type": "http.response.body", "body": version.encode()})

        asked = parse_chat(json.dumps(a_chat(temperature=temperature)).encode())
        await self.cache.answer(asked, exchange, forward, send, is_pinned=False)
        return bytes(got)


def test_a_version_that_is_seen_during_a_lookup_makes_it_a_miss() -> None:
    async def run() -> None:
        bench = Bench()
        assert await bench.ask("6") == b"6"
        bench.store.is_open.clear()
        bench.store.was_asked.clear()
        looked_up = asyncio.create_task(bench.ask("7"))
        await bench.store.was_asked.wait()
        assert await bench.ask("7", temperature=1) == b"7"  # of a kind that is not looked up
        bench.store.is_open.set()
        assert await looked_up == b"7"

    asyncio.run(run())


def test_an_answer_whose_client_left_before_its_body_is_not_kept() -> None:
    async def run() -> None:
        bench = Bench()
        with pytest.raises(ClientDisconnect):
            await bench.ask("6", leaves=True)
        assert await bench.ask("6") == b"6"
        assert await bench.ask("6") == b"6"
        assert bench.results == ["miss", "miss", "hit"]

    asyncio.run(run())
