"""Looks at a version before it is rolled out: its artifact in S3, and the names behind its request and its approval."""

from deploy_targets.endpoint import Endpoint
from deploy_targets.rollout.admission import Inspection
from registry.artifact_store import ArtifactStore
from registry.asked_by import approved_by, asked_by
from registry.errors import IntegrityError, NotFound
from registry.release import ModelVersion, Release


class ReleaseInspector:
    """For one endpoint."""

    def __init__(self, artifacts: ArtifactStore, endpoint: Endpoint, *, secret: str | None) -> None:
        """`secret` is the one that MLflow's server signs names with; without it no name is known."""
        self._artifacts = artifacts
        self._endpoint = endpoint
        self._secret = secret

    def inspect(self, version: ModelVersion, release: Release) -> Inspection:
        """What is found.

        Raises:
            ArtifactStoreUnavailable: S3 does not answer: nothing is known.
        """
        fault = ""
        try:
            self._artifacts.check(release.source, release.digest)
        except (IntegrityError, NotFound) as error:
            fault = str(error)
        named = self._secret is not None
        secret = self._secret or ""
        return Inspection(
            version=version.version,
            artifact_fault=fault,
            asked_by=asked_by(version, self._endpoint.trigger, secret) if named else None,
            approved_by=approved_by(version, secret) if named else None,
            may_be_named=named,
        )
