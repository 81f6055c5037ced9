"""The keys file as it stands: read again when it changes, so that a key is revoked without a restart. Fails closed."""

from pathlib import Path

from pydantic import ValidationError

from deploy_targets.guard.access_control import KeyRing
from deploy_targets.guard.errors import KeysUnavailable


class KeysFile:
    """A keys file on disk."""

    def __init__(self, path: Path) -> None:
        """Nothing is read before the first `ring`."""
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._ring = KeyRing(keys=())

    def ring(self) -> KeyRing:
        """The keys as the file has them now.

        Raises:
            KeysUnavailable: it cannot be read, or is no keys file. Older keys are not used in its place.
        """
        try:
            stat = self._path.stat()
            seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if seen != self._seen:
                self._ring = KeyRing.model_validate_json(self._path.read_bytes())
                self._seen = seen
        except (OSError, ValidationError) as error:
            self._seen = None
            message = (
                "The keys of this endpoint cannot be read, so nobody is let in. Tell its operator."
            )
            raise KeysUnavailable(message) from error
        return self._ring
