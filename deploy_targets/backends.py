"""MLflow and S3, as a controller has them wherever it lives, and what is made of them for one endpoint.

`local.compose` and `in_cluster.compose` say where the two are and whose they are; all else about them is the same.
"""

import ssl
from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any

from deploy_targets.endpoint import Endpoint
from deploy_targets.kubernetes_targets import trusted
from deploy_targets.rollout.audit_trail import AuditTrail
from deploy_targets.rollout.controller import Unit
from deploy_targets.rollout.inspector import ReleaseInspector
from deploy_targets.rollout.journal import Journal
from deploy_targets.rollout.mirror import GuardMirror
from deploy_targets.rollout.observe import GuardMetrics
from deploy_targets.rollout.picture_process import PictureProcess
from deploy_targets.rollout.smoke import SmokeTest
from deploy_targets.target import Target
from registry.artifact_store import ArtifactStore
from registry.mlflow_registry import MlflowRegistry
from registry.record_store import RecordStore
from registry.s3 import connect_s3
from registry.settings import RegistrySettings
from registry.signing import TrustedKeys
from registry.tracking import Tracking, connect_mlflow


class Backends(ABC):
    """One MLflow server and one S3 bucket."""

    @abstractmethod
    def registry_settings(self) -> RegistrySettings:
        """Where they are."""

    @abstractmethod
    def s3_keys(self) -> tuple[str, str] | None:
        """Access key and secret key; None leaves them to AWS' own chain."""

    @abstractmethod
    def webhook_secret(self) -> str | None:
        """With which MLflow's app signs names; without it no name is known."""

    @abstractmethod
    def trusted_keys(self) -> TrustedKeys | None:
        """What signatures are checked with; None where none are asked for."""

    def registry(self) -> MlflowRegistry:
        """The model registry."""
        return MlflowRegistry(self._mlflow)

    def tracking(self) -> Tracking:
        """The runs."""
        return self._tracking

    def artifacts(self) -> ArtifactStore:
        """The models in S3."""
        return ArtifactStore(self._s3, bucket=self.registry_settings().bucket)

    def records(self) -> RecordStore:
        """What is written once, in S3."""
        return RecordStore(self._s3, bucket=self.registry_settings().bucket)

    @abstractmethod
    def target(self, endpoint: Endpoint) -> Target:
        """The target of one endpoint."""

    @abstractmethod
    def guard_counts(self, endpoint: Endpoint) -> GuardMetrics:
        """What the guards in front of the endpoint count."""

    @abstractmethod
    def smoke(self, endpoint: Endpoint) -> SmokeTest:
        """Asks one version of the endpoint, behind the guard."""

    def unit(self, endpoint: Endpoint) -> Unit:
        """Everything that the controller needs for one endpoint.

        Raises:
            BadInput: an address that the environment has to name is not set.
        """
        counters = self.guard_counts(endpoint)
        inspector = ReleaseInspector(
            self.artifacts(), endpoint, secret=self.webhook_secret(), trusted=self.trusted_keys()
        )
        return Unit(
            endpoint=endpoint,
            target=self.target(endpoint),
            counters=counters,
            smoke=self.smoke(endpoint),
            record=Journal(self.tracking(), endpoint, draw=self._pictures.draw),
            trail=AuditTrail(self.records(), self.tracking(), endpoint=endpoint.name),
            inspector=inspector,
            mirror=None
            if endpoint.guard.shadow is None
            else GuardMirror(counters, endpoint=endpoint.name),
        )

    @cached_property
    def _tracking(self) -> Tracking:
        """One for all endpoints: what is bounded there is bounded for the process."""
        return Tracking(self._mlflow)

    @cached_property
    def _pictures(self) -> PictureProcess:
        """One for all endpoints, for it draws one picture at a time."""
        return PictureProcess()

    @cached_property
    def _mlflow(self) -> Any:
        return connect_mlflow(self.registry_settings())

    @cached_property
    def _s3(self) -> Any:
        """One for all endpoints, as the other: a client of its own for each took most of the controller's memory."""
        return connect_s3(self.registry_settings(), keys=self.s3_keys())

    @cached_property
    def trust(self) -> ssl.SSLContext:
        """For every client of HTTP."""
        return trusted()
