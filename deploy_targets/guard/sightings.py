"""Which version serves, as far as one guard can know it from the answers that it has passed on. Pure.

Nobody tells the guard the weights: the split chooses, and its answers name whom it has chosen. That a version was chosen
for a request says that it served when the request was sent, and no more: so it is believed for a short time alone, from
the sending on, for an answer may be long under way. Two versions in turn are a rollout or a rollback.
"""

from dataclasses import dataclass

SETTLE_S = 60.0
"""How long one version alone must have been seen after another. A guess: a canary of 5 % that gets one request in three
seconds is seen within it with 64 %, one that gets a request a second with 95 %."""
_DUE = 0.5
"""The part of the time for which a sighting is believed after which the next one is sought."""


@dataclass(frozen=True, slots=True)
class Server:
    """Whose answer it is."""

    version: str
    digest: str = ""
    """Of the files that the engine has loaded, where it says so."""


class Sightings:
    """What was seen of an endpoint's split. Times are in seconds, by any one clock."""

    def __init__(self, *, believed_s: float) -> None:
        """Nobody was seen yet."""
        self._believed_s = believed_s
        self._latest: Server | None = None
        self._sent_at = 0.0
        self._mixed_at: float | None = None

    def saw(self, server: Server, *, sent_at: float) -> None:
        """The split chose `server` for a request that was sent at that time; in whichever order this is told."""
        latest = self._latest
        is_known = latest is not None and latest.version == server.version
        if latest is None or (is_known and not latest.digest):
            self._latest, self._sent_at = server, max(sent_at, self._sent_at)
            return
        if is_known and not server.digest:
            # Whoever stands before the engine has answered for it, and knows no files: nothing new.
            return
        later = max(sent_at, self._sent_at)
        if server != latest:
            self._mixed_at = later if self._mixed_at is None else max(self._mixed_at, later)
        if sent_at >= self._sent_at:
            self._latest, self._sent_at = server, sent_at

    def is_mixed(self, now: float) -> bool:
        """Several were seen not long ago."""
        return self._mixed_at is not None and now - self._mixed_at < SETTLE_S

    def serving(self, now: float) -> Server | None:
        """The one that serves alone; None where that is not known."""
        if self._latest is None or now - self._sent_at >= self._believed_s or self.is_mixed(now):
            return None
        return self._latest

    def is_due(self, now: float) -> bool:
        """Whether a new sighting should be sought, so that there is one before this one's time is over."""
        return now - self._sent_at >= self._believed_s * _DUE
