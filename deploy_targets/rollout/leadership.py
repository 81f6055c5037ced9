"""Which of several controllers may act: what the loop and its process ask for. Kept by a Lease, or by a file lock."""

from collections.abc import Callable
from typing import Protocol


class Leadership(Protocol):
    """One candidate's view."""

    def begin(self, look: Callable[[str | None], None]) -> None:
        """Starts to stand for election. `look` is called whenever this one leads anew, and at each hint meanwhile.

        It is given the model that the hint named, if it is known.
        """
        ...

    def leads(self) -> bool:
        """Whether this one may act now. Once it did not, a thread is told so once before it hears yes again.

        So what a thread decided under an earlier leadership is never carried out under a later one.
        """
        ...

    def knows(self) -> bool:
        """Whether it knows who leads, be it another one."""
        ...

    def hint(self, model: str | None = None) -> None:
        """Has whoever leads look now, at the endpoints of `model` first. Returns at once."""
        ...

    def end(self) -> None:
        """Stops standing, and lets go: call it when nothing is acted on any more."""
        ...
