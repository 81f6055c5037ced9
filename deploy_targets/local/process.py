"""Child processes that outlive us: start, recognise, await, end. Never somebody else's.

A pid alone may have been given to another process since; together with the time at which it started it names one. What
a part leaves behind when it is killed is known by a mark that all its children inherit in their environment.
"""

import random
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict

from registry.errors import ComponentNotReady

_POLL_S = 0.05
_MARK = "SHIPWAY_PART"
_TAIL_BYTES = 2_000


class ProcessRecord(BaseModel):
    """One process that was started, as it is remembered in `stack.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pid: int
    started: float
    """Seconds since the epoch, as the kernel tells."""

    def find(self) -> psutil.Process | None:
        """The process, if it is still this one and alive."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < 1
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


def spawn(
    command: Sequence[str | Path],
    *,
    log: Path,
    environment: Mapping[str, str],
    folder: Path,
    mark: str = "",
) -> ProcessRecord:
    """Starts `command` in a session of its own, so that an interrupt at the terminal does not reach it.

    `environment` is all that it gets, but for the mark by which `find_marked` knows it and its children.

    Raises:
        ComponentNotReady: the program is not there, or may not be run.
    """
    with log.open("ab") as output:
        try:
            child = subprocess.Popen(  # noqa: S603 - our own command lines, no shell
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**environment, _MARK: mark},
                cwd=folder,
                start_new_session=True,
            )
        except OSError as error:
            message = f"{command[0]} cannot be started ({error.strerror}). Run `make setup`; {log} would be its log."
            raise ComponentNotReady(message) from error
    # Its handle is dropped while it runs, of which Python complains unless the handle counts as ended.
    child.returncode = 0
    return ProcessRecord(pid=child.pid, started=psutil.Process(child.pid).create_time())


def await_ready(
    part: str,
    is_ready: Callable[[], bool],
    *,
    record: ProcessRecord | None,
    log: Path,
    limit_s: float,
) -> None:
    """Returns as soon as `is_ready` says so.

    Raises:
        ComponentNotReady: the process ended, or the limit passed; with the end of its log.
    """
    deadline = time.monotonic() + limit_s
    while not is_ready():
        if record is not None and record.find() is None:
            message = f"{part} ended while it was starting. The end of {log}:\n{tail(log)}"
            raise ComponentNotReady(message)
        if time.monotonic() > deadline:
            message = f"{part} was not ready within {limit_s:.0f} s. The end of {log}:\n{tail(log)}"
            raise ComponentNotReady(message)
        time.sleep(_POLL_S)


def end_all(processes: Sequence[psutil.Process], *, patience_s: float) -> None:
    """Ends these processes and all their children: asked first, then forced after `patience_s`.

    A child that bears another mark is a part of its own, which was only started from here: it is left alone.
    """
    family: dict[int, psutil.Process] = {}
    for process in processes:
        try:
            mark = _mark_of(process)
            for one in (process, *process.children(recursive=True)):
                if _mark_of(one) in {mark, ""}:
                    family[one.pid] = one
        except psutil.NoSuchProcess:
            continue
    for process in family.values():
        _quietly(process.terminate)
    _, alive = psutil.wait_procs(list(family.values()), timeout=patience_s)
    for process in alive:
        _quietly(process.kill)
    psutil.wait_procs(alive, timeout=10)


def find_marked(prefix: str) -> list[psutil.Process]:
    """The processes of this user whose mark begins with `prefix`, this one left out.

    The mark is inherited, so orphans of a part that was killed are found, workers that renamed themselves included.
    """
    me = psutil.Process()
    spared = {me.pid, *(parent.pid for parent in me.parents())}
    return [
        one
        for one in psutil.process_iter()
        if one.pid not in spared and _mark_of(one).startswith(prefix)
    ]


def _mark_of(process: psutil.Process) -> str:
    """Empty for one that bears none, that ended meanwhile or belongs to another user."""
    try:
        return process.environ().get(_MARK, "")
    except (psutil.Error, OSError):
        return ""


_QUIET_PORTS = range(20_000, 32_000)
"""Below those that Linux hands to outgoing connections, any of which could take a port before its part has started."""


def free_port(usual: int, taken: set[int]) -> int:
    """`usual` (0: none) where it can be bound on loopback, otherwise one of `_QUIET_PORTS`; never one of `taken`."""
    # From the system: a library that seeds `random` would have two processes draw the same ports in the same order.
    others = random.SystemRandom().sample(_QUIET_PORTS, 50)
    for candidate in (usual, *others) if usual else others:
        if candidate in taken:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", candidate))
            except OSError:
                continue
        taken.add(candidate)
        return candidate
    message = (
        f"No free port was found in place of {usual}. Close something that listens on loopback."
    )
    raise ComponentNotReady(message)


def tail(log: Path) -> str:
    """The end of a log file."""
    if not log.exists():
        return "(the log is empty)"
    with log.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - _TAIL_BYTES))
        return file.read().decode(errors="replace")


def _quietly(end: Callable[[], None]) -> None:
    try:
        end()
    except psutil.NoSuchProcess:
        return
