"""Pictures are drawn in a process that ends with each: matplotlib would take a fifth of the controller's memory, and keep it."""

import os
import signal
import subprocess
import sys
import threading

from pydantic import TypeAdapter

from deploy_targets.rollout.state import RolloutState
from registry.errors import PictureFailed

_LIMIT_S = 20
"""Its own endpoint is not looked at meanwhile."""
_ORDER = TypeAdapter(tuple[str, RolloutState])
_NEEDED = (
    "HOME",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "MPLCONFIGDIR",
    "PATH",
    "PYTHONPATH",
    "TMPDIR",
)
_ENDED_BY_US = (-signal.SIGTERM, -signal.SIGINT)
"""As the controller's own process is, with all its children."""


class PictureProcess:
    """One at a time, for it takes a hundred MiB, and many rollouts may move on together."""

    def __init__(self) -> None:
        """Nothing is started before the first picture."""
        self._drawing = threading.Lock()

    def draw(self, rollout: RolloutState, *, title: str) -> bytes | None:
        """The PNG; None while another one is drawn, for no rollout waits for another one's picture, and at the process' end: ask again.

        Raises:
            PictureFailed: the process could not be started, failed, or took longer than 20 seconds.
        """
        if not self._drawing.acquire(blocking=False):
            return None
        try:
            done = subprocess.run(
                [sys.executable, "-P", "-m", "deploy_targets.rollout.picture"],
                input=_ORDER.dump_json((title, rollout)),
                capture_output=True,
                check=False,
                timeout=_LIMIT_S,
                env={name: os.environ[name] for name in _NEEDED if name in os.environ},
            )
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            message = f"The picture could not be drawn: {error}"
            raise PictureFailed(message) from error
        finally:
            self._drawing.release()
        if done.returncode in _ENDED_BY_US:
            return None
        if done.returncode != 0:
            last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
            message = (
                f"The picture could not be drawn: exit status {done.returncode}. {''.join(last)}"
            )
            raise PictureFailed(message)
        return done.stdout
