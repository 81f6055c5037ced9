"""What goes wrong on demand: a handle for the test, asked by the server before each answer.

Dropped watches and a server that is away are on the server itself, for they are about connections.
"""

import threading
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """An answer to be given instead of the right one."""

    code: int
    message: str = ""
    retry_after_s: int = 1
    verbs: frozenset[str] = frozenset()
    """RBAC's words; empty for every request."""
    plural: str = ""
    """Of one kind alone."""

    def is_for(self, verb: str, plural: str) -> bool:
        return (not self.verbs or verb in self.verbs) and self.plural in ("", plural)


class Faults:
    """What is to go wrong next. Safe to use while requests are answered."""

    def __init__(self) -> None:
        """Nothing goes wrong at first."""
        self.latency_s = 0.0
        """Before each answer."""
        self._planned: list[Planned] = []
        self._lock = threading.Lock()

    def answer_next(
        self,
        code: int,
        *,
        times: int = 1,
        verbs: tuple[str, ...] = (),
        plural: str = "",
        message: str = "",
        retry_after_s: int = 1,
    ) -> None:
        """The next `times` requests that match get this code, and change nothing; an apply is a patch.

        With a message it can be what a quota (403) or an operator's webhook (400, 403, 422) says.
        """
        planned = Planned(
            code=code,
            message=message,
            retry_after_s=retry_after_s,
            verbs=frozenset(verbs),
            plural=plural,
        )
        with self._lock:
            self._planned.extend([planned] * times)

    def conflict_next_writes(self, times: int, *, plural: str = "") -> None:
        """The next `times` changes to objects are told that somebody else was faster."""
        self.answer_next(409, times=times, verbs=("update", "patch"), plural=plural)

    def take(self, verb: str, plural: str) -> Planned | None:
        """The fault for this request, which is then spent."""
        with self._lock:
            found = next((one for one in self._planned if one.is_for(verb, plural)), None)
            if found is not None:
                self._planned.remove(found)
            return found

    @property
    def left(self) -> int:
        """How many planned answers were not given yet."""
        with self._lock:
            return len(self._planned)

    def clear(self) -> None:
        """Nothing goes wrong any more."""
        with self._lock:
            self._planned.clear()
        self.latency_s = 0.0
