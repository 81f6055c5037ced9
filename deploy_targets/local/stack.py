"""`shipway up` and `shipway down`: the parts of a local stack, started, awaited, remembered and ended.

`up` starts what is missing, so it may be repeated, also after a crash. What runs is known from `stack.json`; ports are
kept there, too, so that addresses stay the same as long as nobody else takes them. `parts` says how each is started.
"""

import hashlib
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from http import HTTPStatus
from pathlib import Path

import httpx2
from pydantic import BaseModel, ConfigDict, ValidationError

from deploy_targets.control_plane import read_endpoint_file
from deploy_targets.endpoint import Endpoint, TargetKind
from deploy_targets.guard.access_control import Key, KeyList, hash_of
from deploy_targets.local import parts
from deploy_targets.local.file_lock import locked
from deploy_targets.local.home import Home, Secrets, write_private
from deploy_targets.local.process import (
    ProcessRecord,
    await_ready,
    end_all,
    find_marked,
    free_port,
    spawn,
)
from deploy_targets.local.split import write_first_configuration
from deploy_targets.local.triton_server import triton_environment
from deploy_targets.rollout.follow import check_model
from deploy_targets.rollout.store import SqliteStore
from registry.artifact_store import connect_store
from registry.errors import (
    ArtifactStoreUnavailable,
    ComponentNotReady,
)
from registry.settings import RegistrySettings

Announce = Callable[[str], None]

_USUAL_PORTS = {
    "mlflow": 5000,
    "s3": 8333,
    "s3_grpc": 18333,
    "weed_master": 9333,
    "weed_master_grpc": 19333,
    "weed_volume": 9340,
    "weed_volume_grpc": 19340,
    "weed_filer": 8888,
    "weed_filer_grpc": 18888,
    "ray_gcs": 6379,
    "ray_dashboard": 8265,
    "ray_agent": 12365,
    "ray_agent_grpc": 12366,
    "ray_runtime_env": 12367,
    "ray_metrics": 12368,
    "ray_client": 10001,
    "ray_node_manager": 12369,
    "ray_object_manager": 12370,
    "ray_serve": 8000,
    "controller": 8090,
}
"""Where they are free. None is among those that Linux hands to outgoing connections, where Ray has some of its own."""
_ENDPOINT_PORTS = {"guard": 8080, "guard_admin": 9080, "envoy": 10000, "envoy_admin": 9901}
_LIMIT_S = 120
"""For any part; on an idle machine the slowest takes about ten seconds, on a busy one several times that."""
_PATIENCE_S = 5
_FOREIGN = ("AWS_", "MLFLOW_", "RAY_")


class StackInfo(BaseModel):
    """What `stack.json` holds: what runs, and where."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ports: Mapping[str, int]
    processes: Mapping[str, ProcessRecord]
    endpoint_file: str
    endpoint_digest: str

    @property
    def mlflow_url(self) -> str:
        """MLflow's UI and API."""
        return f"http://127.0.0.1:{self.ports['mlflow']}"

    @property
    def ray_url(self) -> str:
        """Ray's dashboard and Serve's REST API."""
        return f"http://127.0.0.1:{self.ports['ray_dashboard']}"

    def url(self, endpoint: str, part: str) -> str:
        """The address of an endpoint's `guard`, `guard_admin`, `envoy` or `envoy_admin`.

        Raises:
            ComponentNotReady: the stack was not started with that endpoint.
        """
        port = self.ports.get(f"{endpoint}.{part}")
        if port is None:
            message = f"The stack has no {part} of endpoint {endpoint}. `shipway up` starts what the endpoint file declares."
            raise ComponentNotReady(message)
        return f"http://127.0.0.1:{port}"

    def alive(self) -> dict[str, bool]:
        """Which of the started parts still run."""
        return {name: record.find() is not None for name, record in self.processes.items()}


def load_stack(home: Home) -> StackInfo | None:
    """What was started last, or None where nothing ever was.

    Raises:
        ComponentNotReady: `stack.json` cannot be read.
    """
    if not home.stack_file.exists():
        return None
    try:
        return StackInfo.model_validate_json(home.stack_file.read_text())
    except ValidationError as error:
        message = (
            f"{home.stack_file} is not one of this version ({error.error_count()} faults). "
            "Remove it and run `shipway down`; the data stays."
        )
        raise ComponentNotReady(message) from error


