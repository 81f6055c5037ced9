"""The processes of scheduled runs, which outlive a loop that was killed and are found again by the next.

Each holds a lock on a file named by its run: the kernel lets go of it when the process ends, however it does, and a pid
that was given to somebody else since is never taken for it.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from registry.errors import AlreadyRunning

_POLL_S = 0.05
_NOTES_ITS_PID = ("/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"')
"""The process itself, before it becomes what is to run: a loop that is killed as it starts one leaves no nameless process."""
_NOTE_S = 10
"""For that."""


@contextmanager
def only_one(folder: Path) -> Generator[None]:
    """Holds the lock of the one loop that works in `folder`.

    Raises:
        AlreadyRunning: another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".loop.lock").open("a") as file:
        if not _take(file.fileno()):
            message = f"Another `shipway schedule run` works in {folder}. End it first, or set another SHIPWAY_HOME."
            raise AlreadyRunning(message)
        yield


def place_of(folder: Path) -> str:
    """The name of `folder`, and so of the loop that works in it: made up once, and kept there."""
    file = folder / ".place"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / ".place.new"
        partial.write_text(uuid.uuid4().hex)
        partial.replace(file)
    return file.read_text()


class Children:
    """The processes whose files are in one folder."""

    def __init__(
        self, folder: Path, *, project: Path, environment: Mapping[str, str], grace_s: float = 60
    ) -> None:
        """They run in `project`, with `environment` and nothing else; told to end, they have `grace_s`."""
        self._folder, self._project, self._grace_s = folder, project, grace_s
        self._environment = environment
        self._ours: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, run_id: str, command: Sequence[str]) -> None:
        """Starts `command` for the run, in a session of its own; what it says goes into a file beside the lock.

        Raises:
            OSError: it cannot be started.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._file(run_id).open("x") as lock, self.log(run_id).open("ab") as log:
            _take(lock.fileno())
            try:
                if shutil.which(command[0], path=self._environment.get("PATH")) is None:
                    raise FileNotFoundError(command[0])
                child = subprocess.Popen(  # noqa: S603 - our own command lines; the shell is given them as words
                    [*_NOTES_ITS_PID, str(self._file(run_id).resolve()), *command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=dict(self._environment),
                    cwd=self._project,
                    start_new_session=True,
                    pass_fds=(lock.fileno(),),
                )
            except OSError:
                self._file(run_id).unlink()
                raise
        self._ours[run_id] = child

    def runs(self, run_id: str) -> bool:
        """Whether its process is there."""
        if run_id in self._ours and self._ours[run_id].poll() is not None:
            del self._ours[run_id]
        try:
            with self._file(run_id).open() as lock:
                return not _take(lock.fileno())
        except FileNotFoundError:
            return False

    def forget(self, run_id: str) -> None:
        """Its file, once its process is gone; what it said stays."""
        self._file(run_id).unlink(missing_ok=True)

    def log(self, run_id: str) -> Path:
        """What it said."""
        return self._folder / f"{run_id}.log"

    def end(self, run_ids: Sequence[str]) -> None:
        """Has the processes end, and their children; kills those that have not within the grace."""
        noted = {run_id: self._group(run_id) for run_id in run_ids}
        groups = {run_id: group for run_id, group in noted.items() if group is not None}
        for group in groups.values():
            _signal(group, signal.SIGTERM)
        limit = time.monotonic() + self._grace_s

        def all_gone() -> bool:
            return not any(self.runs(run_id) or _signal(g, 0) for run_id, g in groups.items())

        if not _await(all_gone, limit):
            for group in groups.values():
                _signal(group, signal.SIGKILL)
            _await(all_gone, time.monotonic() + self._grace_s)

    def end_all(self) -> tuple[str, ...]:
        """Has all end of which there is a file, and returns their runs."""
        running = tuple(run_id for run_id in self._known() if self.runs(run_id))
        self.end(running)
        return running

    def _group(self, run_id: str) -> int | None:
        """The process group of the run, once it is noted; None where the process is gone."""
        limit = time.monotonic() + _NOTE_S
        while self.runs(run_id):
            if text := self._file(run_id).read_text().strip():
                return int(text)
            if time.monotonic() > limit:
                return None  # stopped before its first line
            time.sleep(_POLL_S)
        return None

    def _known(self) -> tuple[str, ...]:
        return tuple(sorted(file.stem for file in self._folder.glob("*.pid")))

    def _file(self, run_id: str) -> Path:
        return self._folder / f"{run_id}.pid"


def _take(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _signal(group: int, number: int) -> bool:
    """Whether the process group is there to be signalled."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


def _await(holds: Callable[[], bool], limit: float) -> bool:
    while not holds():
        if time.monotonic() > limit:
            return False
        time.sleep(_POLL_S)
    return True
