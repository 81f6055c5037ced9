"""Dynamic batching for one replica: while one batch generates, the next one fills.

`serve.batch` closes a batch when its window has passed, whether the model is free or not, so under load it queues
batches of one (measured: 20 tokens/s at 8 clients, where one batch of 8 makes 74). Here a batch is closed when the
model is free: it takes whoever waits, and the first of them waits at most `max_delay_s` for company.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field

from deploy_targets.engine.generation import Row

Generate = Callable[[Sequence[Row], Callable[[], object]], None]


@dataclass(slots=True, kw_only=True)
class _Waiting:
    """A row on its way, and how its owner hears of it."""

    row: Row
    stepped: asyncio.Event = field(default_factory=asyncio.Event)
    failure: Exception | None = None


class Batcher:
    """Feeds rows to a blocking `generate`, at most `max_size` at once, in a thread of its own."""

    def __init__(self, generate: Generate, *, max_size: int, max_delay_s: float) -> None:
        """Nothing runs before the first `follow`."""
        self._generate = generate
        self._max_size = max_size
        self._max_delay_s = max_delay_s
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue()
        self._worker: asyncio.Task[None] | None = None

    async def follow(self, row: Row) -> AsyncGenerator[bool]:
        """Gives False whenever `row` may have more tokens, and True once, when it has all. Leaving early ends the row.

        Raises whatever `generate` raised for the row's batch.
        """
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        waiting = _Waiting(row=row)
        self._queue.put_nowait(waiting)
        try:
            is_last = False
            while not is_last:
                await waiting.stepped.wait()
                waiting.stepped.clear()
                if waiting.failure is not None:
                    raise waiting.failure
                is_last = row.ended.is_set()
                yield is_last
        finally:
            row.ended.set()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = await self._next_batch()

            def tell(told: Sequence[_Waiting] = batch) -> None:
                for one in told:
                    one.stepped.set()

            rows = [one.row for one in batch]
            try:
                await asyncio.to_thread(
                    self._generate, rows, lambda: loop.call_soon_threadsafe(tell)
                )
            except Exception as error:  # noqa: BLE001 - it belongs to the rows of this batch, who raise it
                for one in batch:
                    one.failure = error
            tell()

    async def _next_batch(self) -> list[_Waiting]:
        """Whoever waits; rows whose clients have left meanwhile are dropped."""
        batch: list[_Waiting] = []
        while not batch:
            batch = [await self._queue.get()]
            try:
                async with asyncio.timeout(self._max_delay_s):
                    while len(batch) < self._max_size:
                        batch.append(await self._queue.get())
            except TimeoutError:
                pass
            batch = [one for one in batch if not one.row.ended.is_set()]
        return batch