def up(home: Home, endpoint_file: Path, *, announce: Announce) -> StackInfo:
    """Starts what does not run yet and returns when all parts are ready.

    Raises:
        ComponentNotReady: a part did not come up; its log is named. What came up keeps running. Or Triton's environment
            is missing, and an endpoint needs it; nothing was started.
        EndpointFileInvalid: nothing was started.
        StateUnreadable: the saved rollouts are of another version of Shipway; nothing was started.
    """
    endpoints = read_endpoint_file(endpoint_file).endpoints
    if any(endpoint.target is TargetKind.LOCAL_TRITON for endpoint in endpoints):
        triton_environment().check()
    with _locked(home):
        store = SqliteStore(home.state_file)
        for endpoint in endpoints:
            check_model(endpoint, store.load(endpoint.name).state)
        # What is on a cluster has its split and its guard there.
        local = tuple(one for one in endpoints if one.target.is_local)
        return _Starter(home, endpoint_file, local, announce).start()


def down(home: Home, *, announce: Announce) -> None:
    """Ends every part by pid, with all children, and whatever Ray left behind. The data stays."""
    with _locked(home):
        info = load_stack(home)
        records = {} if info is None else dict(info.processes)
        # The controller goes first, so that it does not mend what is being taken away.
        for names in (["controller"], [name for name in records if name != "controller"]):
            found = {name: records[name].find() for name in names if name in records}
            alive = {name: process for name, process in found.items() if process is not None}
            for name, process in alive.items():
                announce(f"ending {name} (pid {process.pid})")
            end_all([*alive.values()], patience_s=_PATIENCE_S)
        end_all(find_marked(home.mark()), patience_s=_PATIENCE_S)
        home.remove_ray_temp()
        if info is not None:
            stopped = info.model_copy(update={"processes": {}})
            write_private(home.stack_file, stopped.model_dump_json(indent=1))


def keys_document(secrets: Secrets) -> str:
    """The guard's keys file: names and hashes, never keys."""
    owner = Key(name="owner", sha256=hash_of(secrets.api_key), role="operator")
    return KeyList(keys=(owner,)).document()


