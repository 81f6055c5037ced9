"""A real MLflow server and a real S3 server of their own ports, for whichever tests need them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
from mlflow import MlflowClient

from deploy_targets.local import parts
from deploy_targets.local.home import Home
from deploy_targets.local.process import await_ready, end_all, free_port, spawn
from registry.artifact_store import ArtifactStore, connect_s3, connect_store
from registry.errors import ArtifactStoreUnavailable
from registry.mlflow_registry import MlflowRegistry
from registry.record_store import RecordStore
from registry.settings import RegistrySettings
from registry.tracking import Tracking, connect_mlflow

_PORTS = (
    "s3", "s3_grpc", "weed_master", "weed_master_grpc", "weed_volume", "weed_volume_grpc",
    "weed_filer", "weed_filer_grpc", "mlflow",
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

    def mlflow_answers() -> bool:
        try:
            return httpx2.get(f"{url}/health", timeout=2).is_success
        except httpx2.HTTPError:
            return False

    try:
        for name, answers in (("s3", s3_answers), ("mlflow", mlflow_answers)):
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
        )
    finally:
        alive = [process for record in records.values() if (process := record.find())]
        end_all(alive, patience_s=2)
