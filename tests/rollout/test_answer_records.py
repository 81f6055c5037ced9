"""Recorded answers on their way to a real S3, and their deletion there."""

import gzip
from collections.abc import Iterator
from datetime import UTC, date, datetime
from itertools import count
from pathlib import Path

import pytest

from deploy_targets.guard.spool import Spool
from deploy_targets.rollout.answer_records import FOLDER, Shipping, expired, key_of, ship
from registry.errors import ArtifactStoreUnavailable
from registry.record_store import RecordStore
from tests.builders import FakeClock
from tests.guard.two_versions import until
from tests.servers import Servers

NAME = "20261126T143000Z-0a1b.jsonl.gz"
THAT_NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)
_NAMES = (f"recorded-{number}" for number in count())


@pytest.fixture
def endpoint() -> str:
    return next(_NAMES)


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    """A folder as the guard leaves it on 26 November 2026, at noon."""
    spool = Spool(tmp_path / "spool", max_bytes=1 << 20, clock=THAT_NOON.timestamp)
    spool.write({"n": 1})
    spool.seal()
    return tmp_path / "spool"


@pytest.fixture
def records(servers: Servers) -> Iterator[RecordStore]:
    yield servers.records
    for key in servers.records.keys(FOLDER):
        servers.records.delete(key)


def test_a_files_last_day_is_part_of_its_name() -> None:
    assert key_of(NAME, endpoint="chat", lifetime_days=30) == f"answers/chat/2026-12-26/{NAME}"
    with pytest.raises(ValueError, match="does not match"):
        key_of("notes.jsonl.gz", endpoint="chat", lifetime_days=30)


@pytest.mark.parametrize(
    ("key", "is_gone"),
    [
        (f"answers/chat/2026-11-25/{NAME}", True),
        (f"answers/chat/2026-11-26/{NAME}", True),
        (f"answers/chat/2026-11-27/{NAME}", False),
        (f"answers/chat/someday/{NAME}", False),
        (f"answers/chat/2026-11-25/deeper/{NAME}", False),
        ("audit/chat/2026-11-25/x", False),
    ],
)
def test_what_is_deleted_is_what_has_come_to_its_day(key: str, *, is_gone: bool) -> None:
    assert expired([key], today=date(2026, 11, 26)) == ((key,) if is_gone else ())


def test_what_is_sealed_is_shipped_and_then_gone_from_the_folder(
    records: RecordStore, sealed: Path, endpoint: str
) -> None:
    (file,) = sealed.iterdir()
    content = file.read_bytes()
    assert ship(sealed, records, endpoint=endpoint, lifetime_days=3) == 1
    assert list(sealed.iterdir()) == []
    assert records.keys(f"{FOLDER}/{endpoint}") == (f"answers/{endpoint}/2026-11-29/{file.name}",)
    (kept,) = records.read(f"{FOLDER}/{endpoint}")
    assert gzip.decompress(kept) == b'{"n": 1}\n'
    file.write_bytes(content)  # it had been shipped, and the process died
    assert ship(sealed, records, endpoint=endpoint, lifetime_days=3) == 1
    assert len(records.keys(f"{FOLDER}/{endpoint}")) == 1


def test_what_is_written_to_is_left_alone(records: RecordStore, tmp_path: Path) -> None:
    Spool(tmp_path, max_bytes=1 << 20).write({"n": 1})
    assert ship(tmp_path, records, endpoint="chat", lifetime_days=3) == 0
    assert len(list(tmp_path.iterdir())) == 1


def test_it_is_deleted_when_its_time_is_over_even_when_nothing_is_recorded_any_more(
    records: RecordStore, sealed: Path, endpoint: str
) -> None:
    clock = FakeClock(THAT_NOON)
    shipping = Shipping({endpoint: (sealed, 2)}, records, leads=lambda: True, clock=clock)
    shipping.turn()
    assert len(records.keys(f"{FOLDER}/{endpoint}")) == 1
    without = Shipping({}, records, leads=lambda: True, clock=clock)
    clock.advance(35 * 3600)
    without.turn()
    assert len(records.keys(f"{FOLDER}/{endpoint}")) == 1
    clock.advance(2 * 3600)
    without.turn()
    assert records.keys(f"{FOLDER}/{endpoint}") == ()


def test_only_the_controller_that_leads_ships(
    records: RecordStore, sealed: Path, endpoint: str
) -> None:
    shipping = Shipping(
        {endpoint: (sealed, 2)}, records, leads=lambda: False, clock=FakeClock(THAT_NOON)
    )
    shipping.turn()
    assert len(list(sealed.iterdir())) == 1


class AwayRecords(RecordStore):
    def __init__(self) -> None:
        super().__init__(None, bucket="b")

    def put(self, key: str, content: bytes) -> None:
        raise ArtifactStoreUnavailable(f"no answer to {key} ({len(content)} bytes)")

    def keys(self, folder: str) -> tuple[str, ...]:
        raise ArtifactStoreUnavailable(f"no answer to {folder}")


def test_while_s3_is_away_everything_stays_where_it_is(sealed: Path) -> None:
    shipping = Shipping(
        {"chat": (sealed, 2)}, AwayRecords(), leads=lambda: True, clock=FakeClock(THAT_NOON)
    )
    shipping.turn()
    assert len(list(sealed.iterdir())) == 1


def test_it_ships_by_itself_until_it_is_told_to_stop(
    records: RecordStore, sealed: Path, endpoint: str
) -> None:
    shipping = Shipping(
        {endpoint: (sealed, 2)},
        records,
        leads=lambda: True,
        clock=FakeClock(THAT_NOON),
        turn_s=0.01,
    )
    shipping.begin()
    until(lambda: not list(sealed.iterdir()))
    shipping.end(patience_s=20)
    assert len(records.keys(f"{FOLDER}/{endpoint}")) == 1
