"""Pictures are drawn in a process that ends with each: matplotlib would take a fifth of the controller's memory, and keep it."""

import subprocess
import sys
import threading

from pydantic import TypeAdapter

from deploy_targets.rollout.state import RolloutState
from registry.errors import PictureFailed

_LIMIT_S = 60
_ROLLOUT = TypeAdapter(RolloutState)


class PictureProcess:
    """One at a time, for it takes a hundred MiB, and many rollouts may move on together."""

    def __init__(self) -> None:
        """Nothing is started before the first picture."""
        self._drawing = threading.Lock()

    def draw(self, rollout: RolloutState, *, title: str) -> bytes | None:
        """The PNG; None while another one is drawn, for no rollout waits for another one's picture: ask again.

        Raises:
            PictureFailed: the process could not be started, failed, or took longer than a minute.
        """
        if not self._drawing.acquire(blocking=False):
            return None
        try:
            done = subprocess.run(  # noqa: S603 - no shell, and the words are ours
                [sys.executable, "-m", "deploy_targets.rollout.picture", title],
                input=_ROLLOUT.dump_json(rollout),
                capture_output=True,
                check=False,
                timeout=_LIMIT_S,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            message = f"The picture could not be drawn: {error}"
            raise PictureFailed(message) from error
        finally:
            self._drawing.release()
        if done.returncode != 0:
            last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
            message = (
                f"The picture could not be drawn: exit status {done.returncode}. {''.join(last)}"
            )
            raise PictureFailed(message)
        return done.stdout
