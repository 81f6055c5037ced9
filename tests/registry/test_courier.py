"""Whatever happens to hints and names, whoever hands them over goes on at once."""

import contextvars
import threading
from time import monotonic

from registry.courier import Courier
from registry.hints import Deed, Touch
from tests.builders import NOON

WORKSPACE: contextvars.ContextVar[str] = contextvars.ContextVar("workspace", default="")


def a_touch(version: str = "7") -> Touch:
    return Touch(
        deed=Deed.ALIAS_SET, model="m", version=version, name="challenger", user="alice", at=NOON
    )


class Hands:
    """What names and hints end in; `gate` holds the first name up, so that the rest queues behind it."""

    def __init__(self, *, failing: bool = False) -> None:
        self.gate = threading.Event()
        self.begun = threading.Event()
        """The first name is in hand."""
        self.noted: list[str] = []
        self.told: list[str] = []
        self.workspaces: list[str] = []
        self.failing = failing
        self.changed = threading.Condition()

    def note(self, touch: Touch) -> None:
        self.begun.set()
        self.gate.wait(60)
        self.workspaces.append(WORKSPACE.get())
        self._add(self.noted, touch)

    def tell(self, touch: Touch) -> None:
        self._add(self.told, touch)
        if self.failing:
            raise TimeoutError

    def _add(self, kept: list[str], touch: Touch) -> None:
        with self.changed:
            kept.append(touch.version)
            self.changed.notify()

    def until(self, kept: list[str], number: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(kept) >= number, timeout=60), kept


def test_the_name_is_written_before_the_hint_and_in_the_context_of_the_request() -> None:
    hands = Hands()
    courier = Courier(hands.note, hands.tell)
    WORKSPACE.set("team-a")

    courier.hand_over(a_touch())
    WORKSPACE.set("team-b")
    assert (hands.noted, hands.told) == ([], [])
    hands.gate.set()

    hands.until(hands.told, 1)
    assert (hands.noted, hands.workspaces) == (["7"], ["team-a"])
    assert courier.dropped == 0


def test_a_full_queue_turns_away_and_counts_without_waiting() -> None:
    hands = Hands()
    courier = Courier(hands.note, hands.tell, capacity=5)
    began = monotonic()

    for number in range(50):
        courier.hand_over(a_touch(str(number)))

    assert monotonic() - began < 30  # the gate would hold it up for a minute
    assert courier.dropped >= 50 - 5 - 6  # the thread may hold one batch beside the queue
    hands.gate.set()
    hands.until(hands.told, 50 - courier.dropped)


def test_the_first_hint_that_fails_lets_go_of_those_behind_it_and_every_name_is_written() -> None:
    hands = Hands(failing=True)
    courier = Courier(hands.note, hands.tell)

    courier.hand_over(a_touch("1"))
    assert hands.begun.wait(60)
    for number in range(2, 10):
        courier.hand_over(a_touch(str(number)))
    hands.gate.set()

    hands.until(hands.noted, 9)
    assert hands.noted == [str(number) for number in range(1, 10)]
    # One for the batch that was under way, one for all that had queued behind it.
    hands.until(hands.told, 2)
    assert len(hands.told) == 2
    began = monotonic()
    while courier.dropped < 9 and monotonic() - began < 60:
        pass
    assert courier.dropped == 9


def test_a_name_that_cannot_be_written_does_not_keep_the_hint_back() -> None:
    def refuse(_: Touch) -> None:
        raise KeyError

    hands = Hands()
    courier = Courier(refuse, hands.tell)

    courier.hand_over(a_touch())

    hands.until(hands.told, 1)
    assert courier.dropped == 1
