"""A controller with many endpoints: `python -m tests.bench.controller [clicks] [polls] [rest] [cold]`; all of them by default.

A real MLflow (Shipway's app, SQLite) with a thousand models of ten versions and a real S3; the controller is a process of its
own. For `clicks`, `polls` and `rest` its hundred targets are in its memory (`controlled`); for `cold` it is `shipway
controller` itself, five hundred endpoints and the stand-in for an API server. Times are this machine's, so they are printed
with its name and load, and not tested.
"""

import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import psutil
import yaml
from kubernetes import client, config

from deploy_targets.local import parts
from deploy_targets.local.home import Home
from deploy_targets.local.process import free_port
from deploy_targets.local.stack import StackInfo
from deploy_targets.rollout.settings import ControllerSettings
from deploy_targets.rollout.store import SqliteStore
from registry.signing import SigningKey
from tests.bench.figures import Figure, machine, tell
from tests.bench.many_models import MODELS, VERSIONS, an_artifact, fill_mlflow, model_name
from tests.builders import GATEWAY
from tests.kubernetes_api.resources import crd_folder
from tests.servers import Servers, start_servers

ENDPOINTS, CLUSTER_ENDPOINTS = 100, 500
CLICKS, SILENT_CLICKS = 100, 40
POLL_S = ControllerSettings().poll_s
REST_PERIODS = 4
LIMIT_S = 300.0
_ENDPOINT_PARTS = ("guard", "guard_admin", "envoy", "envoy_admin")


