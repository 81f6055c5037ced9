"""The whole local stack, every part the real one, from `up` to `down`; only the models are tiny.

One stack serves all of this module, and its tests run in the order in which they stand: each finds what the one before
has left, as a user would.
"""

import getpass
import io
import ipaddress
import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from deploy_targets.cli import main
from deploy_targets.control_plane import read_endpoint_file
from deploy_targets.load import LoadPlan
from deploy_targets.local import stack
from deploy_targets.local.compose import Composition
from deploy_targets.local.demo import _BUG
from deploy_targets.local.demo_traffic import Clients, talk
from deploy_targets.local.home import Home
from deploy_targets.local.process import ProcessRecord, find_marked
from deploy_targets.local.stack import StackInfo
from deploy_targets.monitoring import limits, recordings
from deploy_targets.rollout.journal import PastRollout, past_rollouts
from deploy_targets.rollout.status import Status
from deploy_targets.target import Observed
from registry.artifact_store import StoredArtifact
from registry.promotion import CHAMPION, MoveAlias
from registry.release import DIGEST_TAG
from registry.signing import SigningKey
from tests.builders import gate_tags
from tests.monitoring.prometheus import Prometheus, a_prometheus
from tests.monitoring.promtool import program

pytestmark = pytest.mark.real

LIMIT_S = 240
POLL_S = 40
ENDPOINTS = """
apiVersion: shipway/v1
endpoints:
  - name: chat
    model: tiny
    resources: {cpus: 0.1, memory_gib: 0.1}
    engine: {max_context_tokens: 256}
    rollout:
      steps: [{weight: 25, dwell_s: 2, requests: 2}, {weight: 50, dwell_s: 1}]
      settle_s: 3  # of requests that Prometheus sees before anything is judged
      promote: {by: exposure, requests: 30}
      drain_s: 1
    serving: {timeout_s: 30}
"""


class Stack:
    """What runs, seen from outside."""

    def __init__(self, folder: Path, endpoints: str = ENDPOINTS) -> None:
        self.home = Home(folder / "home")
        self.file = folder / "endpoints.yaml"
        self.file.write_text(endpoints)
        self.endpoint = read_endpoint_file(self.file).endpoints[0]
        self.said: list[str] = []
        self.up()
        self.prometheus: Prometheus | None = None
        """Scrapes the guard, where it is installed."""

    def up(self) -> StackInfo:
        self._read(stack.up(self.home, self.file, announce=self.said.append))
        return self.info

    def _read(self, info: StackInfo) -> None:
        self.info = info
        self.composition = Composition(self.home, info, read_endpoint_file(self.file))
        self.registry = self.composition.registry()

    def of_part(self, part: str) -> list[psutil.Process]:
        """Its processes; none where it is gone."""
        process = self.info.processes[part].find()
        return [] if process is None else [process, *process.children(recursive=True)]

    def cli(self, *words: str, code: int = 0) -> str:
        """What the command said, on whichever way out. It runs in this process, which has everything loaded."""
        said = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(said):
            patch.setenv("SHIPWAY_HOME", str(self.home.path))
            patch.setattr(sys, "argv", ["shipway", *words, *self._file_of(words[0])])
            with pytest.raises(SystemExit) as ended:
                main()
        assert ended.value.code == code, said.getvalue()
        return said.getvalue()

    def _file_of(self, command: str) -> tuple[str, ...]:
        return () if command in {"env", "down"} else ("-f", str(self.file))

    def store(self, folder: Path, *, signed: bool = True) -> StoredArtifact:
        """The model in S3, as the pipeline leaves it there."""
        artifacts = self.composition.artifacts()
        stored = artifacts.put(folder)
        if signed:
            key = SigningKey.read(self.home.signing().key_file)
            artifacts.sign(stored.source, key.sign(stored.manifest))
        return stored

    def register(self, folder: Path, *, gate: bool = True, signed: bool = True) -> str:
        stored = self.store(folder, signed=signed)
        tags = {DIGEST_TAG: str(stored.manifest.digest)}
        if gate:
            tags |= gate_tags()
        return self.registry.register("tiny", source=stored.source, run_id=None, tags=tags)[0]

    def point(self, alias: str, version: str | None) -> None:
        """The click."""
        self.registry.write("tiny", MoveAlias(alias=alias, version=version))

    @property
    def aliases(self) -> Mapping[str, str]:
        return self.registry.aliases("tiny")

    @property
    def status(self) -> Status:
        return self.composition.status(self.endpoint)

    def observed(self) -> Observed:
        with closing(self.composition.target(self.endpoint)) as target:
            return target.observe()

    def answered(self, version: str) -> tuple[str, str]:
        """What Shipway wrote on that version."""
        tags = self.registry.version("tiny", version).tags
        return tags.get("shipway.status", ""), tags.get("shipway.reason", "")

    def past(self, version: str, status: str) -> PastRollout:
        """The newest rollout, once it is that of `version` and has come to `status`."""
        found: list[PastRollout] = []

        def is_there() -> bool:
            found[:] = past_rollouts(self.composition.tracking(), self.endpoint, limit=1)
            return [(one.version, one.status) for one in found] == [(version, status)]

        self.until(is_there)
        return found[0]

    def until(self, holds: Callable[[], bool]) -> float:
        """Seconds until it holds."""
        began = time.monotonic()
        while not holds():
            log = self.home.log("controller")
            assert time.monotonic() - began < LIMIT_S, (self.status, log.read_text()[-3000:])
            time.sleep(0.1)
        return time.monotonic() - began

    def is_quiet(self) -> bool:
        """Whether nothing is left to be done: one version serves, and all is recorded."""
        state = self.composition.store().load("chat").state
        quiet = state.rollout is None and not state.unreported and not state.audit.pending
        return quiet and len(self.observed().revisions) == 1 and set(self.aliases) == {CHAMPION}

    def clients(self, **plan: Any) -> Clients:
        plan.setdefault("api_key", self.home.secrets().api_key)
        url = self.info.url("chat", "guard")
        return Clients(LoadPlan(url=url, model="chat", requests=100_000, max_tokens=4, **plan))

    def processes(self) -> list[psutil.Process]:
        return find_marked(f"{self.home.path.resolve()}|")


