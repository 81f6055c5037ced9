"""The batcher's promise: whoever waits when the model is free goes together, and each hears of its own end."""

import asyncio
import threading
from collections.abc import Callable, Sequence

import pytest

from deploy_targets.engine.generation import Row
from deploy_targets.ray_serve.batcher import Batcher


def a_row(tokens: int = 1) -> Row:
    return Row(prompt=(1,), max_tokens=tokens, temperature=0, top_p=1)


class FakeModel:
    """Generates one token a step for every row; may be held in its first batch."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.free = threading.Event()
        self.free.set()
        self.failure: Exception | None = None

    def generate(self, rows: Sequence[Row], on_step: Callable[[], None]) -> None:
        self.batches.append(len(rows))
        self.free.wait(10)
        if self.failure:
            raise self.failure
        while not all(row.ended.is_set() for row in rows):
            for row in rows:
                if not row.ended.is_set():
                    row.tokens.append(7)
                    if len(row.tokens) >= row.max_tokens:
                        row.ended.set()
            on_step()


async def finish(batcher: Batcher, row: Row) -> list[bool]:
    return [is_last async for is_last in batcher.follow(row)]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


def test_rows_that_come_while_the_model_is_busy_go_together_in_the_next_batch() -> None:
    async def scenario() -> None:
        model = FakeModel()
        batcher = Batcher(model.generate, max_size=8, max_delay_s=0.001)
        model.free.clear()
        first = asyncio.create_task(finish(batcher, a_row()))
        await until(lambda: model.batches == [1])
        rest = [asyncio.create_task(finish(batcher, a_row(n + 1))) for n in range(10)]
        await asyncio.sleep(0)
        model.free.set()
        await asyncio.gather(first, *rest)
        assert model.batches == [1, 8, 2]

    asyncio.run(scenario())


def test_each_row_hears_its_end_once_and_last() -> None:
    async def scenario() -> None:
        model = FakeModel()
        batcher = Batcher(model.generate, max_size=8, max_delay_s=0.01)
        marks = await asyncio.gather(*(finish(batcher, a_row(n)) for n in (1, 5)))
        assert all(one[-1] is True and not any(one[:-1]) for one in marks)

    asyncio.run(scenario())


def test_a_client_that_left_while_waiting_is_not_generated_for() -> None:
    async def scenario() -> None:
        model = FakeModel()
        batcher = Batcher(model.generate, max_size=8, max_delay_s=0.001)
        model.free.clear()
        first = asyncio.create_task(finish(batcher, a_row()))
        await until(lambda: model.batches == [1])
        gone, stays = a_row(), a_row()
        left = asyncio.create_task(finish(batcher, gone))
        rest = asyncio.create_task(finish(batcher, stays))
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        model.free.set()
        await asyncio.gather(first, rest)
        assert model.batches == [1, 1]
        assert gone.tokens == []

    asyncio.run(scenario())


def test_a_failure_belongs_to_its_batch_alone() -> None:
    async def scenario() -> None:
        model = FakeModel()
        batcher = Batcher(model.generate, max_size=8, max_delay_s=0.001)
        model.failure = RuntimeError("out of memory")
        with pytest.raises(RuntimeError, match="out of memory"):
            await finish(batcher, a_row())
        model.failure = None
        assert (await finish(batcher, a_row()))[-1] is True

    asyncio.run(scenario())
