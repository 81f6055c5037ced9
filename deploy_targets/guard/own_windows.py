"""Windows of this process alone, asked as those in Redis are (`limit_scripts`)."""

from limits import RateLimitItem
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

NO_BOUND = 1 << 53


class OwnWindows(MemoryStorage):
    """The storage of `limits`, and these windows."""

    async def hit_requests(self, item: RateLimitItem, *names: str) -> tuple[bool, float, int]:
        """Whether one more is let in; when there is room again, by the clock; how many more there is room for."""
        window = SlidingWindowCounterRateLimiter(self)
        is_in = await window.hit(item, *names)
        stats = await window.get_window_stats(item, *names)
        return is_in, stats.reset_time, stats.remaining

    async def hit_tokens(
        self, item: RateLimitItem, *names: str, tokens: int
    ) -> tuple[bool, tuple[int, float, int, float]]:
        """Whether so many are let in, and the window as `get_sliding_window` has it."""
        is_in = await SlidingWindowCounterRateLimiter(self).hit(item, *names, cost=tokens)
        return is_in, await self.get_sliding_window(item.key_for(*names), item.get_expiry())

    async def change_tokens(
        self, item: RateLimitItem, *names: str, more: int, ago_s: float
    ) -> None:
        """Adds to what was counted `ago_s` ago. Of a window that is over nothing is taken away: that would let more through."""
        key, expiry_s = item.key_for(*names), item.get_expiry()
        if more < 0:
            _, _, current, forgotten_in_s = await self.get_sliding_window(key, expiry_s)
            is_of_this_window = ago_s <= 2 * expiry_s - forgotten_in_s
            more = -min(-more, current) if is_of_this_window else 0
        if more:
            await self.acquire_sliding_window_entry(key, NO_BOUND, expiry_s, amount=more)