def guards_usual_port() -> int:
    return stack._ENDPOINT_PORTS["guard"]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with ExitStack() as kept, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHIPWAY_POLL_S", str(POLL_S))
        patch.setenv("SHIPWAY_TICK_S", "0.5")
        with suppress(OSError):  # whoever else has it serves as well
            kept.enter_context(socket.create_server(("127.0.0.1", guards_usual_port())))
        folder = tmp_path_factory.mktemp("stack")
        try:
            running = Stack(folder)
            if shutil.which("prometheus"):
                admin = running.info.url("chat", "guard_admin").removeprefix("http://")
                watching = a_prometheus(folder, endpoint="chat", guard_admin=admin)
                running.prometheus = kept.enter_context(watching)
            yield running
        finally:
            stack.down(Home(folder / "home"), announce=print)


def test_up_starts_every_part_on_loopback_alone_and_works_round_a_taken_port(
    running: Stack,
) -> None:
    assert set(running.info.alive()) == {
        "s3", "ray", "mlflow", "chat.envoy", "chat.guard", "controller",
    }  # fmt: skip
    assert all(running.info.alive().values())
    assert running.info.ports["chat.guard"] != guards_usual_port()
    for process in running.processes():
        assert_on_loopback(process)


def assert_on_loopback(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        for one in process.net_connections("inet"):
            if one.status == psutil.CONN_LISTEN:
                address = ipaddress.ip_address(one.laddr.ip)
                inner = getattr(address, "ipv4_mapped", None) or address
                assert inner.is_loopback, (process.cmdline(), one.laddr)


def test_up_again_starts_nothing_twice(running: Stack) -> None:
    before, said = running.info.processes, len(running.said)

    assert running.up().processes == before

    assert not [line for line in running.said[said:] if line.startswith("starting")]


def test_a_first_release_becomes_champion_and_answers(
    running: Stack, model: Callable[..., Path]
) -> None:
    first = running.register(model(1))

    running.point("challenger", first)

    assert running.until(lambda: running.status.challenger == first) < POLL_S / 4
    running.until(lambda: running.aliases == {CHAMPION: first})
    running.past(first, "promoted")
    running.until(lambda: running.answered(first)[0] == "promoted")
    url = f"{running.info.url('chat', 'guard')}/v1/chat/completions"
    key = running.home.secrets().api_key
    whole, streamed = (talk(url, key, "chat", "hello", stream=one) for one in (False, True))
    assert whole == streamed != ""
    for process in running.processes():
        assert_on_loopback(process)


def test_a_good_challenger_is_promoted_under_load_though_controller_and_mlflow_die_on_the_way(
    running: Stack, model: Callable[..., Path]
) -> None:
    good = running.register(model(2))
    with running.clients() as clients:
        clients.wait_for_answers(4)
        running.point("challenger", good)
        running.until(lambda: running.status.phase == "stepping")
        dying = [*running.of_part("mlflow"), *running.of_part("controller")]
        for process in dying:
            process.kill()
        psutil.wait_procs(dying, timeout=10)
        running.up()
        running.until(lambda: running.aliases == {CHAMPION: good})
        clients.wait_for_answers(clients.report.requests + 20)

    assert clients.report.failures == 0
    assert clients.report.versions[good].requests >= 30
    run = run_of(running, running.past(good, "promoted"), "FINISHED")
    steps, weights = zip(*metric(running, run, "weight_percent"), strict=True)
    assert list(steps) == sorted(set(steps))
    assert {25, 50} <= set(weights)
    assert metric(running, run, "challenger_requests")[-1][1] >= 30


def run_of(running: Stack, past: PastRollout, status: str) -> Any:
    client = running.composition.tracking()._client
    # Told by its tags first, then drawn, then closed.
    running.until(lambda: client.get_run(past.run_id).info.status != "RUNNING")
    run = client.get_run(past.run_id)
    assert run.info.status == status
    assert run.data.tags["shipway.reason"] == past.reason != ""
    assert {one.path for one in client.list_artifacts(past.run_id)} == {
        "audit",
        "policy.yaml",
        "rollout.png",
    }
    return run


def metric(running: Stack, run: Any, name: str) -> list[tuple[int, float]]:
    history = running.composition.tracking()._client.get_metric_history(run.info.run_id, name)
    return [(one.step, one.value) for one in history]


def test_a_bad_challenger_is_rolled_back_by_its_numbers(
    running: Stack, model: Callable[..., Path]
) -> None:
    champion = running.aliases[CHAMPION]
    bug = "{%- if messages[0]['role'] == 'system' -%}" + _BUG + "{%- endif -%}"
    bad = running.register(model(3, bug))
    with running.clients(system_share=0.5) as clients:
        clients.wait_for_answers(4)
        running.point("challenger", bad)
        running.until(lambda: running.answered(bad)[0] == "turned_down")
        running.until(lambda: running.status.traffic == {champion: 100})

    running.until(lambda: running.aliases == {CHAMPION: champion})
    assert "; worse: e-value " in running.answered(bad)[1]
    own = clients.report.versions[bad].failures
    assert own > 0
    assert clients.report.failures == own
    run = run_of(running, running.past(bad, "rolled_back"), "FAILED")
    assert run.data.tags["shipway.outcome"] == "rolled_back"
    assert metric(running, run, "challenger_errors")[-1][1] > 0


def test_a_real_prometheus_beside_it_has_recorded_each_version_and_blames_the_right_one(
    running: Stack,
) -> None:
    program("prometheus")
    watched = running.prometheus
    assert watched is not None
    champion, bad = running.aliases[CHAMPION], running.registry.versions("tiny")[0].version
    pair = {("chat", champion), ("chat", bad)}
    for recording in recordings.BY_VERSION:
        watched.until(
            lambda name=recording.record: (
                pair <= {(labels["endpoint"], labels["version"]) for labels, _ in watched.ask(name)}
            )
        )
    ratios = watched.values(recordings.ERROR_RATIO.record)

    assert ratios[champion] == 0
    assert ratios[bad] > limits.ERROR_RATIO
    assert "HighErrorRate" in watched.firing(bad)
    assert "HighErrorRate" not in watched.firing(champion)


def test_a_version_without_a_gate_is_refused_and_told_why(
    running: Stack, model: Callable[..., Path]
) -> None:
    champion = running.aliases[CHAMPION]
    unproven = running.register(model(4), gate=False)

    running.point("challenger", unproven)

    running.until(lambda: running.answered(unproven)[0] == "turned_down")
    assert "has no gate result" in running.answered(unproven)[1]
    running.until(lambda: running.aliases == {CHAMPION: champion})
    assert "has no gate result" in running.cli("promote", "chat", unproven, code=1)
    assert "MLflow does not have version 99" in running.cli("promote", "chat", "99", code=2)
    assert running.aliases == {CHAMPION: champion}


def test_a_version_that_is_not_signed_is_refused_and_told_why(
    running: Stack, model: Callable[..., Path]
) -> None:
    champion = running.aliases[CHAMPION]
    unsigned = running.register(model(5), signed=False)

    running.point("challenger", unsigned)

    running.until(lambda: running.answered(unsigned)[0] == "turned_down")
    assert "is not signed" in running.answered(unsigned)[1]
    running.until(lambda: running.aliases == {CHAMPION: champion})
    assert "is not signed" in running.cli("verify", "tiny", unsigned, code=1)
    assert "signed with the trusted key" in running.cli("verify", "tiny", champion)


def test_a_champion_moved_by_hand_is_put_back_and_becomes_the_request(running: Stack) -> None:
    champion = running.aliases[CHAMPION]

    running.point(CHAMPION, "1")

    running.until(lambda: running.aliases == {CHAMPION: champion, "challenger": "1"})
    assert running.status.traffic == {champion: 100}
    said = running.cli("rollback", "chat", "--reason", "not that one")
    assert "the rollout of v1 ends" in said
    running.until(
        lambda: (
            running.answered("1")
            == ("turned_down", f"rolled back: operator {getpass.getuser()}: not that one")
        )
    )
    running.until(lambda: running.aliases == {CHAMPION: champion})


def test_a_request_by_the_command_line_can_be_withdrawn(running: Stack) -> None:
    champion = running.aliases[CHAMPION]
    # It was just turned down: it can be asked for again once its alias was seen to be gone.
    running.until(lambda: not running.status.turned_down)
    assert "Would write: alias challenger of tiny → v1" in running.cli(
        "promote", "chat", "1", "--dry-run"
    )
    assert running.aliases == {CHAMPION: champion}

    running.cli("promote", "chat", "1")
    running.until(lambda: running.status.challenger == "1")
    running.point("challenger", None)

    running.past("1", "withdrawn")
    assert running.status.serving == champion


def test_an_operator_goes_back_at_once_without_a_canary(running: Stack) -> None:
    champion = running.aliases[CHAMPION]

    with running.clients() as clients:
        clients.wait_for_answers(1)
        assert "tiny v1 serves again" in running.cli("rollback", "chat")
        running.until(lambda: running.aliases == {CHAMPION: "1"})
        clients.wait_for_answers(clients.report.requests + 4)

    assert clients.report.failures == 0
    running.until(lambda: running.answered(champion)[0] == "turned_down")


def test_the_command_line_tells_what_is_there(running: Stack, tmp_path: Path) -> None:
    status = json.loads(running.cli("status", "--json"))
    assert status["endpoints"][0]["traffic"] == {"1": 100}
    assert all(status["parts"].values())
    past = json.loads(running.cli("history", "chat", "--json"))
    assert [(one["version"], one["status"]) for one in past] == [
        ("1", "withdrawn"),
        ("1", "rolled_back"),
        ("3", "rolled_back"),
        ("2", "promoted"),
        ("1", "promoted"),
    ]
    assert "tiny v1 serves" in running.cli("watch", "chat", "--looks", "1")
    assert "import_path" in running.cli("render", "chat", "--version", "2")
    assert "Wrote 2 documents" in running.cli("render", "--all", "-o", str(tmp_path))
    assert "FAIL" not in running.cli("doctor")
    assert "SHIPWAY_API_KEY=sk-shipway-" in running.cli("env")


def test_the_command_line_sends_requests_and_lists_garbage_without_deleting(
    running: Stack,
) -> None:
    load = json.loads(running.cli("load", "chat", "--requests", "5", "--json"))
    assert (load["requests"], load["failures"]) == (5, 0)
    versions = running.registry.versions("tiny")
    listed = running.cli("gc", "--keep-last", "0", "--keep-days", "0")
    assert "would delete tiny v3" in listed
    assert "tiny v1" not in listed
    assert running.registry.versions("tiny") == versions


def test_a_part_that_died_is_told_of_and_started_again_where_it_was(running: Stack) -> None:
    before = running.info
    os.kill(before.processes["chat.envoy"].pid, signal.SIGKILL)
    running.until(lambda: not running.info.alive()["chat.envoy"])
    assert "DOWN  chat.envoy" in running.cli("status", code=1)
    assert "chat.envoy.log" in running.cli("doctor", code=1)

    after = running.up()

    assert after.ports == before.ports
    changed = {name for name in after.processes if after.processes[name] != before.processes[name]}
    assert changed == {"chat.envoy"}
    assert running.status.traffic == {"1": 100}
    assert json.loads(running.cli("load", "chat", "--requests", "3", "--json"))["failures"] == 0


def test_down_leaves_nothing_alive_not_even_what_ray_started(running: Stack) -> None:
    ray = running.info.processes["ray"].find()
    assert ray is not None
    before = [
        ProcessRecord(pid=one.pid, started=one.create_time())
        for one in {*running.processes(), *ray.children(recursive=True)}
    ]
    assert len(before) > 10

    running.cli("down")

    assert running.processes() == []
    assert [one for one in before if one.find()] == []
    assert not running.home.ray_temp.parent.exists()
