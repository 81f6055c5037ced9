"""What an InferenceService says about the versions that it runs, in both of KServe's modes. Pure.

`Ready` alone is never believed: it stays True in mid-rollout (kserve#4626), and `observedGeneration` there is that of a
Deployment. What counts: the Deployments themselves, `modelStatus`, and in Knative mode which revision is ready and which
one the requests go to. Every Deployment carries the version's label, for KServe and Knative hand labels down.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from deploy_targets.manifest import VERSION_LABEL, Object, part, parts
from deploy_targets.pod_status import (
    condition,
    count_restarts,
    explain_deployment,
    explain_pods,
)
from deploy_targets.routing.traffic import Traffic
from deploy_targets.target import Observed, Readiness, Revision
from deploy_targets.triton.manifest import beside_of, retiring_of
from registry.release import Release

REVISION_LABEL = "serving.knative.dev/revision"
_MODE_NAMES = {"RawDeployment": "Standard", "Serverless": "Knative"}
"""What KServe called its modes before 0.17."""
_BROKEN = {"BlockedByFailedLoad", "InvalidSpec"}
_ALL = 100


def version_of(found: Object) -> str:
    """The version that the object's label names; empty where it has none."""
    return str(part(found, "metadata", "labels").get(VERSION_LABEL, ""))


def read_standard(
    service: Object, deployments: Sequence[Object], pods: Sequence[Object], *, fewest: int
) -> Revision:
    """The one version of an InferenceService in Standard mode; `fewest` replicas must be available."""
    readiness, reason = _model(service, mode="Standard")
    if readiness is Readiness.READY:
        readiness, reason = _pods_answer(deployments, pods, fewest=fewest)
    else:
        reason = _explain(deployments, pods) or reason
    return Revision(
        version=version_of(service),
        readiness=readiness,
        reason=reason,
        restarts=count_restarts(pods),
    )


def _model(service: Object, *, mode: str) -> tuple[Readiness, str]:
    """What KServe says about the model that the newest spec names."""
    status = part(service, "status")
    found = str(status.get("deploymentMode") or mode)
    if _MODE_NAMES.get(found, found) != mode:
        reason = (
            f"KServe runs it in {found} mode, but the endpoint file says {mode}. Set triton.mode to what the cluster "
            "has, or install what that mode needs."
        )
        return Readiness.FAILED, reason
    transition = str(part(status, "modelStatus").get("transitionStatus") or "")
    failure = part(status, "modelStatus", "lastFailureInfo")
    said = str(failure.get("message") or failure.get("reason") or "")
    if transition in _BROKEN:
        return (
            Readiness.FAILED,
            f"KServe: {transition}: {said}" if said else f"KServe: {transition}",
        )
    if transition != "UpToDate":
        broken = condition(service, "PredictorReady")
        said = said or str(broken.get("message") or broken.get("reason") or "")
        return (
            Readiness.STARTING,
            f"KServe: {said or transition or 'it has not begun; is it running?'}",
        )
    return Readiness.READY, ""


def _pods_answer(
    deployments: Sequence[Object], pods: Sequence[Object], *, fewest: int
) -> tuple[Readiness, str]:
    """Whether every Deployment is as its newest spec says, with `fewest` replicas that answer."""
    available = sum(_available(one) for one in deployments)
    settled = all(
        part(one, "status").get("observedGeneration", 0) >= one["metadata"].get("generation", 0)
        for one in deployments
    )
    if deployments and settled and available >= fewest:
        return Readiness.READY, ""
    told = _explain(deployments, pods) or f"{available} of {fewest} replicas answer"
    return Readiness.STARTING, told


def _available(deployment: Object) -> int:
    """Replicas of the newest spec that answer: while old ones are replaced, those do not count."""
    status = part(deployment, "status")
    return min(int(status.get("availableReplicas", 0)), int(status.get("updatedReplicas", 0)))


def _explain(deployments: Sequence[Object], pods: Sequence[Object]) -> str:
    refused = (told for one in deployments if (told := explain_deployment(one)))
    return next(refused, "") or explain_pods(pods)


