"""`Target` for ray-serve: one RayService for each version in flight, behind our route.

An `operator-driven` endpoint has none: KubeRay moves its requests by itself, and there is nothing to judge or to shift.
"""

from deploy_targets.cluster import NETWORK_POLICY, POD, RAY_SERVICE, Cluster
from deploy_targets.endpoint import Endpoint
from deploy_targets.gateway_split import GatewayTarget, Platform, Related
from deploy_targets.git_repository import GitRepository
from deploy_targets.manifest import Manifest, Object
from deploy_targets.ray_serve.manifest import backend, render_revision
from deploy_targets.ray_serve.status import read_ray_service
from deploy_targets.routing.http_route import Backend
from deploy_targets.target import Revision
from registry.errors import BadInput
from registry.release import Release


def ray_target(
    endpoint: Endpoint, cluster: Cluster, *, git: GitRepository | None = None
) -> GatewayTarget:
    """The endpoint on KubeRay; `git` is there where it is delivered by it.

    Raises:
        BadInput: it is operator-driven.
    """
    if endpoint.ray_serve is not None and endpoint.ray_serve.rollout == "operator-driven":
        message = (
            f"{endpoint.name} is operator-driven: KubeRay moves its requests, and Shipway does not. Apply what "
            "`shipway render` prints, or have Shipway roll it out: `ray_serve: {rollout: shipway}`."
        )
        raise BadInput(message)

    def render(release: Release) -> tuple[Manifest, ...]:
        return render_revision(endpoint, release)

    def service(version: str) -> Backend:
        return backend(endpoint, version)

    return GatewayTarget(
        endpoint,
        cluster=cluster,
        git=git,
        platform=Platform(
            kind=RAY_SERVICE,
            companions=(NETWORK_POLICY,),
            looks_at=(POD,),
            render=render,
            backend=service,
            read=_read,
        ),
    )


def _read(found: Object, version: str, related: Related) -> Revision:
    return read_ray_service(found, related[POD], version=version)
