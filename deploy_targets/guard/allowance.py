"""How much of something may be done: so often a minute, for so much money a day, so many at once.

Pure but for what it remembers, which is this process's own.
"""

from collections.abc import Callable

_MINUTE_S = 60
_DAY_S = 86_400


class Allowance:
    """Reserved before and settled after, so that what is under way counts too."""

    def __init__(
        self,
        *,
        concurrent: int,
        requests_per_minute: int,
        micros_per_day: int | None = None,
        clock: Callable[[], float],
    ) -> None:
        """`clock` counts seconds of UTC. Minutes and days are the clock's: around the turn of a minute twice as many fit."""
        self._concurrent = concurrent
        self._requests_per_minute = requests_per_minute
        self._micros_per_day = micros_per_day
        self._clock = clock
        self._under_way = 0
        self._minute = self._day = -1
        self._requests = self._micros = 0

    def take(self, micros: int = 0) -> bool:
        """Reserves one place, and `micros` of the day's money; False where there is none left, and nothing is taken."""
        now = self._clock()
        if (minute := int(now // _MINUTE_S)) != self._minute:
            self._minute, self._requests = minute, 0
        if (day := int(now // _DAY_S)) != self._day:
            self._day, self._micros = day, 0
        budget = self._micros_per_day
        if (
            self._under_way >= self._concurrent
            or self._requests >= self._requests_per_minute
            or (budget is not None and self._micros + micros > budget)
        ):
            return False
        self._under_way += 1
        self._requests += 1
        self._micros += micros
        return True

    def settle(self, reserved: int = 0, used: int = 0) -> None:
        """Gives the place back; of the money, what was not used of it."""
        self._under_way -= 1
        self._micros = max(self._micros + used - reserved, 0)