class Running:
    """A controller's process, and what it tells of itself."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = psutil.Process(process.pid)
        self._popen = process
        self._url = f"http://127.0.0.1:{port}/metrics"

    def numbers(self, name: str) -> dict[str, float]:
        """The samples of that series, by their labels; none while the page is not there."""
        try:
            page = httpx2.get(self._url, timeout=30).text
        except httpx2.HTTPError:
            assert self._popen.poll() is None, "the controller ended: see its log"
            return {}
        found = re.findall(rf"^{name}(?:\{{(.*)\}})? (\S+)$", page, flags=re.MULTILINE)
        return {labels: float(value) for labels, value in found}

    def looks(self) -> float:
        """How many came to their end well."""
        return self.numbers("shipway_reconcile_seconds_count").get('result="done"', 0)

    def until_looked(self, number: int) -> float:
        """The time on the steady clock when so many looks had ended."""
        deadline = time.monotonic() + LIMIT_S
        while self.looks() < number:
            assert time.monotonic() < deadline, f"{self.looks()} looks in {LIMIT_S} s"
            time.sleep(0.1)
        return time.monotonic()

    def cpu_s(self) -> float:
        """Used so far."""
        used = self.process.cpu_times()
        return used.user + used.system


@contextmanager
def running(
    command: list[str], *, port: int, log: Path, environment: dict[str, str]
) -> Iterator[Running]:
    """The process until the end of the block."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SHIPWAY_")}
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, *command],
            stdout=out,
            stderr=out,
            env={**kept, **environment, "SHIPWAY_CONTROLLER_PORT": str(port)},
        )
    try:
        yield Running(process, port)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Bench:
    """MLflow and S3 with their load, and the local world around them."""

    def __init__(self, folder: Path, servers: Servers) -> None:
        self.folder, self.servers = folder, servers
        self.applied = folder / "applied"
        self.applied.touch()
        self.mlflow_log = Home(folder).log("mlflow")
        names = [f"e{number:03d}" for number in range(ENDPOINTS)]
        self.models = {name: model_name(number) for number, name in enumerate(names)}
        self._file = folder / "endpoints.yaml"
        document = [{"name": name, "model": model} for name, model in self.models.items()]
        self._file.write_text(yaml.safe_dump({"apiVersion": "shipway/v1", "endpoints": document}))
        ports = {f"{name}.{part}": 1 for name in names for part in _ENDPOINT_PARTS}
        for name, variable in (("mlflow", "MLFLOW_TRACKING_URI"), ("s3", "AWS_ENDPOINT_URL_S3")):
            ports[name] = int(servers.environment[variable].rsplit(":", 1)[1])
        ports |= {"ray_dashboard": 1, "ray_serve": 1, "controller": servers.controller_port}
        info = StackInfo(ports=ports, processes={}, endpoint_file="", endpoint_digest="")
        Home(folder).stack_file.write_text(info.model_dump_json())

    @contextmanager
    def controller(self, *, hears: bool) -> Iterator[Running]:
        """With a hundred endpoints at rest; one that does not hear gets no hint of anybody."""
        environment = {"SHIPWAY_HOME": str(self.folder), "SHIPWAY_POLL_S": str(POLL_S)}
        port = free_port(0, set())
        if hears:
            environment["SHIPWAY_WEBHOOK_SECRET"] = self.servers.webhook_secret
            port = self.servers.controller_port
        command = ["-m", "tests.bench.controlled", str(self._file), str(self.applied)]
        log = self.folder / "controller.log"
        with running(command, port=port, log=log, environment=environment) as one:
            one.until_looked(2 * ENDPOINTS)
            yield one

    def until_at_rest(self) -> None:
        """Returns when no state was saved for a whole poll period: all is told and recorded."""
        store = SqliteStore(Home(self.folder).state_file)
        began = since = time.monotonic()
        seen: list[object] = []
        while time.monotonic() - since < 1.2 * POLL_S:
            assert time.monotonic() - began < LIMIT_S, "states are saved again and again"
            saved: list[object] = [store.load(name).revision for name in self.models]
            if saved != seen:
                seen, since = saved, time.monotonic()
            time.sleep(1)
        print(f"the last state was saved after {since - began:.0f} s", flush=True)

    def click(self, endpoint: str) -> tuple[float, float]:
        """Asks for version 2 there; when that began, and when MLflow answered."""
        began = time.monotonic()
        self.servers.client.set_registered_model_alias(self.models[endpoint], "challenger", "2")
        return began, time.monotonic()

    def withdraw(self, endpoint: str) -> None:
        self.servers.client.delete_registered_model_alias(self.models[endpoint], "challenger")

    def acts(self) -> dict[str, float]:
        """When version 2 of each endpoint was first asked for, in the order of the file."""
        first: dict[str, float] = {}
        for line in self.applied.read_text().splitlines():
            endpoint, _, at = line.split()
            first.setdefault(endpoint, float(at))
        return first

    def requests(self) -> int:
        """That MLflow has answered so far, by its own log."""
        return self.mlflow_log.read_text().count(" HTTP/1.1")

    def mlflow(self) -> psutil.Process:
        """The process that answers them."""
        port = int(self.servers.environment["MLFLOW_TRACKING_URI"].rsplit(":", 1)[1])
        for one in psutil.process_iter():
            if any(c.laddr.port == port and c.status == "LISTEN" for c in connections(one)):
                return one
        message = "nobody listens on MLflow's port"
        raise AssertionError(message)

    def forget_acts(self) -> None:
        self.applied.write_text("")


def connections(process: psutil.Process) -> list[Any]:
    """Its sockets; none where it is gone or another user's."""
    try:
        return process.net_connections("tcp")
    except psutil.Error:
        return []


def told(what: str, seconds: list[float], target_s: float) -> None:
    """The lines of one way."""
    what = f"{what}, {len(seconds)} times"
    tell(Figure(what=f"{what}, median", value=statistics.median(seconds), unit="s"))
    p95 = statistics.quantiles(seconds, n=20)[-1]
    tell(Figure(what=f"{what}, p95", value=p95, unit="s", at_most=target_s))
    tell(Figure(what=f"{what}, most", value=max(seconds), unit="s"))


