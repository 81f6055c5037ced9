"""Real parts of a local stack for tests that need some of them: Ray, an Envoy, a guard, each on ports of its own."""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest

from deploy_targets.endpoint import Endpoint
from deploy_targets.local import parts
from deploy_targets.local.adapter import LocalTarget
from deploy_targets.local.home import Home, write_private
from deploy_targets.local.process import await_ready, end_all, find_marked, free_port, spawn
from deploy_targets.local.split import Split, write_first_configuration
from deploy_targets.local.stack import keys_document
from deploy_targets.local.triton_adapter import LocalTritonTarget
from deploy_targets.local.triton_server import triton_environment

_RAY_PORTS = (
    "ray_gcs", "ray_dashboard", "ray_agent", "ray_agent_grpc", "ray_runtime_env", "ray_metrics",
    "ray_client", "ray_node_manager", "ray_object_manager", "ray_serve",
)  # fmt: skip

needs_triton = pytest.mark.skipif(
    not triton_environment().is_ready,
    reason="Triton's own environment is missing: run `make setup-triton`",
)


class Platform:
    """Starts parts; all of them, with their children, end with the block of `a_platform`."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.secrets = home.secrets()
        self.ports: dict[str, int] = {}
        self._taken: set[int] = set()
        self.ray: httpx2.Client | None = None
        self.clients = ExitStack()

    @property
    def mark(self) -> str:
        return self.home.mark()

    def start_ray(self, environment: Mapping[str, str], bin_folder: Path = parts.BIN) -> None:
        """`environment` says where S3 is; `bin_folder` may be that of another Python environment."""
        self._choose(*_RAY_PORTS, "s3")
        self.home.make_ray_temp()
        part = parts.ray_head(self.home, self.secrets, self.ports)
        part = replace(part, command=(str(bin_folder / "ray"), *part.command[1:]))
        self.ray = self._client("ray_dashboard")
        self.ray.headers["Authorization"] = f"Bearer {self.secrets.ray_token}"
        url = "/api/serve/applications/"
        self._start("ray", part, {**part.environment, **environment}, self.ray, url)

    def start_envoy(self, name: str) -> None:
        self._choose(f"{name}.envoy", f"{name}.envoy_admin")
        bootstrap = write_first_configuration(
            self.envoy_folder(name),
            port=self.ports[f"{name}.envoy"],
            admin_port=self.ports[f"{name}.envoy_admin"],
        )
        part = parts.envoy_proxy(self.home.endpoint(name), bootstrap)
        self._start(f"{name}.envoy", part, part.environment, self.envoy_admin(name), "/ready")

    def start_guard(self, endpoint: Endpoint) -> None:
        name = endpoint.name
        self._choose(f"{name}.guard", f"{name}.guard_admin")
        write_private(self.home.endpoint(name) / parts.KEYS_FILE, keys_document(self.secrets))
        write_private(self.home.endpoint(name) / parts.POLICY_FILE, endpoint.guard.document())
        part = parts.guard(
            endpoint,
            folder=self.home.endpoint(name),
            port=self.ports[f"{name}.guard"],
            admin_port=self.ports[f"{name}.guard_admin"],
            envoy_port=self.ports[f"{name}.envoy"],
        )
        admin = self._client(f"{name}.guard_admin")
        self._start(f"{name}.guard", part, part.environment, admin, "/readyz")

    def start_front(self, endpoint: Endpoint) -> None:
        """An Envoy and a guard, with no version behind them yet."""
        self.start_envoy(endpoint.name)
        self.start_guard(endpoint)

    def target(self, endpoint: Endpoint, ray: httpx2.Client | None = None) -> LocalTarget:
        """An adapter that knows nothing yet; `ray` in the place of the real one."""
        client = ray or self.ray
        assert client is not None
        return LocalTarget(
            endpoint,
            ray=client,
            split=self.split(endpoint),
            serve_port=self.ports["ray_serve"],
            folder=self.envoy_folder(endpoint.name),
            lock_file=self.home.folder("ray") / "applications.lock",
        )

    def triton_target(
        self, endpoint: Endpoint, environment: Mapping[str, str], split: Split | None = None
    ) -> LocalTritonTarget:
        """An adapter that knows nothing yet; `environment` says where S3 is."""
        http = self.clients.enter_context(httpx2.Client(timeout=30))
        return LocalTritonTarget(
            endpoint,
            split=split or self.split(endpoint),
            http=http,
            home=self.home,
            environment={**os.environ, **environment},
        )

    def split(self, endpoint: Endpoint) -> Split:
        return Split(
            endpoint,
            admin=self.envoy_admin(endpoint.name),
            folder=self.envoy_folder(endpoint.name),
        )

    def envoy_admin(self, name: str) -> httpx2.Client:
        return self._client(f"{name}.envoy_admin")

    def envoy_folder(self, name: str) -> Path:
        return self.home.folder(f"endpoints/{name}/envoy")

    def url(self, port: str) -> str:
        return f"http://127.0.0.1:{self.ports[port]}"

    def _client(self, port: str) -> httpx2.Client:
        client = httpx2.Client(base_url=self.url(port), timeout=30)
        return self.clients.enter_context(client)

    def _choose(self, *names: str) -> None:
        for name in names:
            self.ports.setdefault(name, free_port(0, self._taken))

    def _start(
        self,
        name: str,
        part: parts.Part,
        environment: Mapping[str, str],
        client: httpx2.Client,
        path: str,
    ) -> None:
        def answers() -> bool:
            try:
                return client.get(path).is_success
            except httpx2.HTTPError:
                return False

        record = spawn(
            part.command,
            log=self.home.log(name),
            environment={**os.environ, **environment},
            folder=part.folder,
            mark=f"{self.mark}{name}|",
        )
        await_ready(name, answers, record=record, log=self.home.log(name), limit_s=120)


@contextmanager
def a_platform(folder: Path) -> Iterator[Platform]:
    """Nothing runs yet."""
    platform = Platform(Home(folder))
    try:
        yield platform
    finally:
        platform.clients.close()
        end_all(find_marked(platform.mark), patience_s=5)
        platform.home.remove_ray_temp()
