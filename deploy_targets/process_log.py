"""How our processes log: JSON lines, or for eyes where that is asked for. Called once, by a process' entry point.

A log that cannot be written to, as on a full disk, loses lines and nothing else: what is logged about goes on.
"""

import json
import logging
import threading
from datetime import UTC, datetime
from typing import TextIO

import structlog


def log_to(file: TextIO, *, for_eyes: bool = False) -> None:
    """All that structlog is told from INFO on goes there, with its level and the time in UTC."""
    renderer = structlog.dev.ConsoleRenderer() if for_eyes else structlog.processors.JSONRenderer()
    lines = _Lines(file)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=True,
    )


class _Lines:
    """Writes each line at once. Before the first after a loss it says how many failed: the file's buffer may bring the last few."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._lost = 0
        self._lock = threading.Lock()

    def _write(self, line: str) -> None:
        with self._lock:
            try:
                if self._lost:
                    self._file.write(f"{_gap(self._lost)}\n")
                self._file.write(f"{line}\n")
                self._file.flush()
            except OSError:
                self._lost += 1
            else:
                self._lost = 0

    debug = info = warning = error = critical = _write
    """By which structlog calls it."""


def _gap(lines: int) -> str:
    now = datetime.now(UTC).isoformat()
    return json.dumps(
        {"event": "log.lines_lost", "lines": lines, "level": "error", "timestamp": now}
    )
