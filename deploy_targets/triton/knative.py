"""`Target` for triton in KServe's Knative mode: one InferenceService, whose Knative revisions are the versions.

Two are in flight at the most: the one that the spec names, at `canaryTrafficPercent`, and the one beside it, which was
rolled out before and keeps the rest. So there is an order in which things may be done, and what comes too early is
refused as unavailable: the controller asks again. Above all, the share is raised only once the spec's own revision is
ready: until then KServe's "latest" is an older one. Why so: docs/decisions/0007.
"""

from collections.abc import Callable

from deploy_targets.cluster import DEPLOYMENT, INFERENCE_SERVICE, POD, Cluster
from deploy_targets.endpoint import Endpoint
from deploy_targets.manifest import Manifest
from deploy_targets.object_diff import Change
from deploy_targets.own_objects import OwnObjects, disturbance
from deploy_targets.routing.traffic import Traffic
from deploy_targets.target import Observed, Readiness, Revision
from deploy_targets.triton.manifest import release_of, render_inference_service, retiring_of
from deploy_targets.triton.status import Knative
from registry.errors import (
    KindMissing,
    ManifestInvalid,
    TargetChanged,
    TargetRefused,
    TargetUnavailable,
)
from registry.release import Release

SHARE_FIELD = frozenset({".spec.predictor.canaryTrafficPercent"})
_ALL = 100


