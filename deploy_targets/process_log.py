"""How our processes log: JSON lines, or for eyes where that is asked for. Called once, by a process' entry point."""

import logging
from typing import TextIO

import structlog


def log_to(file: TextIO, *, for_eyes: bool = False) -> None:
    """All that structlog is told from INFO on goes there, with its level and the time in UTC."""
    renderer = structlog.dev.ConsoleRenderer() if for_eyes else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(file=file),
        cache_logger_on_first_use=True,
    )
