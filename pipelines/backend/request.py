"""What is asked of a cluster: the backend's configuration, and the job that an `mlflow run` makes of it. Pure.

Ray shows a job's command, metadata and environment to everybody who may see its dashboard. So nothing secret goes with a
job: credentials are in the environment of the cluster's own nodes, where the Secret of their pods puts them.
"""

import hashlib
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines.declared import faults_of
from registry.errors import BadInput

STOP_WAIT_S = 60
"""A stage that is told to end closes its MLflow runs first; Ray's own three seconds are too few."""
_SECRET = re.compile(
    r"((^|_)((API|ACCESS)?KEYS?|AUTH|PAT)|SECRETS?|TOKEN|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?)(_|$)",
    re.IGNORECASE,
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_URL = re.compile(r"[A-Za-z0-9._~:/?#@!$&()*+,;=%\[\]-]+")
"""RFC 3986, without the quote: MLflow's filters are asked for an address."""
_PASSED = (
    "SHIPWAY_BUCKET", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION", "MLFLOW_S3_ENDPOINT_URL",
)  # fmt: skip
_GIB = 1 << 30


class BackendConfig(BaseModel):
    """The JSON of `--backend-config`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: str | None = None
    """The dashboard, like `http://ray-head:8265`; RAY_ADDRESS where it is not given."""
    ca_file: Path | None = None
    """Certificates by which an `https` dashboard is known, where the system's do not do."""
    follow: bool = True
    """Whether the command shows the job's log and ends with it."""
    cpus: Annotated[float, Field(ge=0, le=1024)] = 1
    gpus: Annotated[float, Field(ge=0, le=64)] = 0
    memory_gib: Annotated[float, Field(gt=0, le=65536)] | None = None
    env: tuple[str, ...] = _PASSED
    """Variables that the job gets as they are here; those that are not set here are the cluster's own."""
    tracking_uri: str | None = None
    """MLflow as the cluster calls it, where that is not what it is called here."""
    home: str | None = None
    """The state folder (SHIPWAY_HOME) on the cluster; the cluster's own where it is not given."""
    bin: str | None = None
    """A folder on the cluster with `mlflow` and `python`, where they are not on its PATH."""
    exclude: tuple[str, ...] = ()
    """Files and folders of the project that stay here, beside those that always do."""
    max_package_mib: Annotated[int, Field(ge=1, le=500)] = 64
    """Ray itself takes no more than 500 MiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One entry point with its parameters, on a project of that digest, at a cluster."""

    entry_point: str
    parameters: Mapping[str, str]
    package_digest: str
    address: str
    tracking_uri: str

    @property
    def digest(self) -> str:
        """What two of the same command have in common."""
        parts = [
            self.entry_point,
            sorted(self.parameters.items()),
            self.package_digest,
            self.address,
            self.tracking_uri,
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A job as Ray is told it."""

    job_id: str
    command: str
    environment: Mapping[str, str]
    metadata: Mapping[str, str]
    package: Path
    cpus: float
    gpus: float
    memory_bytes: int | None


def parse_config(given: Mapping[str, Any]) -> BackendConfig:
    """The configuration that a user wrote.

    Raises:
        BadInput: it cannot be used; every fault is named with its place.
    """
    try:
        config = BackendConfig.model_validate(given)
    except ValidationError as error:
        faults = "\n".join(f"  {fault}" for fault in faults_of(error))
        message = f"--backend-config cannot be used:\n{faults}\nSee docs/ray-backend.md."
        raise BadInput(message) from error
    wrong = [name for name in config.env if not _NAME.fullmatch(name)]
    if wrong:
        message = f"{', '.join(map(repr, wrong))} in env of --backend-config cannot name a variable; give names alone."
        raise BadInput(message)
    secret = [name for name in config.env if _SECRET.search(name)]
    if secret:
        message = (
            f"{', '.join(secret)} in env of --backend-config may be secret, and Ray shows a job's environment on its "
            "dashboard. Set it in the environment of the cluster's own nodes, and take it out here."
        )
        raise BadInput(message)
    return config


def choose_address(config: BackendConfig, from_environment: str | None) -> str:
    """The dashboard's address.

    Raises:
        BadInput: there is none, there are two, or it is none that jobs can be sent to.
    """
    given, other = ((one or "").rstrip("/") for one in (config.address, from_environment))
    if given and other and given != other:
        message = (
            f"The environment says that Ray is at {_without_user(other)} (RAY_API_SERVER_ADDRESS or RAY_ADDRESS), and "
            f"--backend-config that it is at {_without_user(given)}. Ray's client obeys the environment: unset it, or the other."
        )
        raise BadInput(message)
    address = given or other
    if not address:
        message = (
            "Where is Ray? Give its dashboard's address, like http://ray-head:8265, as `address` in --backend-config or as "
            "RAY_ADDRESS."
        )
        raise BadInput(message)
    if not _is_plain_url(address):
        message = (
            f"Ray's address must be its dashboard's, like http://ray-head:8265, without a name or password in it; it is "
            f"{_without_user(address)!r}."
        )
        raise BadInput(message)
    return address


def choose_tracking_uri(config: BackendConfig, here: str) -> str:
    """MLflow's address for the job.

    Raises:
        BadInput: it is no server's, or has a password in it.
    """
    uri = (config.tracking_uri or here).rstrip("/")
    if not _is_plain_url(uri):
        message = (
            f"A job on a cluster needs MLflow's http address, without a name or password in it; it is {_without_user(uri)!r}. "
            "Set MLFLOW_TRACKING_URI, or `tracking_uri` in --backend-config; a name and password go into the cluster's own "
            "environment, as MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
        )
        raise BadInput(message)
    return uri


def job_id_of(run_id: str) -> str:
    """Ray takes an id once: two clients cannot start two jobs for one run."""
    return f"shipway-{run_id}"


def plan_submission(
    request: Request,
    config: BackendConfig,
    *,
    run_id: str,
    package: Path,
    here: Mapping[str, str],
) -> Submission:
    """The job that goes on with the MLflow run; `here` is the environment from which variables are passed on.

    Raises:
        BadInput: one of them is an address with a password in it.
    """
    words = ["mlflow", "run", ".", "--env-manager", "local", "--run-id", run_id]
    words += ["-e", request.entry_point]
    for name, value in request.parameters.items():
        words += ["-P", f"{name}={value}"]
    passed = {name: here[name] for name in config.env if name in here}
    for name, value in passed.items():
        if urlsplit(value).password is not None:
            message = f"{name} has a password in it, and Ray shows a job's environment on its dashboard. Take it out."
            raise BadInput(message)
    return Submission(
        job_id=job_id_of(run_id),
        command=shlex.join(words),
        environment={
            **passed,
            "MLFLOW_TRACKING_URI": request.tracking_uri,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S),
            **({} if config.home is None else {"SHIPWAY_HOME": config.home}),
            # Ray itself puts the node's own in for the variable.
            **({} if config.bin is None else {"PATH": f"{config.bin}:${{PATH}}"}),
        },
        metadata={"mlflow.run_id": run_id, "mlflow.entry_point": request.entry_point},
        package=package,
        cpus=config.cpus,
        gpus=config.gpus,
        memory_bytes=None if config.memory_gib is None else int(config.memory_gib * _GIB),
    )


def _is_plain_url(address: str) -> bool:
    if not _URL.fullmatch(address):
        return False
    try:
        parts = urlsplit(address)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.username is None
    except ValueError:
        return False


def _without_user(address: str) -> str:
    scheme, found, rest = address.partition("://")
    return f"{scheme}{found}{rest.rpartition('@')[2]}"
