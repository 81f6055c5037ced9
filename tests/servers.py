"""A real MLflow server and a real S3 server of their own ports, for whichever tests need them."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import httpx2
import uvicorn
from mlflow import MlflowClient
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from deploy_targets.local import parts
from deploy_targets.local.home import Home
from deploy_targets.local.process import await_ready, end_all, free_port, spawn
from deploy_targets.rollout.nudge import HintCheck, nudge_app
from registry.artifact_store import ArtifactStore, connect_store
from registry.errors import ArtifactStoreUnavailable
from registry.events import Event
from registry.mlflow_registry import MlflowRegistry
from registry.record_store import RecordStore
from registry.s3 import connect_s3
from registry.settings import RegistrySettings
from registry.tracking import Tracking, connect_mlflow

_PORTS = (
    "s3", "s3_grpc", "weed_master", "weed_master_grpc", "weed_volume", "weed_volume_grpc",
    "weed_filer", "weed_filer_grpc", "mlflow", "controller",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Servers:
    """What runs, and the environment in which a pipeline uses it."""

    environment: dict[str, str]
    store: ArtifactStore
    records: RecordStore
    registry: MlflowRegistry
    tracking: Tracking
    client: MlflowClient
    """MLflow's own client, to look behind the adapters."""
    controller_port: int
    """Where MLflow's app sends its hints; nobody listens there unless a test does."""
    webhook_secret: str


@contextmanager
def start_servers(folder: Path) -> Iterator[Servers]:
    """Both servers, ready, with their data in `folder`; ended with the block."""
    home = Home(folder)
    secrets = home.secrets()
    taken: set[int] = set()
    ports = {name: free_port(0, taken) for name in _PORTS}
    records = {
        name: spawn(
            part.command,
            log=home.log(name),
            environment={**os.environ, **part.environment},
            folder=part.folder,
        )
        for name, part in (
            ("s3", parts.seaweedfs(home, secrets, ports)),
            ("mlflow", parts.mlflow_server(home, secrets, ports)),
        )
    }
    url = f"http://127.0.0.1:{ports['mlflow']}"
    keys = (secrets.s3_access_key, secrets.s3_secret_key)
    settings = RegistrySettings(tracking_uri=url, s3_endpoint_url=f"http://127.0.0.1:{ports['s3']}")

    def s3_answers() -> bool:
        try:
            with httpx2.Client(timeout=2) as http:
                if not http.get(f"{settings.s3_endpoint_url}/healthz").is_success:
                    return False
            for bucket in (parts.BUCKET, parts.MLFLOW_BUCKET):
                named = settings.model_copy(update={"bucket": bucket})
                connect_store(named, keys=keys).ensure_bucket()
        except (httpx2.HTTPError, ArtifactStoreUnavailable):
            return False
        return True

    try:
        for name, answers in (("s3", s3_answers), ("mlflow", lambda: _is_healthy(url))):
            await_ready(name, answers, record=records[name], log=home.log(name), limit_s=120)
        client = connect_mlflow(settings)
        yield Servers(
            environment={
                "MLFLOW_TRACKING_URI": url,
                "SHIPWAY_BUCKET": parts.BUCKET,
                **parts.s3_environment(secrets, port=ports["s3"]),
            },
            store=connect_store(settings, keys=keys),
            records=RecordStore(connect_s3(settings, keys=keys), bucket=settings.bucket),
            registry=MlflowRegistry(client),
            tracking=Tracking(client),
            client=client,
            controller_port=ports["controller"],
            webhook_secret=secrets.webhook_secret,
        )
    finally:
        alive = [process for record in records.values() if (process := record.find())]
        end_all(alive, patience_s=2)


@contextmanager
def start_mlflow(
    folder: Path, *options: str, environment: Mapping[str, str], controller_port: int
) -> Iterator[str]:
    """The address of an MLflow like the stack's, but with these options as well, and without S3; ended with the block."""
    home = Home(folder)
    taken: set[int] = {controller_port}
    ports = {name: free_port(0, taken) for name in ("s3", "mlflow")}
    ports["controller"] = controller_port
    part = parts.mlflow_server(home, home.secrets(), ports)
    record = spawn(
        (*part.command, *options),
        log=home.log("mlflow"),
        environment={**os.environ, **part.environment, **environment},
        folder=part.folder,
    )
    url = f"http://127.0.0.1:{ports['mlflow']}"
    try:
        await_ready(
            "mlflow", lambda: _is_healthy(url), record=record, log=home.log("mlflow"), limit_s=120
        )
        yield url
    finally:
        process = record.find()
        end_all([process] if process else [], patience_s=2)


class Receiver:
    """A controller's HTTP side: it hears what MLflow really sends, and wakes nobody."""

    def __init__(self, port: int, secret: str) -> None:
        """Listens on loopback."""
        self.woken = threading.Event()
        check = HintCheck(secret, lambda: datetime.now(UTC))
        app = nudge_app(
            check,
            wake=lambda _: self.woken.set(),
            is_alive=lambda: True,
            is_ready=lambda: True,
            numbers=CollectorRegistry(),
        )
        self._server = uvicorn.Server(
            uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", lifespan="off")
        )

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive()
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=5)

    @contextmanager
    def hints(self) -> Iterator[Callable[[str, int], list[Mapping[str, Any]]]]:
        """A function that waits for so many hints of a sender, accepted since the block began. Blocks may not be nested."""
        with capture_logs() as lines:

            def wait(sender: str, number: int) -> list[Mapping[str, Any]]:
                deadline = time.monotonic() + 60
                while True:
                    found = [
                        one
                        for one in lines
                        if (one["event"], one["sender"]) == (Event.HINT_ACCEPTED, sender)
                    ]
                    if len(found) >= number:
                        return found
                    assert time.monotonic() < deadline, lines
                    time.sleep(0.01)

            yield wait


def _is_healthy(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/health", timeout=2).is_success
    except httpx2.HTTPError:
        return False
