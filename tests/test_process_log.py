"""A log that cannot be written to loses lines; whoever logs goes on."""

import errno
import io
import json
import os
from collections.abc import Iterator

import pytest
import structlog

from deploy_targets.process_log import log_to


class Disk(io.StringIO):
    """A file on a disk that may be full."""

    is_full = False

    def write(self, text: str) -> int:
        if self.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(text)

    def events(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]


@pytest.fixture
def disk() -> Iterator[Disk]:
    before = structlog.get_config()
    yield Disk()
    structlog.configure(**before)


@pytest.mark.promise(
    "whoever logs goes on, and the log says how many lines are missing", about="disks"
)
def test_a_log_whose_disk_is_full_loses_lines_and_stops_nobody(disk: Disk) -> None:
    log_to(disk)
    log = structlog.get_logger()
    log.info("before")
    disk.is_full = True
    log.info("meanwhile")
    log.error("meanwhile, too", exc_info=ValueError("it fails"))
    disk.is_full = False
    log.warning("after")
    log.warning("later")

    assert [one["event"] for one in disk.events()] == ["before", "log.lines_lost", "after", "later"]
    assert disk.events()[1] | {"timestamp": ""} == {
        "event": "log.lines_lost",
        "lines": 2,
        "level": "error",
        "timestamp": "",
    }
