"""What a person sees of long work: one line for each phase, and bars on a terminal only.

Libraries that print on their own are kept quiet here; what they said is shown when they fail.
"""

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

_TAIL_LINES = 15


class Announcer:
    """Lines on standard output, bars on standard error."""

    def __init__(self, out: Console | None = None, err: Console | None = None) -> None:
        """Without consoles: those of the process."""
        self._out = out or Console(highlight=False)
        # The file itself, not whatever stands in its place later: bars are seen while libraries are hushed.
        self._err = err or Console(file=sys.stderr)

    def say(self, stage: str, text: str) -> None:
        """One line, `stage` in front."""
        self._out.print(f"{stage:9} {text}", markup=False, soft_wrap=True)

    @contextmanager
    def bar(self, title: str, total: float) -> Generator[Callable[[float], None]]:
        """A bar that the given function moves on by a number of units; nothing unless on a terminal."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
        )
        hidden = not self._err.is_terminal
        with Progress(*columns, console=self._err, transient=True, disable=hidden) as progress:
            task = progress.add_task(title, total=total)
            yield lambda units: progress.advance(task, units)


@contextmanager
def hushed() -> Generator[Callable[[], str]]:
    """Swallows what libraries print meanwhile; the given function returns the last lines of it."""
    said = StringIO()

    def tail() -> str:
        return "\n".join(said.getvalue().replace("\r", "\n").splitlines()[-_TAIL_LINES:])

    with redirect_stdout(said), redirect_stderr(said):
        yield tail
