"""A folder of records that waits to be shipped: JSON lines, in files that are sealed (gzip) when they are full or old.

One process writes to a folder. What is sealed is another's to take away. A full folder takes nothing more, and a record
that cannot be written is lost: nothing waits for either. Files are their owner's alone.
"""

import gzip
import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

_SEAL_BYTES = 4 << 20
"""Of lines, before they are compressed."""
_SEAL_S = 60.0
"""A record waits at most for so long, and one turn of whoever seals, until it can be shipped."""
_PARTIAL, SEALED = ".jsonl", ".jsonl.gz"


class Spool:
    """The folder. Safe in several threads."""

    def __init__(
        self, folder: Path, *, max_bytes: int, clock: Callable[[], float] = time.time
    ) -> None:
        """Makes the folder where there is none, and seals what a killed process has left there.

        Raises:
            OSError: it cannot be made or written to.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._max_bytes = max_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._open: Path | None = None
        self._open_bytes = 0
        self._began = 0.0
        for left in folder.glob(f"*{_PARTIAL}"):
            _seal(left)
        self._sealed_bytes = self._count()

    def write(self, record: Mapping[str, object]) -> bool:
        """Adds one line; False where there is no room for it, and nothing is written.

        Raises:
            OSError: it cannot be written.
        """
        line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
        with self._lock:
            if self._is_full(len(line)):
                self._sealed_bytes = self._count()
                if self._is_full(len(line)):
                    return False
            if self._open is None:
                stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._clock()))
                path = self._folder / f"{stamp}-{secrets.token_hex(8)}{_PARTIAL}"
                path.touch(mode=0o600, exist_ok=False)
                self._open, self._open_bytes, self._began = path, 0, self._clock()
            try:
                with self._open.open("ab") as file:
                    file.write(line)
            except OSError:
                # Of a line that found no room half may be there, and would spoil the next one.
                os.truncate(self._open, self._open_bytes)
                raise
            self._open_bytes += len(line)
        self.seal_if_due()
        return True

    def seal_if_due(self) -> None:
        """Seals the file that is written to, where it is full or old.

        Raises:
            OSError: it cannot be sealed.
        """
        is_old = self._clock() - self._began >= _SEAL_S
        if is_old or self._open_bytes >= _SEAL_BYTES:
            self.seal()

    def seal(self) -> None:
        """Seals the file that is written to, if there is one.

        Raises:
            OSError: it cannot be sealed.
        """
        with self._lock:
            if self._open is not None:
                _seal(self._open)
                # Only now: what could not be sealed is written to, counted and tried again.
                self._open, self._open_bytes = None, 0
                self._sealed_bytes = self._count()

    def _is_full(self, more: int) -> bool:
        return self._sealed_bytes + self._open_bytes + more > self._max_bytes

    def _count(self) -> int:
        """Bytes of all sealed files; one that is taken away meanwhile counts no more."""
        total = 0
        for path in self._folder.glob(f"*{SEALED}"):
            try:
                total += path.stat().st_size
            except FileNotFoundError:
                continue
        return total


def _seal(path: Path) -> None:
    """The file, compressed under its last name. Whoever looks for sealed files never sees a part of one."""
    making = path.with_suffix(".making")
    making.unlink(missing_ok=True)
    making.touch(mode=0o600)
    # Without a time in it the same lines make the same bytes.
    making.write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    making.replace(path.with_suffix(SEALED))
    path.unlink()