class _Starter:
    """One `up`."""

    def __init__(
        self, home: Home, file: Path, endpoints: tuple[Endpoint, ...], announce: Announce
    ) -> None:
        self._home = home
        self._file = file
        self._endpoints = endpoints
        self._announce = announce
        self._secrets = home.secrets()
        home.signing()
        self._digest = hashlib.sha256(file.read_bytes()).hexdigest()
        before = load_stack(home)
        self._processes = {} if before is None else dict(before.processes)
        self._ports: dict[str, int] = {} if before is None else dict(before.ports)
        if before is not None and before.endpoint_digest != self._digest:
            self._end_what_read_the_old_file()

    def start(self) -> StackInfo:
        self._choose_ports()
        chosen = self._parts()
        controller = {"controller": chosen.pop("controller")}
        self._spawn_missing(chosen)
        with httpx2.Client(timeout=2) as http:
            self._await_shared(http)
            self._spawn_missing(controller)
            for endpoint in self._endpoints:
                self._await_url(http, f"{endpoint.name}.envoy", "envoy_admin", "/ready", endpoint)
                self._await_url(http, f"{endpoint.name}.guard", "guard_admin", "/readyz", endpoint)
            url = f"http://127.0.0.1:{self._ports['controller']}/healthz"
            self._await("controller", lambda: _answers(http, url))
        return self._save()

    def _parts(self) -> dict[str, parts.Part]:
        home, secrets, ports = self._home, self._secrets, self._ports
        chosen = {
            "s3": parts.seaweedfs(home, secrets, ports),
            "mlflow": parts.mlflow_server(home, secrets, ports),
        }
        if self._needs_ray:
            chosen["ray"] = parts.ray_head(home, secrets, ports)
            home.make_ray_temp()
        for endpoint in self._endpoints:
            name, folder = endpoint.name, home.endpoint(endpoint.name)
            keys_file = folder / parts.KEYS_FILE
            if not keys_file.exists():
                write_private(keys_file, keys_document(secrets))
            # The guard reads it when it starts, and is started anew when the endpoint file has changed.
            write_private(folder / parts.POLICY_FILE, endpoint.guard.document())
            bootstrap = write_first_configuration(
                home.folder(f"endpoints/{name}/envoy"),
                port=ports[f"{name}.envoy"],
                admin_port=ports[f"{name}.envoy_admin"],
            )
            chosen[f"{name}.envoy"] = parts.envoy_proxy(folder, bootstrap)
            chosen[f"{name}.guard"] = parts.guard(
                endpoint,
                folder=folder,
                port=ports[f"{name}.guard"],
                admin_port=ports[f"{name}.guard_admin"],
                envoy_port=ports[f"{name}.envoy"],
            )
        chosen["controller"] = parts.controller(home, secrets, ports, self._file)
        return chosen

    @property
    def _needs_ray(self) -> bool:
        return any(endpoint.target is TargetKind.LOCAL for endpoint in self._endpoints)

    def _choose_ports(self) -> None:
        """Keeps the ports of what runs; for the rest the last ones where they are free, or the usual ones."""
        wanted = dict(_USUAL_PORTS)
        for endpoint in self._endpoints:
            wanted |= {f"{endpoint.name}.{part}": port for part, port in _ENDPOINT_PORTS.items()}
        if any(self._runs(name) for name in self._processes):
            missing = {name: port for name, port in wanted.items() if name not in self._ports}
            taken = set(self._ports.values())
            self._ports |= {name: free_port(port, taken) for name, port in missing.items()}
            return
        # What a killed stack has left behind would hold the ports until its part is started again.
        end_all(find_marked(self._home.mark()), patience_s=_PATIENCE_S)
        taken: set[int] = set()
        self._ports = {
            name: free_port(self._ports.get(name, port), taken) for name, port in wanted.items()
        }

    def _end_what_read_the_old_file(self) -> None:
        """Guards and the controller read the endpoint file when they start."""
        names = {endpoint.name for endpoint in self._endpoints}
        for name, record in list(self._processes.items()):
            endpoint, _, part = name.partition(".")
            is_gone = part and endpoint not in names
            if name == "controller" or part == "guard" or is_gone:
                if record.find() is not None:
                    self._announce(f"ending {name}: the endpoint file has changed")
                # With an endpoint that is gone go the revisions that its adapter has started.
                mark = f"{self._home.mark()}{endpoint}." if is_gone else self._home.mark(name)
                end_all(find_marked(mark), patience_s=_PATIENCE_S)
                del self._processes[name]
        self._ports = {
            name: port
            for name, port in self._ports.items()
            if name.partition(".")[0] in names or "." not in name
        }

    def _runs(self, name: str) -> bool:
        record = self._processes.get(name)
        return record is not None and record.find() is not None

    def _spawn_missing(self, chosen: Mapping[str, parts.Part]) -> None:
        for name, part in chosen.items():
            if not self._runs(name):
                self._spawn(name, part)

    def _spawn(self, name: str, part: parts.Part) -> None:
        self._announce(f"starting {name}")
        end_all(find_marked(self._home.mark(name)), patience_s=_PATIENCE_S)
        self._processes[name] = spawn(
            part.command,
            log=self._home.log(name),
            environment={**inherited_environment(), **part.environment},
            folder=part.folder,
            mark=self._home.mark(name),
        )
        self._save()

    def _save(self) -> StackInfo:
        info = StackInfo(
            ports=self._ports,
            processes=self._processes,
            endpoint_file=str(self._file.resolve()),
            endpoint_digest=self._digest,
        )
        write_private(self._home.stack_file, info.model_dump_json(indent=1))
        return info

    def _await_shared(self, http: httpx2.Client) -> None:
        self._await("s3", self._buckets_are_there)
        self._await("mlflow", lambda: _answers(http, f"{self._save().mlflow_url}/health"))
        if not self._needs_ray:
            return
        headers = {"Authorization": f"Bearer {self._secrets.ray_token}"}
        applications = f"{self._save().ray_url}/api/serve/applications/"
        self._await("ray", lambda: _answers(http, applications, headers=headers))

    def _await_url(
        self, http: httpx2.Client, name: str, part: str, path: str, endpoint: Endpoint
    ) -> None:
        url = f"http://127.0.0.1:{self._ports[f'{endpoint.name}.{part}']}{path}"
        self._await(name, lambda: _answers(http, url))

    def _await(self, name: str, is_ready: Callable[[], bool]) -> None:
        await_ready(
            name,
            is_ready,
            record=self._processes[name],
            log=self._home.log(name),
            limit_s=_LIMIT_S,
        )
        self._announce(f"{name} is ready")

    def _buckets_are_there(self) -> bool:
        url = f"http://127.0.0.1:{self._ports['s3']}"
        with httpx2.Client(timeout=2) as http:
            if not _answers(http, f"{url}/healthz"):
                return False
        for bucket in (parts.BUCKET, parts.MLFLOW_BUCKET):
            settings = RegistrySettings(bucket=bucket, s3_endpoint_url=url)
            try:
                connect_store(
                    settings, keys=(self._secrets.s3_access_key, self._secrets.s3_secret_key)
                ).ensure_bucket()
            except ArtifactStoreUnavailable:
                return False
        return True


def _answers(http: httpx2.Client, url: str, *, headers: Mapping[str, str] | None = None) -> bool:
    try:
        return http.get(url, headers=headers).status_code == HTTPStatus.OK
    except httpx2.HTTPError:
        return False


def inherited_environment() -> dict[str, str]:
    """This process's environment without what would turn a part to another server or account than this stack's."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}


def _locked(home: Home) -> AbstractContextManager[None]:
    """One `up` or `down` at a time in a home."""
    return locked(home.folder("") / "stack.lock")
