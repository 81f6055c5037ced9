"""May this version be rolled out? What is looked at besides its gate, before anything is deployed. Pure.

An `Inspection` is what the shell found: whether the artifact in S3 is the one that was evaluated, and
signed, and who asked and approved.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol, Self

from deploy_targets.endpoint import Endpoint
from registry.asked_by import Actor
from registry.engines import explain_misfit
from registry.promotion import RegistryFacts, check_gate
from registry.release import APPROVAL_TAG, ModelVersion, Refused, Release


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What was found about the version that is asked for."""

    version: str
    artifact_fault: str = ""
    """What is wrong with its bytes, or with the signature over them; empty when nothing is."""
    asked_by: Actor | None = None
    approved_by: Actor | None = None
    may_be_named: bool = False
    """MLflow's server and the controller share the secret by which names are signed."""

    def named_after(self, closed: datetime | None) -> Self:
        """The same without the name of whoever asked before the last request was closed: that was another request."""
        if closed is None or self.asked_by is None or self.asked_by.at > closed:
            return self
        return replace(self, asked_by=None)


class Inspector(Protocol):
    """Looks at a version before it is rolled out."""

    def inspect(self, version: ModelVersion, release: Release) -> Inspection:
        """What is found, or Unavailable."""
        ...


NAMES_LATE_S = 5.0
"""MLflow's app writes who asked some milliseconds after the request itself can be seen."""


def admit(
    endpoint: Endpoint,
    facts: RegistryFacts,
    version: str,
    inspection: Inspection | None,
    *,
    waited_s: float,
    serving: Release | None = None,
) -> Release | Refused | None:
    """The release, or every reason against it; None while that cannot be told, and its gate is not against it.

    `waited_s` is for how long it has been asked for. Its scores are compared with those of what is `serving`.
    """
    known = facts.versions.get(version)
    if known is None:
        reason = f"{facts.model} has no version {version}: it was deleted."
        return Refused(version=version, reasons=(reason,))
    champion = None if serving is None else facts.versions.get(serving.version)
    gated = check_gate(known, serving=champion)
    if isinstance(gated, Refused):
        return gated
    if misfit := explain_misfit(known.tags, endpoint.serving_engine):
        return Refused(version=version, reasons=(f"{endpoint.model} v{version}: {misfit}.",))
    if inspection is None or inspection.version != version:
        return None
    is_nameless = endpoint.promote.approval != "none" and inspection.asked_by is None
    if is_nameless and inspection.may_be_named and waited_s < NAMES_LATE_S:
        return None
    approval = _objection(endpoint, inspection, is_approved=APPROVAL_TAG in known.tags)
    reasons = tuple(reason for reason in (inspection.artifact_fault, approval) if reason)
    return Refused(version=version, reasons=reasons) if reasons else gated


def _objection(endpoint: Endpoint, inspection: Inspection, *, is_approved: bool) -> str:
    """What is missing of the approval that the endpoint asks for; empty when nothing is."""
    wanted, version = endpoint.promote.approval, f"{endpoint.model} v{inspection.version}"
    asked, approved = inspection.asked_by, inspection.approved_by
    if wanted == "none":
        return ""
    if not is_approved:
        return (
            f"{version} is not approved: endpoint {endpoint.name} asks for it. Have somebody else than you set the "
            f"version's tag {APPROVAL_TAG}, and ask again."
        )
    if asked is not None and approved is not None:
        if asked.user != approved.user:
            return ""
        return f"{version} was approved by {approved.user}, who also asks for it. Have somebody else set {APPROVAL_TAG}, and ask again."
    if wanted == "tag" and asked is None:
        return ""
    unknown = "who asks for" if asked is None else "who approved"
    return (
        f"It is not known {unknown} {version}, so nobody can tell two persons. Do both through an MLflow server that knows "
        "its users and runs `--app-name shipway-basic-auth`, and ask again."
    )
