"""What Argo CD or Flux does with a branch, as far as Shipway meets it: applies its files, and prunes what is gone from it."""

import subprocess
from pathlib import Path
from typing import Any

import yaml

from deploy_targets.cluster import Cluster, kind_of
from tests.install.kustomize import apply_strictly


def git(*words: str | Path) -> str:
    done = subprocess.run(
        [
            "git",
            "-c",
            "user.name=somebody",
            "-c",
            "user.email=somebody@localhost",
            *map(str, words),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout


def a_repository(folder: Path) -> Path:
    """A bare repository whose branch `main` holds a README."""
    bare, work = folder / "deploy.git", folder / "work"
    git("init", "--quiet", "--bare", "--initial-branch", "main", bare)
    git("clone", "--quiet", bare, work)
    (work / "README").write_text("What runs in the cluster.\n")
    git("-C", work, "add", "README")
    git("-C", work, "commit", "--quiet", "--message", "a beginning")
    git("-C", work, "push", "--quiet", "origin", "HEAD:main")
    return bare


def messages(bare: Path) -> list[str]:
    """Of the branch's commits, the oldest first."""
    return git("-C", bare, "log", "--reverse", "--format=%s", "main").splitlines()


class Syncer:
    """Of one repository and one cluster."""

    def __init__(self, server: Any, bare: Path) -> None:
        self._server = server
        self._bare = bare
        self._applied: dict[str, Any] = {}
        self._head = ""
        self.is_idle = False

    def sync(self) -> None:
        """The cluster as the branch says."""
        head = git("-C", self._bare, "rev-parse", "main")
        if self.is_idle or head == self._head:
            return
        self._head = head
        wanted = {}
        for name in git("-C", self._bare, "ls-tree", "-r", "--name-only", "main").splitlines():
            if name.endswith(".yaml"):
                wanted[name] = yaml.safe_load(git("-C", self._bare, "show", f"main:{name}"))
        for body in wanted.values():
            apply_strictly(self._server, body)
        cluster = Cluster(self._server.admin, sleep=lambda _: None, jitter=lambda: 0.0)
        for name in self._applied.keys() - wanted.keys():
            gone = self._applied[name]
            metadata = gone["metadata"]
            found = cluster.get(kind_of(gone), metadata["namespace"], metadata["name"])
            if found is not None:
                cluster.delete(found, kind_of(gone))
        self._applied = wanted
