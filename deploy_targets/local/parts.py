"""What each part of the local stack is started with: command line, environment, files. No process is started here.

The flags are those under which the parts hold up on one shared machine: every listener on loopback, no second port
that is not asked for, no telemetry. Ports come in, secrets come in, nothing is read from the environment.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deploy_targets.endpoint import Endpoint
from deploy_targets.local.home import Home, Secrets, write_private

BIN = Path(sys.executable).parent
REGION = "us-east-1"
BUCKET = "shipway"
MLFLOW_BUCKET = "mlflow"
KEYS_FILE, POLICY_FILE, SPOOL_FOLDER = "keys.json", "guard-policy.json", "spool"
"""Of a guard, in its endpoint's folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """How one part is started."""

    command: tuple[str, ...]
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    """In addition to the process's own."""


def s3_environment(secrets: Secrets, *, port: int) -> dict[str, str]:
    """What a client of the S3 server needs."""
    return {
        "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": secrets.s3_access_key,
        "AWS_SECRET_ACCESS_KEY": secrets.s3_secret_key,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def seaweedfs(home: Home, secrets: Secrets, ports: Mapping[str, int]) -> Part:
    """SeaweedFS with its S3 gateway. Its filer refuses strangers only with keys in `security.toml`."""
    folder = home.folder("s3")
    identity = {
        "name": "shipway",
        "credentials": [{"accessKey": secrets.s3_access_key, "secretKey": secrets.s3_secret_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    write_private(folder / "identities.json", json.dumps({"identities": [identity]}))
    sections = ("jwt.signing", "jwt.signing.read", "jwt.filer_signing", "jwt.filer_signing.read")
    security = "".join(f'[{section}]\nkey = "{secrets.filer_key}"\n' for section in sections)
    write_private(folder / "security.toml", security)
    data = home.folder("s3/data")
    return Part(
        command=(
            str(BIN / "weed"),
            "-logtostderr=true",
            "server",
            f"-dir={data.resolve()}",
            "-s3",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-s3.port={ports['s3']}",
            "-s3.config=identities.json",
            f"-master.port={ports['weed_master']}",
            f"-master.port.grpc={ports['weed_master_grpc']}",
            f"-volume.port={ports['weed_volume']}",
            f"-volume.port.grpc={ports['weed_volume_grpc']}",
            f"-filer.port={ports['weed_filer']}",
            f"-filer.port.grpc={ports['weed_filer_grpc']}",
            f"-s3.port.grpc={ports['s3_grpc']}",
            "-master.peers=none",
            "-master.telemetry=false",
            "-master.volumeSizeLimitMB=1024",
            "-volume.max=0",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
        ),
        folder=folder,
    )


def mlflow_server(home: Home, secrets: Secrets, ports: Mapping[str, int]) -> Part:
    """MLflow's server with one worker, on SQLite; artifacts go through it to S3, so that clients need no S3 keys.

    Its app is Shipway's, which tells the controller of stage transitions, too.
    """
    folder = home.folder("mlflow")
    return Part(
        command=(
            str(BIN / "mlflow"),
            "server",
            "--app-name=shipway",
            "--host=127.0.0.1",
            f"--port={ports['mlflow']}",
            "--workers=1",
            f"--backend-store-uri=sqlite:///{(folder / 'mlflow.db').resolve()}",
            f"--artifacts-destination=s3://{MLFLOW_BUCKET}/",
        ),
        folder=folder,
        environment={
            **s3_environment(secrets, port=ports["s3"]),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.mlflow_flask_key,
            "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": secrets.webhook_encryption_key,
            # The controller's receiver is plain HTTP on loopback, which MLflow refuses to call by default.
            "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
            "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
            "MLFLOW_WEBHOOK_CACHE_TTL": "1",
            "SHIPWAY_CONTROLLER_URL": f"http://127.0.0.1:{ports['controller']}",
            "SHIPWAY_WEBHOOK_SECRET": secrets.webhook_secret,
        },
    )


def ray_environment(home: Home, secrets: Secrets, ports: Mapping[str, int]) -> dict[str, str]:
    """What Ray and everything that talks to it needs; replicas inherit the S3 access and their cache folder."""
    return {
        **s3_environment(secrets, port=ports["s3"]),
        "SHIPWAY_BUCKET": BUCKET,
        "SHIPWAY_HOME": str(home.path.resolve()),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.ray_token,
        # Ray binds its workers to loopback only in this mode.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DISABLE_IMPORT_WARNING": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


def ray_head(home: Home, secrets: Secrets, ports: Mapping[str, int]) -> Part:
    """A Ray of one node. It is blocked in the foreground, so that one pid stands for all of it."""
    return Part(
        command=(
            str(BIN / "ray"),
            "start",
            "--head",
            "--block",
            "--node-ip-address=127.0.0.1",
            f"--port={ports['ray_gcs']}",
            "--dashboard-host=127.0.0.1",
            f"--dashboard-port={ports['ray_dashboard']}",
            f"--dashboard-agent-listen-port={ports['ray_agent']}",
            f"--dashboard-agent-grpc-port={ports['ray_agent_grpc']}",
            f"--runtime-env-agent-port={ports['ray_runtime_env']}",
            f"--metrics-export-port={ports['ray_metrics']}",
            f"--ray-client-server-port={ports['ray_client']}",
            f"--node-manager-port={ports['ray_node_manager']}",
            f"--object-manager-port={ports['ray_object_manager']}",
            # 0: any free port, so that two copies on one machine do not meet.
            "--min-worker-port=0",
            "--max-worker-port=0",
            f"--temp-dir={home.ray_temp}",
            "--num-cpus=8",
            "--object-store-memory=200000000",
            "--disable-usage-stats",
        ),
        folder=home.folder("ray"),
        environment=ray_environment(home, secrets, ports),
    )


def envoy_proxy(folder: Path, bootstrap: Path) -> Part:
    """One endpoint's Envoy."""
    return Part(
        command=(
            str(BIN / "envoy"),
            "--config-path",
            str(bootstrap.resolve()),
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "--log-level",
            "warning",
        ),
        folder=folder,
    )


def guard(
    endpoint: Endpoint,
    *,
    folder: Path,
    port: int,
    admin_port: int,
    envoy_port: int,
) -> Part:
    """One endpoint's guard; its keys and its policy lie in `folder`."""
    return Part(
        command=(sys.executable, "-m", "deploy_targets.guard"),
        folder=folder,
        environment={
            "SHIPWAY_GUARD_ENDPOINT": endpoint.name,
            "SHIPWAY_GUARD_UPSTREAM_URL": f"http://127.0.0.1:{envoy_port}",
            "SHIPWAY_GUARD_PROTOCOL": endpoint.target.protocol,
            "SHIPWAY_GUARD_PORT": str(port),
            "SHIPWAY_GUARD_ADMIN_PORT": str(admin_port),
            "SHIPWAY_GUARD_AUTH": endpoint.serving.auth,
            "SHIPWAY_GUARD_KEYS_FILE": str((folder / KEYS_FILE).resolve()),
            "SHIPWAY_GUARD_POLICY_FILE": str((folder / POLICY_FILE).resolve()),
            "SHIPWAY_GUARD_SPOOL_FOLDER": str((folder / SPOOL_FOLDER).resolve()),
            # Envoy's own 504 names the version that did not answer, so Envoy must be the first to give up.
            "SHIPWAY_GUARD_TIMEOUT_S": str(endpoint.serving.timeout_s + 5),
        },
    )


def controller(home: Home, secrets: Secrets, ports: Mapping[str, int], endpoint_file: Path) -> Part:
    """The controller of all endpoints in the file."""
    return Part(
        command=(
            sys.executable,
            "-m",
            "deploy_targets.cli",
            "controller",
            "--file",
            str(endpoint_file.resolve()),
        ),
        folder=home.folder("controller"),
        environment={
            **client_environment(home, secrets, ports),
            "SHIPWAY_CONTROLLER_PORT": str(ports["controller"]),
            "SHIPWAY_WEBHOOK_SECRET": secrets.webhook_secret,
        },
    )


def client_environment(home: Home, secrets: Secrets, ports: Mapping[str, int]) -> dict[str, str]:
    """What a pipeline or a script needs to use this stack."""
    return {
        **s3_environment(secrets, port=ports["s3"]),
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{ports['mlflow']}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "SHIPWAY_BUCKET": BUCKET,
        "SHIPWAY_HOME": str(home.path.resolve()),
    }