@dataclass(frozen=True)
class Knative:
    """An InferenceService in Knative mode with the Deployments and pods of its revisions; None where there is none."""

    service: Object | None
    deployments: Sequence[Object] = ()
    pods: Sequence[Object] = ()
    fewest: int = 1
    """Replicas that a revision must have available."""

    @property
    def version(self) -> str | None:
        """The version that the spec names."""
        return None if self.service is None else version_of(self.service)

    @property
    def percent(self) -> int:
        """Its share of the requests by the spec; 100 means that it is rolled out."""
        if self.service is None:
            return 0
        percent = self.service["spec"]["predictor"].get("canaryTrafficPercent")
        return _ALL if percent is None else int(percent)

    @property
    def rolled_out(self) -> str | None:
        """The version of the revision that KServe last saw with all requests: the one that keeps the rest."""
        return self._versions.get(str(self._predictor.get("latestRolledoutRevision")))

    @property
    def is_settled(self) -> bool:
        """Whether KServe has taken note of a version that was rolled out."""
        return self.percent < _ALL or self.rolled_out == self.version

    @property
    def newest_is_ready(self) -> bool:
        """Whether the revision of the newest spec is there and can answer."""
        created = str(self._predictor.get("latestCreatedRevision"))
        ready = str(self._predictor.get("latestReadyRevision"))
        return created == ready and self._versions.get(created) == self.version

    @property
    def beside(self) -> Release | None:
        """The release that keeps the requests that the spec's version does not get."""
        return None if self.service is None else beside_of(self.service)

    @property
    def reloads(self) -> bool:
        """Whether the spec is that of the version beside it: a challenger's place is taken, at no share of requests."""
        return self.beside is not None and self.beside.version == self.version

    def observe(self) -> Observed:
        """The versions in flight, and where the requests go.

        Knative gives everything to a first release as soon as it is ready, for there is nobody else. Until it is rolled
        out that is no traffic of a rollout, so none is told.
        """
        if self.service is None:
            return Observed()
        weights: dict[str, int] = {}
        for entry in parts(self._predictor, "traffic"):
            version = self._versions.get(str(entry.get("revisionName")))
            if version is not None and (percent := int(entry.get("percent") or 0)):
                weights[version] = weights.get(version, 0) + percent
        is_first = self.percent == 0 and self.beside is None
        traffic = (
            Traffic() if is_first or sum(weights.values()) != _ALL else Traffic(weights=weights)
        )
        found = [*self._revisions(set(weights)), *self._leftovers()]
        return Observed(revisions={one.version: one for one in found}, traffic=traffic)

    @cached_property
    def _predictor(self) -> Object:
        return part(self.service or {}, "status", "components", "predictor")

    @cached_property
    def _versions(self) -> Mapping[str, str]:
        """The version of each Knative revision, by the revision's name."""
        named = {
            part(one, "metadata", "labels").get(REVISION_LABEL): one for one in self.deployments
        }
        return {str(name): version_of(one) for name, one in named.items() if name is not None}

    def _revisions(self, weighted: set[str]) -> Iterator[Revision]:
        """What the spec names and what stands beside it. Older ones Knative takes away by itself."""
        kept = (
            {self.beside.version} if self.beside is not None and self.percent < _ALL else set[str]()
        )
        for version in sorted({str(self.version), *kept, *weighted}):
            own = [one for one in self.deployments if version_of(one) == version]
            pods = [one for one in self.pods if version_of(one) == version]
            readiness, reason = self._readiness(version, own, pods)
            yield Revision(
                version=version, readiness=readiness, reason=reason, restarts=count_restarts(pods)
            )

    def _leftovers(self) -> Iterator[Revision]:
        """The version whose place was taken, once what took it can be rolled out: the last act of retiring it is due."""
        retiring = None if self.service is None else retiring_of(self.service)
        if retiring is not None and self.reloads and self.percent < _ALL and self.newest_is_ready:
            reason = "it was rolled back and is being taken away; ask for it again in a moment"
            yield Revision(version=retiring, readiness=Readiness.FAILED, reason=reason)

    def _readiness(
        self, version: str, own: Sequence[Object], pods: Sequence[Object]
    ) -> tuple[Readiness, str]:
        service = self.service
        if version == self.version and version != self.rolled_out and service is not None:
            readiness, reason = _model(service, mode="Knative")
            if readiness is not Readiness.READY:
                return readiness, _explain(own, pods) or reason
            if not self.newest_is_ready:
                return Readiness.STARTING, _explain(
                    own, pods
                ) or "Knative has no ready revision yet"
        # Scaled to none, or about to be: an older revision of the same version stands beside its newer one.
        live = [one for one in own if int(one["spec"].get("replicas", 1)) > 0]
        return _pods_answer(live or own, pods, fewest=self.fewest)
