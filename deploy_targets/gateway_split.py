"""`Target` where each version is an object of its own and the weights are on our HTTPRoute: RayService, and KServe's Standard mode.

What differs between the two is a `Platform`. The route is ours alone, whole: whoever changes it is named, and it is
written again. A revision counts as deployed only with everything that was applied for it, so that what was deleted
by hand, its NetworkPolicy too, is made again; and without weight it is ready only once the Gateway obeys the route.

Where an endpoint is delivered by git, what is wanted is composed from the branch and written there (`git_objects`), and
only what is so comes from the cluster: until Argo CD or Flux has followed, the two differ, and the same commit is never made
twice.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from deploy_targets.cluster import HTTP_ROUTE, Cluster, Kind, kind_of
from deploy_targets.endpoint import Endpoint
from deploy_targets.git_objects import GitObjects
from deploy_targets.git_repository import GitRepository
from deploy_targets.manifest import VERSION_LABEL, Manifest, Object, part, revision_name
from deploy_targets.object_diff import Change
from deploy_targets.own_objects import OwnObjects, disturbance
from deploy_targets.routing.http_route import Backend, parse_route, render_route, route_fault
from deploy_targets.routing.traffic import Traffic
from deploy_targets.target import Observed, Readiness, Revision
from registry.errors import (
    KindMissing,
    ManifestInvalid,
    TargetChanged,
    TargetRefused,
    TargetUnavailable,
)
from registry.events import Event
from registry.release import Release

ROUTE_FIELDS = frozenset({".spec.rules", ".spec.parentRefs", ".spec.hostnames"})

_log = structlog.get_logger()

Related = Mapping[Kind, Sequence[Object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """How one operator runs a version."""

    kind: Kind
    """Of the object that is the version."""
    companions: tuple[Kind, ...]
    """Of what is applied before it, under the same name."""
    looks_at: tuple[Kind, ...]
    """Of what the operator makes of it."""
    render: Callable[[Release], tuple[Manifest, ...]]
    """The version's object, then its companions."""
    backend: Callable[[str], Backend]
    """The Service in front of a version."""
    read: Callable[[Object, str, Related], Revision]
    """What the object of that version says, with what the operator made of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """One look at the cluster."""

    objects: Mapping[Kind, Mapping[str, Object]]
    """What is ours by version, of the platform's kind and its companions."""
    related: Related
    route: Object | None
    traffic: Traffic

    def versions(self, kind: Kind) -> set[str]:
        return set(self.objects[kind])


