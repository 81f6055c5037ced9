"""The key file, read again whenever it changes: a key is revoked by taking it out, without a restart.

Access control fails closed: while the file cannot be read nobody is let in, not even with a key that was good before.
"""

from pathlib import Path

import structlog

from deploy_targets.guard.access_control import KeyRing, parse_keys
from deploy_targets.guard.errors import KeyFileInvalid
from deploy_targets.guard.events import GuardEvent

_log = structlog.get_logger()


class KeyFile:
    """The keys of one file."""

    def __init__(self, path: Path) -> None:
        """Nothing is read yet."""
        self._path = path
        self._stamp: tuple[int, ...] | None = None
        self._ring: KeyRing | None = None
        self._fault = ""

    def ring(self) -> KeyRing:
        """The keys as they are now. Costs one `stat`; the file is read when its stamp is a new one.

        Raises:
            KeyFileInvalid: the file is missing, unreadable or not in its form. Logged once for each change.
        """
        try:
            found = self._path.stat()
            stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
            if stamp != self._stamp:
                self._stamp, self._ring = stamp, None
                self._ring = parse_keys(self._path.read_text(encoding="utf-8"))
                self._fault = ""
                _log.info(GuardEvent.KEYS_LOADED, keys=len(self._ring.entries))
        except (OSError, UnicodeDecodeError, KeyFileInvalid) as error:
            self._ring = None
            # A file that could not be opened may be given back its permissions, which does not change its stamp.
            if not isinstance(error, KeyFileInvalid):
                self._stamp = None
            self._report(f"The key file {self._path} cannot be used ({error}).")
        if self._ring is None:
            message = f"{self._fault} Nobody is let in until it is mended."
            raise KeyFileInvalid(message)
        return self._ring

    def _report(self, fault: str) -> None:
        if fault != self._fault:
            self._fault = fault
            _log.error(GuardEvent.KEYS_UNREADABLE, reason=fault)