def clicks(bench: Bench) -> None:
    """One click after another, each on an endpoint at rest."""
    with bench.controller(hears=True):
        bench.forget_acts()
        seconds: list[float] = []
        answers: list[float] = []
        for endpoint in random.Random(1).sample(sorted(bench.models), CLICKS):
            began, answered = bench.click(endpoint)
            deadline = began + LIMIT_S
            while endpoint not in bench.acts():
                assert time.monotonic() < deadline, endpoint
                time.sleep(0.002)
            seconds.append(bench.acts()[endpoint] - began)
            answers.append(answered - began)
            bench.withdraw(endpoint)
            time.sleep(random.uniform(0.1, 0.5))
    told("click to act, with hints", seconds, 1.0)
    tell(
        Figure(
            what="of which MLflow's own answer, median", value=statistics.median(answers), unit="s"
        )
    )


def polls(bench: Bench) -> None:
    """Clicks that nobody tells of, spread over a poll period."""
    with bench.controller(hears=False):
        bench.forget_acts()
        began: dict[str, float] = {}
        for endpoint in random.Random(2).sample(sorted(bench.models), SILENT_CLICKS):
            began[endpoint], _ = bench.click(endpoint)
            time.sleep(POLL_S / SILENT_CLICKS)
        deadline = time.monotonic() + LIMIT_S
        while not began.keys() <= bench.acts().keys():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        acts = bench.acts()
        for endpoint in began:
            bench.withdraw(endpoint)
    seconds = [acts[endpoint] - at for endpoint, at in began.items()]
    told("click to act, without hints", seconds, POLL_S + 2)


def rest(bench: Bench) -> None:
    """What a controller takes where nothing happens, and what it asks of MLflow."""
    with bench.controller(hears=True) as one:
        mlflow = bench.mlflow()

        def used() -> tuple[float, float, int, float]:
            theirs = mlflow.cpu_times()
            return one.cpu_s(), theirs.user + theirs.system, bench.requests(), one.looks()

        bench.until_at_rest()
        before, began = used(), time.monotonic()
        time.sleep(REST_PERIODS * POLL_S)
        after, seconds = used(), time.monotonic() - began
        ours, theirs, requests, looks = (b - a for a, b in zip(before, after, strict=True))
        memory = one.process.memory_info().rss / 2**20
    share = ours / seconds
    where = f"at rest, {looks / seconds:.1f} looks/s at a poll of {POLL_S:g} s"
    tell(
        Figure(what=f"{where}: CPU, of a core", value=share * 100, unit="%", at_most=1),
        Figure(what="CPU of a look", value=ours / looks * 1000, unit="ms"),
        Figure(what=f"{where}: memory", value=memory, unit="MiB", at_most=300),
        Figure(what=f"{where}: requests to MLflow", value=requests / seconds, unit="/s"),
        Figure(what=f"{where}: MLflow's CPU, of a core", value=theirs / seconds * 100, unit="%"),
    )


