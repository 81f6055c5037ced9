"""What a person sees of long work: one line for each phase, and bars on a terminal; elsewhere a line now and then.

Libraries that print on their own are kept quiet here; what they said is shown when they fail.
"""

import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from pipelines.workbench import is_disk_full
from registry.errors import ShipwayError, StageFailed

_TAIL_LINES = 15
_LINE_EVERY_S = 15
"""Without a terminal, long work says how far it is this often."""
_MIB = 1 << 20


class Announcer:
    """Lines on standard output, bars on standard error."""

    def __init__(self) -> None:
        """On those of the process."""
        self._out = Console(highlight=False)
        # The file itself, not whatever stands in its place later: bars are seen while libraries are hushed.
        self._err = Console(file=sys.stderr)

    def say(self, stage: str, text: str) -> None:
        """One line, `stage` in front."""
        self._out.print(f"{stage:9} {text}", markup=False, soft_wrap=True)

    @contextmanager
    def bar(
        self, title: str, total: float, *, unit: str = ""
    ) -> Generator[Callable[[float], None]]:
        """A bar that the given function moves on by a number of units; it may be called from several threads.

        Without a terminal: a plain line now and then. `unit` is `bytes`, or what is counted.
        """
        if not self._err.is_terminal:
            yield _Lines(self._err, title, total, unit).advance
            return
        amount = DownloadColumn(binary_units=True) if unit == "bytes" else TaskProgressColumn()
        columns = (TextColumn("{task.description}"), BarColumn(), amount, TimeRemainingColumn())
        with Progress(*columns, console=self._err, transient=True) as progress:
            task = progress.add_task(title, total=total)
            yield lambda units: progress.advance(task, units)


class _Lines:
    """How far work is, in plain lines; short work says nothing."""

    def __init__(self, out: Console, title: str, total: float, unit: str) -> None:
        self._out, self._title, self._total, self._unit = out, title, total, unit
        self._done = 0.0
        self._told = time.monotonic()
        self._lock = threading.Lock()

    def advance(self, units: float) -> None:
        with self._lock:
            self._done += units
            now = time.monotonic()
            if now - self._told < _LINE_EVERY_S:
                return
            self._told = now
            size = _MIB if self._unit == "bytes" else 1
            unit = "MiB" if self._unit == "bytes" else self._unit
            text = f"{self._title}: {self._done / size:.0f} of {self._total / size:.0f} {unit}"
            self._out.print(text.rstrip(), markup=False, soft_wrap=True)


@contextmanager
def hushed() -> Generator[Callable[[], str]]:
    """Swallows what libraries print meanwhile; the given function returns the last lines of it."""
    said = StringIO()

    def tail() -> str:
        return "\n".join(said.getvalue().replace("\r", "\n").splitlines()[-_TAIL_LINES:])

    with redirect_stdout(said), redirect_stderr(said):
        yield tail


@contextmanager
def hushed_library(failed: str) -> Generator[None]:
    """Keeps a library quiet, and turns what it raises into one error: `failed`, the reason, and what it last said.

    Our own errors, and that the disk is full, go through as they are.

    Raises:
        StageFailed: it raised.
    """
    with hushed() as said:
        try:
            yield
        except ShipwayError:
            raise
        except (RuntimeError, ValueError, TypeError, OSError, ImportError, KeyError) as error:
            if is_disk_full(error):
                raise
            message = f"{failed} ({type(error).__name__}: {error}). It last said:\n{said()}"
            raise StageFailed(message) from error
