"""What the commands and the controller's process need of wherever the controller lives: one machine, or a cluster.

`local.compose` and `in_cluster.compose` are the two; SHIPWAY_CONTROL_PLANE chooses. What runs models is another matter:
each endpoint names its target.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pydantic_settings import BaseSettings, SettingsConfigDict

from deploy_targets.endpoint import Endpoint, EndpointFile, parse_endpoints
from registry.errors import EndpointFileInvalid

if TYPE_CHECKING:
    from deploy_targets.rollout.controller import Unit
    from deploy_targets.rollout.leadership import Leadership
    from deploy_targets.rollout.observe import GuardMetrics
    from deploy_targets.rollout.settings import ControllerSettings
    from deploy_targets.rollout.status import Status
    from deploy_targets.rollout.store import StateStore
    from deploy_targets.rollout.webhook import HookAddress
    from registry.artifact_store import ArtifactStore
    from registry.mlflow_registry import MlflowRegistry
    from registry.record_store import RecordStore
    from registry.signing import TrustedKeys
    from registry.tracking import Tracking


class Place(StrEnum):
    """Where the controller lives."""

    LOCAL = "local"
    KUBERNETES = "kubernetes"


class ControlPlaneSettings(BaseSettings):
    """Environment variables with the prefix SHIPWAY_."""

    model_config = SettingsConfigDict(env_prefix="SHIPWAY_", frozen=True, extra="ignore")

    control_plane: Place = Place.LOCAL
    """Which controller the commands speak to: that of the local stack, or that of a cluster."""


class ControlPlane(Protocol):
    """The clients of one controller's world."""

    @property
    def file(self) -> EndpointFile:
        """The endpoints."""
        ...

    def registry(self) -> "MlflowRegistry":
        """The model registry."""
        ...

    def tracking(self) -> "Tracking":
        """The runs."""
        ...

    def artifacts(self) -> "ArtifactStore":
        """The models in S3."""
        ...

    def trusted_keys(self) -> "TrustedKeys | None":
        """What signatures are checked with; None where none are asked for."""
        ...

    def records(self) -> "RecordStore":
        """What is written once, in S3."""
        ...

    def store(self) -> "StateStore":
        """The states of the endpoints."""
        ...

    def unit(self, endpoint: Endpoint) -> "Unit":
        """Everything that the controller needs for one endpoint."""
        ...

    def guard_counts(self, endpoint: Endpoint) -> "GuardMetrics":
        """What the guards in front of the endpoint count."""
        ...

    def spools(self) -> Mapping[str, tuple[Path, int]] | None:
        """Where guards keep what they record until it is shipped, by endpoint; and for how many days it is kept then.

        None where the controller cannot read what they keep.
        """
        ...

    def leadership(self, settings: "ControllerSettings") -> "Leadership":
        """How controllers of this world agree on which of them may act."""
        ...

    def hook_address(self) -> "HookAddress":
        """Where MLflow reaches the controller."""
        ...

    def guard_url(self, endpoint: Endpoint) -> str:
        """Where clients call the endpoint, without /v1."""
        ...

    def wake_controller(self) -> str:
        """Has the controller look now. What to do where it did not hear; empty where it did."""
        ...

    def status(self, endpoint: Endpoint) -> "Status":
        """Where the endpoint stands now."""
        ...

    def parts(self) -> Mapping[str, bool]:
        """Which processes belong to this world, and whether they run."""
        ...


def utc_now() -> datetime:
    """The clock of the shell."""
    return datetime.now(UTC)


def read_endpoint_file(path: Path) -> EndpointFile:
    """The endpoints declared at `path`.

    Raises:
        EndpointFileInvalid: it cannot be read, or is not valid.
    """
    try:
        text = path.read_text()
    except OSError as error:
        message = f"The endpoint file {path} cannot be read ({error.strerror}). Name another one with --file."
        raise EndpointFileInvalid(message) from error
    return parse_endpoints(text, origin=str(path))
