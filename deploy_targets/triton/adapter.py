"""`Target` for triton in KServe's Standard mode, and the choice between the modes.

One InferenceService for each version in flight, behind our route; Knative mode is `knative`. Where a version's Triton
model repository lies is passed in: the registry only knows where its weights are.
"""

from collections.abc import Callable

from deploy_targets.cluster import DEPLOYMENT, INFERENCE_SERVICE, POD, Cluster
from deploy_targets.endpoint import Endpoint
from deploy_targets.gateway_split import GatewayTarget, Platform, Related
from deploy_targets.git_repository import GitRepository
from deploy_targets.manifest import Manifest, Object
from deploy_targets.placement import Autoscaling, Triton
from deploy_targets.routing.http_route import Backend
from deploy_targets.target import Revision
from deploy_targets.triton.knative import KnativeTarget
from deploy_targets.triton.manifest import backend, render_inference_service
from deploy_targets.triton.status import read_standard
from registry.release import Release


def triton_target(
    endpoint: Endpoint,
    cluster: Cluster,
    *,
    repository: Callable[[Release], str],
    git: GitRepository | None = None,
) -> GatewayTarget | KnativeTarget:
    """The endpoint on KServe, in the mode that it declares; `git` is there where it is delivered by it."""
    scale = endpoint.replicas
    fewest = scale.min if isinstance(scale, Autoscaling) else scale
    if (endpoint.triton or Triton()).mode == "Knative":
        return KnativeTarget(endpoint, cluster=cluster, repository=repository, fewest=fewest)

    def render(release: Release) -> tuple[Manifest, ...]:
        return (render_inference_service(endpoint, release, repository=repository(release)),)

    def service(version: str) -> Backend:
        return backend(endpoint, version)

    def read(found: Object, _: str, related: Related) -> Revision:
        return read_standard(found, related[DEPLOYMENT], related[POD], fewest=fewest)

    return GatewayTarget(
        endpoint,
        cluster=cluster,
        git=git,
        platform=Platform(
            kind=INFERENCE_SERVICE,
            companions=(),
            looks_at=(DEPLOYMENT, POD),
            render=render,
            backend=service,
            read=read,
        ),
    )