class GatewayTarget:
    """One endpoint behind a Gateway."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        cluster: Cluster,
        platform: Platform,
        git: GitRepository | None = None,
    ) -> None:
        """`git` is there where the endpoint is delivered by it. Nothing is contacted before the first call."""
        place, namespace = endpoint.cluster.git, endpoint.cluster.namespace
        self._endpoint = endpoint
        self._platform = platform
        self._own = OwnObjects(cluster, namespace=namespace, endpoint=endpoint.name)
        self._wanted: OwnObjects | GitObjects = self._own
        if place is not None:
            if git is None:
                message = f"{endpoint.name} is delivered by git, and no repository was given."
                raise ValueError(message)
            folder = f"{place.path}/{namespace}".lstrip("/")
            self._wanted = GitObjects(git, folder=folder, endpoint=endpoint.name)
        self._refused: dict[str, str] = {}
        self._observed: Traffic | None = None

    def close(self) -> None:
        """Closes the connections to the cluster, and takes a clone away."""
        self._own.close()
        if self._wanted is not self._own:
            self._wanted.close()

    def render(self, release: Release) -> tuple[Manifest, ...]:
        """The revision's objects, and the route with this version alone."""
        versions = {release.version: self._platform.backend(release.version)}
        route = render_route(self._endpoint, versions, Traffic.all_to(release.version))
        return (*self._platform.render(release), route)

    def apply(self, release: Release) -> None:
        """Makes or repairs the revision: what guards it first, then its pin at weight 0, then the object itself.

        One that its operator gave up is taken away first, unless requests still go to it: Ray does not try again what it
        failed to deploy. A refusal is remembered, so that the next observation tells it: the rollout then ends for that
        reason.
        """
        is_awaited = False
        try:
            with self._wanted.change(self._says("deploy", f"v{release.version}")):
                is_awaited = self._take_away_failed(release.version)
                if not is_awaited:
                    self._ensure_all(release)
        except (TargetRefused, ManifestInvalid) as error:
            self._refused[release.version] = str(error)
            raise TargetRefused(str(error)) from error
        self._refused.pop(release.version, None)
        if is_awaited:
            message = (
                f"v{release.version} of {self._endpoint.name} failed, and is tried again once the cluster has taken it "
                "away: its objects are no more on the branch."
            )
            raise TargetUnavailable(message)

    def preview(self, release: Release) -> tuple[Change, ...]:
        """What `apply` would change, by the API server's dry run; nothing is changed."""
        return tuple(
            self._own.preview(manifest, take_back=take_back)
            for manifest, take_back in self._applied(self._look(), release)
        )

    def observe(self) -> Observed:
        """Revisions as their operator tells them, traffic as the route has it."""
        look = self._look()
        deployed = set[str].intersection(
            *(look.versions(kind) for kind in (self._platform.kind, *self._platform.companions))
        )
        revisions = {version: self._revision(version, look) for version in sorted(deployed)}
        for version, reason in self._refused.items():
            if version not in look.versions(self._platform.kind):
                revisions[version] = Revision(
                    version=version, readiness=Readiness.FAILED, reason=reason
                )
        self._observed = look.traffic
        told = "" if look.route is None else disturbance(look.route, ROUTE_FIELDS)
        return Observed(revisions=revisions, traffic=look.traffic, disturbance=told)

    def shift(self, traffic: Traffic) -> None:
        """Writes the route; the Gateway follows within moments, and requests in flight finish where they are.

        Where somebody has moved requests since the last observation, nothing is written: what was decided was decided on
        other weights, perhaps by a controller that was paused and followed meanwhile. An attempt that arrives late finds
        another resourceVersion, and writes nothing either.
        """
        look = self._look()
        if self._observed is not None and self._observed != look.traffic:
            message = (
                f"The requests of {self._endpoint.name} were moved by somebody else since they were last looked at; the "
                "next look decides anew."
            )
            raise TargetChanged(message)
        versions = look.versions(self._platform.kind)
        if missing := sorted(traffic.weights.keys() - versions):
            message = f"{self._endpoint.name} has no revision {', '.join(missing)} to send requests to; apply it first."
            raise TargetChanged(message)
        shares = ", ".join(f"v{version} {share} %" for version, share in traffic.weights.items())
        with self._wanted.change(self._says("requests to", shares or "nobody")):
            wanted = self._wanted_now(look).versions(self._platform.kind)
            route = self._route(wanted, traffic)
            self._wanted.ensure_over(look.route, route, take_back=ROUTE_FIELDS)
        if self._wanted.is_immediate:
            self._observed = traffic

    def retire(self, version: str) -> None:
        """Takes the pin away, then deletes the object, then what guarded it: exactly those that are ours."""
        look = self._look()
        if weight := look.traffic.percent(version):
            message = f"v{version} of {self._endpoint.name} still has {weight} % of the requests; shift them first."
            raise TargetChanged(message)
        with self._wanted.change(self._says("retire", f"v{version}")):
            wanted = self._wanted_now(look)
            if wanted.route is not None:
                others = wanted.versions(self._platform.kind) - {version}
                route = self._route(others, wanted.traffic)
                self._wanted.ensure_over(look.route, route, take_back=ROUTE_FIELDS)
            for kind in (self._platform.kind, *self._platform.companions):
                if found := look.objects[kind].get(version):
                    self._wanted.delete(kind, found)
        self._refused.pop(version, None)

    def _take_away_failed(self, version: str) -> bool:
        """Whether it has to be waited for that the cluster takes it away."""
        look = self._look()
        found = look.objects[self._platform.kind].get(version)
        if found is None or look.traffic.percent(version):
            return False
        if self._revision(version, look).readiness is not Readiness.FAILED:
            return False
        self._wanted.delete(self._platform.kind, found)
        return not self._wanted.is_immediate

    def _ensure_all(self, release: Release) -> None:
        look = self._look()
        for manifest, take_back in self._applied(look, release):
            if kind_of(manifest.body) == HTTP_ROUTE:
                self._wanted.ensure_over(look.route, manifest, take_back=take_back)
            else:
                self._wanted.ensure(manifest, take_back=take_back)

    def _applied(
        self, look: _Look, release: Release
    ) -> tuple[tuple[Manifest, frozenset[str]], ...]:
        """What an apply writes, in its order, each with the fields that are ours whoever wrote them.

        The pin comes before the object: after a crash in between the revision is not there yet, and is applied again.
        """
        revision, *companions = self._platform.render(release)
        look = self._wanted_now(look)
        versions = {*look.versions(self._platform.kind), release.version}
        route = self._route(versions, look.traffic)
        nothing: frozenset[str] = frozenset()
        return (
            *((manifest, nothing) for manifest in companions),
            (route, ROUTE_FIELDS),
            (revision, nothing),
        )

    def _route(self, versions: set[str], traffic: Traffic) -> Manifest:
        """A version with traffic keeps its backend even where its object was lost, until it is shifted."""
        names = {*versions, *traffic.weights}
        backends = {version: self._platform.backend(version) for version in names}
        return render_route(self._endpoint, backends, traffic)

    def _says(self, what: str, of: str) -> str:
        """The message of a commit."""
        return f"{self._endpoint.name}: {what} {of}"

    def _wanted_now(self, look: _Look) -> _Look:
        """What is wanted, as far as it was written; `look` is at the cluster.

        A branch without the endpoint's route has not taken it over yet: then what is so is what is wanted.
        """
        if self._wanted is self._own:
            return look
        route = self._wanted.get(HTTP_ROUTE, self._endpoint.name)
        if route is None:
            return look
        kinds = (self._platform.kind, *self._platform.companions)
        objects = {kind: self._named(self._wanted.list(kind)) for kind in kinds}
        return replace(look, objects=objects, route=route, traffic=self._traffic(route))

    def _look(self) -> _Look:
        kinds = (self._platform.kind, *self._platform.companions)
        try:
            route = self._own.get(HTTP_ROUTE, self._endpoint.name)
        except KindMissing:
            route = None  # known for sure: without the kind there is no such object; `apply` will say what to install
        return _Look(
            objects={kind: self._by_version(kind) for kind in kinds},
            related={kind: self._own.list(kind) for kind in self._platform.looks_at},
            route=route,
            traffic=self._traffic(route),
        )

    def _by_version(self, kind: Kind) -> dict[str, Object]:
        try:
            found = self._own.list(kind)
        except KindMissing:
            return {}
        return self._named(found)

    def _named(self, found: Sequence[Object]) -> dict[str, Object]:
        named = {part(one, "metadata", "labels").get(VERSION_LABEL): one for one in found}
        return {
            version: one
            for version, one in named.items()
            if version and one["metadata"]["name"] == revision_name(self._endpoint.name, version)
        }

    def _traffic(self, route: Object | None) -> Traffic:
        if route is None:
            return Traffic()
        try:
            return parse_route(route)
        except ManifestInvalid as error:
            # Not what should be, whatever it is: the plan writes it again.
            _log.warning(Event.FIELDS_TAKEN_BACK, endpoint=self._endpoint.name, reason=str(error))
            return Traffic()

    def _revision(self, version: str, look: _Look) -> Revision:
        own = {
            kind: [
                one
                for one in found
                if part(one, "metadata", "labels").get(VERSION_LABEL) == version
            ]
            for kind, found in look.related.items()
        }
        revision = self._platform.read(look.objects[self._platform.kind][version], version, own)
        if revision.readiness is not Readiness.READY or look.traffic.percent(version):
            return revision
        fault = "it has no route yet" if look.route is None else route_fault(look.route)
        if not fault:
            return revision
        return replace(revision, readiness=Readiness.STARTING, reason=fault)
