"""Rollouts by commits: Shipway writes to a real git repository, a syncer applies it, and the controller waits for the cluster."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy_targets.cluster import RAY_SERVICE, Cluster
from deploy_targets.git_objects import GitObjects
from deploy_targets.git_repository import GitRepository
from deploy_targets.manifest import Manifest
from deploy_targets.placement import Git
from deploy_targets.ray_serve.adapter import ray_target
from deploy_targets.routing.traffic import Traffic
from deploy_targets.target import Target
from deploy_targets.triton.adapter import triton_target
from registry.errors import BadInput, TargetRefused, TargetUnavailable
from tests.builders import a_ray_endpoint, a_release
from tests.contracts.cluster_stage import ClusterStage, repository
from tests.contracts.syncer import Syncer, a_repository, git, messages
from tests.install.rights import committed
from tests.kubernetes_api.operators.behaviour import failing


class GitStage(ClusterStage):
    """One endpoint that is delivered by git, under rights that let the controller write nothing."""

    def __init__(self, way: str, server: Any, folder: Path) -> None:
        self.bare = a_repository(folder)
        self.syncer = Syncer(server, self.bare)
        self.lag = 1
        """Ticks between two syncs."""
        self._ticks = 0
        super().__init__(way, server, folder)
        place = Git(repository=str(self.bare), path="clusters/one")
        kubernetes = self.endpoint.cluster.model_copy(update={"git": place})
        self.endpoint = self.endpoint.model_copy(update={"kubernetes": kubernetes})
        self.restart()

    def rights(self) -> list[Any]:
        return committed("triton-git" if self.way == "standard" else f"{self.way}-git")

    def fresh_target(self) -> Target:
        place = self.endpoint.cluster.git
        if place is None:
            return super().fresh_target()
        cluster = Cluster(self.api, sleep=lambda _: None, jitter=lambda: 0.0)
        clone = GitRepository(place.repository, branch=place.branch)
        if self.way == "ray-serve":
            return ray_target(self.endpoint, cluster, git=clone)
        return triton_target(self.endpoint, cluster, repository=repository, git=clone)

    def tick(self, times: int = 1) -> None:
        for _ in range(times):
            self._ticks += 1
            if self._ticks % self.lag == 0:
                self.syncer.sync()
            super().tick()


@pytest.fixture(params=["ray-serve"])
def stage(request, cluster, tmp_path) -> GitStage:
    return GitStage(request.param, cluster, tmp_path)


on_both = pytest.mark.parametrize("stage", ["ray-serve", "standard"], indirect=True)


@pytest.fixture
def serving(stage: GitStage) -> GitStage:
    stage.release("6")
    assert stage.traffic == Traffic.all_to("6")
    return stage


def files(stage: GitStage) -> dict[str, Any]:
    names = git("-C", stage.bare, "ls-tree", "-r", "--name-only", "main").splitlines()
    return {
        Path(name).name: yaml.safe_load(git("-C", stage.bare, "show", f"main:{name}"))
        for name in names
        if name.startswith(f"clusters/one/{stage.namespace}/")
    }


@on_both
def test_a_rollout_is_a_commit_for_each_step(serving: GitStage) -> None:
    before = len(messages(serving.bare))

    serving.release("7")

    assert messages(serving.bare)[before:] == [
        "chat: deploy v7",
        "chat: requests to v6 95 %, v7 5 %",
        "chat: requests to v6 75 %, v7 25 %",
        "chat: requests to v6 50 %, v7 50 %",
        "chat: requests to v7 100 %",
        "chat: retire v6",
    ]
    assert serving.outcomes == ["promoted", "promoted"]
    assert serving.traffic == Traffic.all_to("7")
    serving.syncer.sync()
    assert set(serving.target.observe().revisions) == {"7"}
    assert {name.partition(".")[0] for name in files(serving)} == {"chat", "chat-v7"}


def test_with_a_slow_syncer_nothing_is_committed_twice_and_the_weights_still_rise(
    serving: GitStage,
) -> None:
    serving.lag, before = 3, len(messages(serving.bare))

    serving.release("7")
    serving.tick(6)

    assert messages(serving.bare)[before:] == [
        "chat: deploy v7",
        "chat: requests to v6 95 %, v7 5 %",
        "chat: requests to v6 75 %, v7 25 %",
        "chat: requests to v6 50 %, v7 50 %",
        "chat: requests to v7 100 %",
        "chat: retire v6",
    ]


def test_a_step_begins_when_its_weights_are_seen(serving: GitStage) -> None:
    serving.reach("7", 5)
    serving.syncer.is_idle = True
    while "25 %" not in messages(serving.bare)[-1]:
        serving.tick()
    committed_so_far = messages(serving.bare)

    serving.tick(5)

    assert serving.state.rollout.step == 1
    assert serving.state.rollout.step_requests == 0
    assert messages(serving.bare) == committed_so_far
    assert serving.traffic.percent("7") == 5


def test_a_challenger_that_fails_is_taken_off_the_branch(serving: GitStage) -> None:
    serving.operators.behave_to("7", failing(message=f"{a_release('7').digest} was evaluated"))

    serving.registry.aliases["challenger"] = "7"
    serving.tick(12)

    assert serving.outcomes[-1] == "rolled_back"
    assert serving.traffic == Traffic.all_to("6")
    assert not [name for name in files(serving) if "v7" in name]


def test_what_failed_is_applied_anew_only_once_the_cluster_has_taken_it_away(
    serving: GitStage,
) -> None:
    serving.operators.behave_to("8", failing(message=f"{a_release('8').digest} was evaluated"))
    target, syncer, operators = serving.target, serving.syncer, serving.operators
    target.apply(a_release("8"))
    for _ in range(3):
        syncer.sync()
        operators.step()

    with pytest.raises(TargetUnavailable, match="once the cluster has taken it away"):
        target.apply(a_release("8"))
    with pytest.raises(TargetUnavailable, match="once the cluster has taken it away"):
        target.apply(a_release("8"))
    syncer.sync()
    operators.step()
    target.apply(a_release("8"))

    assert messages(serving.bare)[-3:] == ["chat: deploy v8"] * 3


def test_a_person_who_pushes_meanwhile_is_not_overwritten(serving: GitStage, tmp_path) -> None:
    work = tmp_path / "work"
    git("-C", work, "pull", "--quiet", "origin", "main")
    (work / "README").write_text("Mind the gap.\n")
    git("-C", work, "commit", "--quiet", "--all", "--message", "a word")
    git("-C", work, "push", "--quiet", "origin", "HEAD:main")

    serving.release("7")

    assert git("-C", serving.bare, "show", "main:README") == "Mind the gap.\n"
    assert serving.traffic == Traffic.all_to("7")


def test_a_push_that_loses_the_race_is_made_anew(tmp_path, monkeypatch) -> None:
    bare = a_repository(tmp_path)
    ours = GitRepository(str(bare), branch="main")
    theirs = GitRepository(str(bare), branch="main")
    ours.read("llm")
    run = GitRepository._run

    def first_they_push(self: GitRepository, clone: Path, *words: str) -> Any:
        if self is ours and words[0] == "push" and "theirs" not in messages(bare):
            theirs.write("llm", {"b.yaml": "b: 1\n"}, message="theirs")
        return run(self, clone, *words)

    monkeypatch.setattr(GitRepository, "_run", first_they_push)
    ours.write("llm", {"a.yaml": "a: 1\n"}, message="ours")

    assert messages(bare)[-2:] == ["theirs", "ours"]
    assert ours.read("llm") == {"a.yaml": b"a: 1\n", "b.yaml": b"b: 1\n"}


@pytest.mark.parametrize(
    "content",
    [
        b"a: 1\n---\nb: 2\n",
        b"{{- if .Values.on }}\na: 1\n{{- end }}\n",
        b"a: caf\xe9\n",
        b"metadata: null\n",
        b"kind: RayService\nmetadata: [1]\n",
        b"metadata: {name: a, labels: [1]}\n",
        b"on: 2026-99-99\n",
    ],
)
def test_what_others_keep_there_keeps_no_weights_from_being_written(tmp_path, content) -> None:
    bare, work = a_repository(tmp_path), tmp_path / "work"
    clone = GitRepository(str(bare), branch="main")
    wanted = GitObjects(clone, folder="llm", endpoint="chat")
    (work / "llm").mkdir()
    (work / "llm" / "theirs.yaml").write_bytes(content)
    git("-C", work, "add", "--all")
    git("-C", work, "commit", "--quiet", "--message", "theirs")
    git("-C", work, "push", "--quiet", "origin", "HEAD:main")

    with wanted.change("ours"):
        assert wanted.list(RAY_SERVICE) == ()
        wanted.ensure(
            Manifest(name="chat.httproute", body={"kind": "HTTPRoute"}), take_back=frozenset()
        )

    assert messages(bare)[-1] == "ours"
    assert clone.read("llm")["theirs.yaml"] == content


@pytest.mark.parametrize("name", ["chat.httproute.yaml", "chat-v7.rayservice.yaml"])
def test_a_file_of_ours_that_cannot_be_read_is_told(tmp_path, name) -> None:
    clone = GitRepository(str(a_repository(tmp_path)), branch="main")
    clone.write("llm", {name: "a: 1\n---\nb: 2\n"}, message="a slip")

    with (
        pytest.raises(TargetRefused, match=f"{name}.*not one YAML document"),
        GitObjects(clone, folder="llm", endpoint="chat").change("ours"),
    ):
        pass


@pytest.mark.parametrize("lock", ["index.lock", "shallow.lock"])
def test_a_lock_that_was_left_in_the_clone_is_gone_at_the_next_look(tmp_path, lock) -> None:
    ours = GitRepository(str(a_repository(tmp_path)), branch="main")
    ours.read("llm")
    assert ours._clone is not None
    (ours._clone / ".git" / lock).touch()

    looks = [
        lambda: ours.read("llm"),
        lambda: ours.write("llm", {"a.yaml": "a: 1\n"}, message="ours"),
    ]

    with pytest.raises(TargetUnavailable, match=lock):
        looks[lock == "index.lock"]()
    ours.write("llm", {"a.yaml": "a: 1\n"}, message="ours")

    assert ours.read("llm") == {"a.yaml": b"a: 1\n"}


def test_what_was_not_committed_is_not_taken_for_the_branch(tmp_path, monkeypatch) -> None:
    ours = GitRepository(str(a_repository(tmp_path)), branch="main")
    run = GitRepository._run

    def no_add(self: GitRepository, clone: Path, *words: str) -> Any:
        return run(self, clone, *(("add", "--no-such") if words[0] == "add" else words))

    with monkeypatch.context() as broken:
        broken.setattr(GitRepository, "_run", no_add)
        with pytest.raises(TargetUnavailable, match="git add failed"):
            ours.write("llm", {"a.yaml": "a: 1\n"}, message="ours")

    assert ours.read("llm") == {}


def test_the_clones_of_a_process_lie_together_and_go_with_it(tmp_path) -> None:
    bare = a_repository(tmp_path)
    text = (
        "import sys; from deploy_targets.git_repository import GitRepository\n"
        f"kept = [GitRepository({str(bare)!r}, branch='main') for _ in range(2)]\n"
        "for one in kept: one.read('llm')\n"
        "print(len({one._clone.parent for one in kept}), kept[0]._clone.is_dir(), kept[0]._clone.parent)"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    count, is_there, place = done.stdout.split()

    assert (count, is_there) == ("1", "True")
    assert not Path(place).exists()


def test_a_clone_is_made_anew_before_it_grows(tmp_path) -> None:
    ours = GitRepository(str(a_repository(tmp_path)), branch="main")
    ours.read("llm")
    first = ours._clone
    ours._refreshes = 200

    ours.read("llm")

    assert ours._clone != first
    assert first is not None
    assert not first.exists()


def test_a_branch_that_takes_no_push_is_told(tmp_path) -> None:
    bare = a_repository(tmp_path)
    hook = bare / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\necho protected >&2\nexit 1\n")
    hook.chmod(0o755)

    with pytest.raises(TargetUnavailable, match="protected"):
        GitRepository(str(bare), branch="main").write("llm", {"a": "1"}, message="no")


@pytest.mark.parametrize(("url", "branch"), [("nowhere", "main"), ("", "other")])
def test_a_repository_or_branch_that_is_not_there_is_told(tmp_path, url, branch) -> None:
    bare = a_repository(tmp_path)
    found = GitRepository(str(tmp_path / url) if url else str(bare), branch=branch)

    with pytest.raises(TargetUnavailable, match="git clone failed"):
        found.read("llm")


def test_a_file_of_somebody_else_is_left_alone(tmp_path) -> None:
    bare = a_repository(tmp_path)
    clone = GitRepository(str(bare), branch="main")
    clone.write("llm", {"chat.httproute.yaml": "metadata: {name: chat}\n"}, message="theirs")
    cluster: Any = None
    kubernetes = {**a_ray_endpoint().cluster.model_dump(), "git": {"repository": str(bare)}}
    route = ray_target(a_ray_endpoint(kubernetes=kubernetes), cluster, git=clone).render(
        a_release("6")
    )[-1]
    wanted = GitObjects(clone, folder="llm", endpoint="chat")

    with (
        pytest.raises(TargetRefused, match="not Shipway's: its labels differ"),
        wanted.change("ours"),
    ):
        wanted.ensure(route, take_back=frozenset())

    assert messages(bare)[-1] == "theirs"


def test_git_without_a_route_is_refused() -> None:
    with pytest.raises((BadInput, ValueError), match="name a gateway, or leave git out"):
        a_ray_endpoint(kubernetes={"namespace": "llm", "image": "e:1", "git": {"repository": "x"}})
