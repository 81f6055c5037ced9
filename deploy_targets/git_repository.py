"""One branch of a git repository, read and written whole by commits: the only caller of `git`.

A clone that git failed on is taken away, with whatever lock or rest is left in it, and the next look makes another. All
clones of this process lie in one folder, shallow; one that was refreshed often is made anew too, so that it stays small.

Every change begins from what the branch holds at that moment, and is begun anew when somebody else pushed meanwhile, a few
times at the most. Addresses and credentials are git's own affair: its configuration, or GIT_CONFIG_… in the environment.
"""

import atexit
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from registry.errors import TargetUnavailable

_ATTEMPTS = 3
_COMMAND_S = 60
_REFRESHES = 200
"""Of one clone: each leaves some objects behind."""
_AUTHOR = ("-c", "user.name=shipway", "-c", "user.email=shipway@localhost")


class GitRepository:
    """A clone of one branch, made on first use."""

    def __init__(self, url: str, *, branch: str) -> None:
        """`url` is whatever git takes. Nothing is contacted before the first call."""
        self._url = url
        self._branch = branch
        self._clone: Path | None = None
        self._refreshes = 0

    def close(self) -> None:
        """Takes the clone away."""
        if self._clone is not None:
            shutil.rmtree(self._clone, ignore_errors=True)
            self._clone = None

    def read(self, folder: str) -> Mapping[str, bytes]:
        """The contents of the folder's files by name, as the branch has them now; none where there is no such folder.

        Raises:
            TargetUnavailable: the repository does not answer, or refuses.
        """
        place = self._refreshed() / folder
        if not place.is_dir():
            return {}
        return {file.name: file.read_bytes() for file in sorted(place.iterdir()) if file.is_file()}

    def write(self, folder: str, files: Mapping[str, str | None], *, message: str) -> None:
        """Writes the files, takes away those that are None, and pushes all of it as one commit; nothing if all is so.

        Raises:
            TargetUnavailable: it is not pushed; the next look tries again.
        """
        said = ""
        for attempt in range(_ATTEMPTS):
            # What was just read is most often what the branch still holds; the push tells where it is not.
            clone = self._clone if attempt == 0 and self._clone else self._refreshed()
            self._put(clone / folder, files)
            self._git(clone, "add", "--all")
            if not self._git(clone, "status", "--porcelain"):
                return
            self._git(clone, *_AUTHOR, "commit", "--quiet", "--message", message)
            pushed = self._run(clone, "push", "--quiet", "origin", f"HEAD:{self._branch}")
            if pushed.returncode == 0:
                return
            said = pushed.stderr.strip()
        message = (
            f"{self._url} did not take a commit on {self._branch}: {said}. The next look tries again; see whether Shipway "
            "may push there, and whether the branch is protected."
        )
        raise TargetUnavailable(message)

    def _put(self, folder: Path, files: Mapping[str, str | None]) -> None:
        try:
            for name, text in files.items():
                if text is None:
                    (folder / name).unlink(missing_ok=True)
                else:
                    folder.mkdir(parents=True, exist_ok=True)
                    (folder / name).write_text(text)
        except OSError as error:
            self.close()
            message = f"The clone of {self._url} cannot be written: {error}. The next look makes another; see the disk."
            raise TargetUnavailable(message) from error

    def _refreshed(self) -> Path:
        """The clone as the branch stands."""
        self._refreshes += 1
        if self._refreshes > _REFRESHES:
            self.close()
        if self._clone is None:
            self._refreshes = 0
            self._clone = self._new_folder()
            options = ("--quiet", "--depth", "1", "--no-tags", "--branch", self._branch)
            self._git(self._clone, "clone", *options, "--single-branch", "--", self._url, ".")
        else:
            self._git(self._clone, "fetch", "--quiet", "--depth", "1", "origin", self._branch)
            self._git(self._clone, "reset", "--quiet", "--hard", "FETCH_HEAD")
        return self._clone

    def _new_folder(self) -> Path:
        try:
            return Path(tempfile.mkdtemp(dir=_folder_of_process()))
        except OSError as error:
            message = f"There is no room for a clone of {self._url}: {error}. The next look tries again; see the disk."
            raise TargetUnavailable(message) from error

    def _git(self, clone: Path, *words: str) -> str:
        done = self._run(clone, *words)
        if done.returncode != 0:
            self.close()
            what = next(word for word in words if word in _COMMANDS)
            message = (
                f"git {what} failed for {self._url}: {done.stderr.strip()}. The next look tries again; see the address, the "
                "branch and git's credentials."
            )
            raise TargetUnavailable(message)
        return done.stdout

    def _run(self, clone: Path, *words: str) -> "subprocess.CompletedProcess[str]":
        command = ["git", "-C", str(clone), "-c", "core.askPass=true", *words]
        try:
            return subprocess.run(  # noqa: S603 - no shell, and the words are ours but for the declared address
                command,
                capture_output=True,
                text=True,
                check=False,
                timeout=_COMMAND_S,
                stdin=subprocess.DEVNULL,
            )
        except (OSError, UnicodeDecodeError, subprocess.TimeoutExpired) as error:
            self.close()
            message = f"git does not work for {self._url}: {error}. The next look tries again."
            raise TargetUnavailable(message) from error


@functools.cache
def _folder_of_process() -> Path:
    """Where its clones lie: removed at its end, and at the start of the next one of its number if it was killed.

    In a container, where the disk may outlive the process, every one has the same number.
    """
    folder = Path(tempfile.gettempdir()) / f"shipway-git-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


_COMMANDS = frozenset({"add", "clone", "commit", "fetch", "push", "reset", "status"})
