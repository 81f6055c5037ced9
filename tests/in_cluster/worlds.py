"""What the tests of a controller in a cluster share: clocks, and an API client whose answers get lost."""

from typing import Any

import urllib3

from deploy_targets.cluster import Cluster
from deploy_targets.in_cluster.election import Terms
from tests.builders import FakeClock

TERMS = Terms(duration_s=15, renew_deadline_s=10, retry_s=2)


class Steady:
    """A steady clock that moves when it is told to, and a calendar with it."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.clock = FakeClock()

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        self.now_s += seconds
        self.clock.advance(seconds)


def speaking_as(api: Any, *, attempts: int = 5) -> Cluster:
    api.rest_client.pool_manager.connection_pool_kw["retries"] = False  # as `connect` has it
    return Cluster(api, sleep=lambda _: None, jitter=lambda: 0.0, attempts=attempts)


class Lossy:
    """An API client of which single calls get lost: on their way there, or their answer on its way back."""

    def __init__(self, api: Any) -> None:
        self._api = api
        self.lose_next = ""
        """`request` or `answer`, of the next write."""
        self.late: list[Any] = []
        """What was lost on its way there, to arrive when it is called."""
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._api, name)

    def call_api(self, method: str, *rest: Any, **more: Any) -> Any:
        self.calls.append(method)
        lost, is_write = self.lose_next, method in {"POST", "PUT"}
        if not lost or not is_write:
            return self._api.call_api(method, *rest, **more)
        self.lose_next = ""
        if lost == "answer":
            self._api.call_api(method, *rest, **more).read()
        else:
            self.late.append(lambda: self._api.call_api(method, *rest, **more).read())
        raise urllib3.exceptions.ReadTimeoutError(None, "", "Read timed out.")  # type: ignore[arg-type]
