"""Locks on files, which the kernel frees with the process that held them: for one act, or for leadership on one machine."""

import fcntl
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path

import structlog

from registry.events import Event

_log = structlog.get_logger()


@contextmanager
def locked(path: Path) -> Generator[None]:
    """One process at a time is in the block; the others wait. `path` is made if it is not there; its folder must exist."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class FileLeadership:
    """One candidate for the lock. It cannot be lost while the process lives, however long that was paused."""

    def __init__(self, path: Path) -> None:
        """`path` is made if it is not there; its folder must exist."""
        self._path = path
        self._file: TextIOWrapper | None = None
        self._is_ended = False
        self._asking = threading.Lock()
        self._look: Callable[[str | None], None] = lambda _: None

    def begin(self, look: Callable[[str | None], None]) -> None:
        """See `Leadership`. Nothing runs beside the loop: each question whether it leads tries anew."""
        self._look = look

    def leads(self) -> bool:
        """See `Leadership`."""
        with self._asking:
            if self._file is None and not self._is_ended:
                self._file = self._locked()
            return self._file is not None

    def knows(self) -> bool:
        """Always: who does not get the lock knows that another one has it."""
        return True

    def hint(self, model: str | None = None) -> None:
        """Has the loop look: it will find out whether it leads."""
        self._look(model)

    def end(self) -> None:
        """Frees the lock."""
        with self._asking:
            self._is_ended = True
            if self._file is not None:
                self._file.close()
                self._file = None
                _log.info(Event.LEADERSHIP_RELEASED, lock=str(self._path))

    def _locked(self) -> TextIOWrapper | None:
        file = self._path.open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        _log.info(Event.LEADERSHIP_GAINED, lock=str(self._path))
        return file
