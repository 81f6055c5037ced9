"""What guards on this machine have recorded goes to S3, and is deleted there when its time is over.

A sealed file becomes `answers/<endpoint>/<day>/<name>`; the day is the first on which it is deleted, by UTC, and is fixed
when it is shipped. So what an endpoint has recorded is deleted in time even when it records no more, or is gone.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import structlog

from registry.errors import ShipwayError
from registry.events import Event
from registry.record_store import RecordStore

FOLDER = "answers"
_SEALED = "*.jsonl.gz"
"""As `guard.spool` names them."""
_TURN_S = 60.0
_SWEEP = timedelta(hours=1)
_log = structlog.get_logger()


def key_of(name: str, *, endpoint: str, lifetime_days: int) -> str:
    """Where a sealed file is kept; its name begins with when it was begun, like 20261126T143000Z.

    Raises:
        ValueError: it does not.
    """
    began = datetime.strptime(name[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    last = began.date() + timedelta(days=lifetime_days)
    return f"{FOLDER}/{endpoint}/{last.isoformat()}/{name}"


def expired(keys: Iterable[str], *, today: date) -> tuple[str, ...]:
    """Those whose day has come. What is not named as above is not ours, and stays."""
    return tuple(key for key in keys if (day := _day_of(key)) is not None and day <= today)


def _day_of(key: str) -> date | None:
    match key.split("/"):
        case [folder, _, day, _] if folder == FOLDER:
            try:
                return date.fromisoformat(day)
            except ValueError:
                return None
        case _:
            return None


def ship(folder: Path, records: RecordStore, *, endpoint: str, lifetime_days: int) -> int:
    """Ships what is sealed; how many files that were. A file is deleted here once S3 has it; shipping twice is fine.

    Raises:
        ArtifactStoreUnavailable, IntegrityError, NotFound: as `RecordStore.put`; the rest stays where it is.
        OSError: a file cannot be read or deleted.
        ValueError: a file is not named by the guard.
    """
    shipped = 0
    for path in sorted(folder.glob(_SEALED)):
        key = key_of(path.name, endpoint=endpoint, lifetime_days=lifetime_days)
        records.put(key, path.read_bytes())
        path.unlink()
        shipped += 1
    return shipped


class Shipping:
    """Ships and deletes, beside the rollouts, until it is told to stop."""

    def __init__(
        self,
        spools: Mapping[str, tuple[Path, int]],
        records: RecordStore,
        *,
        leads: Callable[[], bool],
        clock: Callable[[], datetime],
        turn_s: float = _TURN_S,
    ) -> None:
        """`spools` are the endpoints that record here: the folder, and for how many days it is kept.

        Only the controller that `leads` does anything.
        """
        self._spools = spools
        self._records = records
        self._leads = leads
        self._clock = clock
        self._turn_s = turn_s
        self._swept: datetime | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="records", daemon=True)

    def begin(self) -> None:
        """From now on."""
        self._thread.start()

    def end(self, *, patience_s: float) -> None:
        """Ends after the file that is under way, or without it. What is left is the next process's."""
        self._over.set()
        self._thread.join(patience_s)

    def turn(self) -> None:
        """Ships what there is, and deletes now and then. Never raises: what did not go well is logged and tried again."""
        if not self._leads():
            return
        for endpoint, (folder, days) in self._spools.items():
            try:
                shipped = ship(folder, self._records, endpoint=endpoint, lifetime_days=days)
            except (ShipwayError, OSError, ValueError) as error:
                _log.error(Event.RECORDS_FAILED, endpoint=endpoint, error=str(error))
                continue
            if shipped:
                _log.info(Event.RECORDS_SHIPPED, endpoint=endpoint, files=shipped)
        now = self._clock()
        if self._swept is not None and now - self._swept < _SWEEP:
            return
        try:
            gone = expired(self._records.keys(FOLDER), today=now.astimezone(UTC).date())
            for key in gone:
                self._records.delete(key)
        except ShipwayError as error:
            _log.error(Event.RECORDS_FAILED, endpoint="", error=str(error))
            return
        self._swept = now
        if gone:
            _log.info(Event.RECORDS_DELETED, files=len(gone))

    def _run(self) -> None:
        while not self._over.is_set():
            self.turn()
            self._over.wait(self._turn_s)