def cold(bench: Bench) -> None:
    """Five hundred endpoints of which nothing is known: admitted, saved, applied, told; then the same process anew."""
    folder = bench.folder / "cluster"
    folder.mkdir()
    kubeconfig = folder / "kubeconfig"
    endpoints = [
        {
            "name": f"e{number:03d}",
            "model": model_name(ENDPOINTS + number),
            "target": "ray-serve",
            "kubernetes": {
                "namespace": "llm",
                "image": "engine:1",
                "gateway": {**GATEWAY, "hostname": f"e{number:03d}.example.com"},
            },
        }
        for number in range(CLUSTER_ENDPOINTS)
    ]
    file = folder / "endpoints.yaml"
    file.write_text(yaml.safe_dump({"apiVersion": "shipway/v1", "endpoints": endpoints}))
    api = subprocess.Popen(
        [sys.executable, "-m", "tests.kubernetes_api", str(kubeconfig)], env=os.environ
    )
    try:
        deadline = time.monotonic() + LIMIT_S
        while not kubeconfig.exists():
            assert api.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        cluster = config.new_client_from_config(str(kubeconfig))
        for name in ("shipway", "llm"):
            body = client.V1Namespace(metadata=client.V1ObjectMeta(name=name))
            client.CoreV1Api(cluster).create_namespace(body)
        environment = {
            **bench.servers.environment,
            "KUBECONFIG": str(kubeconfig),
            "SHIPWAY_CONTROL_PLANE": "kubernetes",
            "SHIPWAY_KUBE_CONTEXT": "standing-in",
            "SHIPWAY_GATEWAY_URL": "http://127.0.0.1:1",
            "SHIPWAY_GUARD_METRICS_URL": "http://127.0.0.1:1/{endpoint}",
        }
        command = ["-m", "deploy_targets.cli", "controller", "-f", str(file)]
        for what in ("from cold", "anew, with 500 rollouts under way"):
            began = time.monotonic()
            with running(
                command,
                port=free_port(0, set()),
                log=folder / "controller.log",
                environment=environment,
            ) as one:
                while not one.numbers("shipway_leader").get(""):
                    time.sleep(0.05)
                led = time.monotonic()
                # Each endpoint's first good look leaves it with a rollout; looks alone may be second ones.
                deadline = time.monotonic() + LIMIT_S
                while (under_way := sum(one.numbers("shipway_rollouts").values())) < len(endpoints):
                    assert time.monotonic() < deadline, under_way
                    time.sleep(0.1)
                ended = time.monotonic()
                memory, cpu_s = one.process.memory_info().rss / 2**20, one.cpu_s()
            services = client.CustomObjectsApi(cluster).list_namespaced_custom_object(
                "ray.io", "v1", "llm", "rayservices"
            )["items"]
            assert len(services) == under_way == CLUSTER_ENDPOINTS, (len(services), under_way)
            seconds = ended - began
            start = f"{CLUSTER_ENDPOINTS} endpoints {what}"
            tell(
                Figure(what=f"{start}, since its start", value=seconds, unit="s", at_most=30),
                Figure(what=f"{start}, since it leads", value=ended - led, unit="s"),
                Figure(what=f"{start}: CPU", value=cpu_s, unit="s"),
                Figure(what=f"{start}: memory", value=memory, unit="MiB"),
            )
    finally:
        api.terminate()
        api.wait(timeout=30)


SECTIONS = {"clicks": clicks, "polls": polls, "rest": rest, "cold": cold}


def here() -> str:
    """Where numbers are taken, and how busy it is."""
    return f"{machine()}, load {' '.join(f'{one:.1f}' for one in os.getloadavg())}"


def main(wanted: list[str]) -> None:
    """Print the sections that were named."""
    assert crd_folder()
    print(f"{MODELS} models x {VERSIONS} versions, {ENDPOINTS} endpoints; {here()}", flush=True)
    with tempfile.TemporaryDirectory(prefix="shipway-bench-") as name:
        folder = Path(name) / "home"
        artifact = an_artifact()
        aliases = {
            "champion": range(ENDPOINTS),
            "challenger": range(ENDPOINTS, ENDPOINTS + CLUSTER_ENDPOINTS),
        }
        began = time.monotonic()
        database = Home(folder).folder("mlflow") / "mlflow.db"
        fill_mlflow(database, artifact, aliases, bucket=parts.BUCKET)
        print(f"MLflow's database was filled in {time.monotonic() - began:.0f} s", flush=True)
        with start_servers(folder) as servers:
            stored = servers.store.put(artifact)
            key = SigningKey.read(Home(folder).signing().key_file)
            servers.store.sign(stored.source, key.sign(stored.manifest))
            bench = Bench(folder, servers)
            for section in wanted or SECTIONS:
                SECTIONS[section](bench)
    print(f"at the end: {here()}")


if __name__ == "__main__":
    main(sys.argv[1:])
