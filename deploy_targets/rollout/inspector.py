"""Looks at a version before it is rolled out: its artifact in S3, the signature over it, and the names behind its request and its approval."""

from deploy_targets.endpoint import Endpoint
from deploy_targets.rollout.admission import Inspection
from registry.artifact_store import ArtifactStore
from registry.asked_by import approved_by, asked_by
from registry.errors import IntegrityError, NotFound
from registry.release import ModelVersion, Release
from registry.signing import TrustedKeys
from registry.verification import check_release


class ReleaseInspector:
    """For one endpoint."""

    def __init__(
        self,
        artifacts: ArtifactStore,
        endpoint: Endpoint,
        *,
        secret: str | None,
        trusted: TrustedKeys | None,
    ) -> None:
        """`secret` is the one that MLflow's server signs names with; without it no name is known.

        With `trusted` keys every version has to be signed by one of them; without, signatures are not looked at.
        """
        self._artifacts = artifacts
        self._trusted = trusted
        self._endpoint = endpoint
        self._secret = secret

    def inspect(self, version: ModelVersion, release: Release) -> Inspection:
        """What is found.

        Raises:
            ArtifactStoreUnavailable: S3 does not answer: nothing is known.
        """
        fault = ""
        try:
            check_release(release, self._artifacts, self._trusted)
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