class KnativeTarget:
    """One endpoint on one InferenceService."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        cluster: Cluster,
        repository: Callable[[Release], str],
        fewest: int,
    ) -> None:
        """Nothing is contacted before the first call. A revision needs `fewest` replicas to be ready."""
        self._endpoint = endpoint
        self._repository = repository
        self._fewest = fewest
        self._own = OwnObjects(
            cluster, namespace=endpoint.cluster.namespace, endpoint=endpoint.name
        )
        self._refused: dict[str, str] = {}

    def close(self) -> None:
        """Closes the connections to the cluster."""
        self._own.close()

    def render(self, release: Release) -> tuple[Manifest, ...]:
        """The InferenceService with this version alone, rolled out."""
        return (self._manifest(release, percent=None),)

    def apply(self, release: Release) -> None:
        """Writes the version into the spec, at no share of the requests; one that is in flight already is left so.

        Raises:
            TargetUnavailable: another version has to be rolled out, or retired, or to lose its requests, first.
        """
        try:
            look = self._look()
            manifest = self._applied(look, release)
            if manifest is not None:
                self._own.ensure_over(look.service, manifest, take_back=SHARE_FIELD)
        except (TargetRefused, ManifestInvalid) as error:
            self._refused[release.version] = str(error)
            raise TargetRefused(str(error)) from error
        self._refused.pop(release.version, None)

    def preview(self, release: Release) -> tuple[Change, ...]:
        """What `apply` would change, by the API server's dry run; nothing is changed."""
        manifest = self._applied(self._look(), release)
        if manifest is None:
            return ()
        return (self._own.preview(manifest, take_back=SHARE_FIELD),)

    def observe(self) -> Observed:
        """Versions and shares as KServe's status has them."""
        look = self._look()
        seen = look.observe()
        told = "" if look.service is None else disturbance(look.service, SHARE_FIELD)
        refused = {
            version: Revision(version=version, readiness=Readiness.FAILED, reason=reason)
            for version, reason in self._refused.items()
        }
        return Observed(
            revisions={**refused, **seen.revisions}, traffic=seen.traffic, disturbance=told
        )

    def shift(self, traffic: Traffic) -> None:
        """Writes the share of the spec's version; the one beside it gets the rest.

        Raises:
            TargetUnavailable: the spec's own revision is not ready, or the requests would go nowhere.
        """
        look = self._look()
        beside = look.beside
        known = {look.version, None if beside is None else beside.version}
        if missing := sorted(traffic.weights.keys() - known):
            message = f"{self._endpoint.name} has no revision {', '.join(missing)} to send requests to; apply it first."
            raise TargetChanged(message)
        if look.service is None:
            return
        percent = traffic.percent(look.version)
        if percent > look.percent and not look.newest_is_ready:
            if look.reloads:
                return  # its earlier revision has the requests already
            message = (
                f"v{look.version} of {self._endpoint.name} is not ready, and until then KServe would give its share to an "
                "older revision. The next look tries again."
            )
            raise TargetUnavailable(message)
        if not traffic.weights and look.percent == _ALL:
            message = (
                f"{self._endpoint.name} runs in Knative mode, where the requests cannot be sent nowhere while "
                f"v{look.version} is rolled out. Delete the InferenceService to end the endpoint."
            )
            raise TargetUnavailable(message)
        self._own.ensure_over(look.service, self._as_it_is(look, percent), take_back=SHARE_FIELD)

    def retire(self, version: str) -> None:
        """Gives the spec back to the version beside it, and rolls that out again once it is loaded.

        A first release that nothing stands beside is deleted whole. What is not in the spec Knative takes away itself.
        """
        look = self._look()
        if weight := look.observe().traffic.percent(version):
            message = f"v{version} of {self._endpoint.name} still has {weight} % of the requests; shift them first."
            raise TargetChanged(message)
        self._refused.pop(version, None)
        if look.service is None:
            return
        beside = look.beside
        if look.version == version and beside is None:
            self._own.delete(INFERENCE_SERVICE, look.service)
        elif look.version == version and beside is not None and not look.reloads:
            back = self._manifest(beside, percent=0, beside=beside, retiring=version)
            self._own.ensure_over(look.service, back, take_back=SHARE_FIELD)
        elif look.reloads and look.percent < _ALL and look.newest_is_ready:
            self._own.ensure_over(look.service, self._as_it_is(look, _ALL), take_back=SHARE_FIELD)

    def _applied(self, look: Knative, release: Release) -> Manifest | None:
        """The object with `release` as its newest version; None where Knative holds that version already."""
        if look.service is None:
            return self._manifest(release, percent=0)
        if look.version == release.version:
            return self._as_it_is(look, look.percent, release=release)
        if look.percent == _ALL:
            if not look.is_settled:
                raise self._too_early(f"KServe has not rolled out v{look.version} yet")
            return self._manifest(release, percent=0, beside=release_of(look.service))
        if look.beside is None:
            raise self._too_early(f"v{look.version} is neither rolled out nor retired yet")
        if look.beside.version == release.version:
            return None
        if look.percent:
            raise self._too_early(f"v{look.version} still has {look.percent} % of the requests")
        return self._manifest(release, percent=0, beside=look.beside)

    def _as_it_is(self, look: Knative, percent: int, release: Release | None = None) -> Manifest:
        """The live object's own rendering, at that share; `release` instead of what it says of its version."""
        service = look.service or {}
        return self._manifest(
            release or release_of(service),
            percent=percent,
            beside=look.beside,
            retiring=retiring_of(service),
        )

    def _manifest(
        self,
        release: Release,
        *,
        percent: int | None,
        beside: Release | None = None,
        retiring: str | None = None,
    ) -> Manifest:
        return render_inference_service(
            self._endpoint,
            release,
            repository=self._repository(release),
            canary_percent=percent,
            beside=beside,
            retiring=retiring,
        )

    def _too_early(self, why: str) -> TargetUnavailable:
        message = f"{self._endpoint.name} in Knative mode has room for one challenger: {why}. The next look tries again."
        return TargetUnavailable(message)

    def _look(self) -> Knative:
        try:
            service = self._own.get(INFERENCE_SERVICE, self._endpoint.name)
        except KindMissing:
            return Knative(service=None)  # for sure; `apply` will say what to install
        if service is None:
            return Knative(service=None)
        return Knative(
            service=service,
            deployments=self._own.list(DEPLOYMENT),
            pods=self._own.list(POD),
            fewest=self._fewest,
        )
