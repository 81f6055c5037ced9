"""What would be applied for a version: as text, without any server; or as a diff against a cluster, by its own dry run.

What each object says is in `ray_serve.manifest`, `triton.manifest`, `routing.http_route`, `local.envoy` and `monitoring`.
"""

from pathlib import Path

from deploy_targets.cluster import Cluster
from deploy_targets.endpoint import Endpoint, TargetKind
from deploy_targets.kubernetes_targets import cluster_target
from deploy_targets.local.envoy import Backend, render_routes
from deploy_targets.manifest import Manifest, canonical_yaml, check_distinct, revision_name
from deploy_targets.monitoring.manifests import monitoring_manifests
from deploy_targets.ray_serve import manifest as ray_service
from deploy_targets.ray_serve.serve_config import render_application
from deploy_targets.routing.traffic import Traffic
from deploy_targets.triton import manifest as inference_service
from deploy_targets.triton.model_config import (
    CONFIG_FILE,
    VLLM_FILE,
    render_model_config,
    render_vllm_arguments,
)
from registry.errors import BadInput, PromotionRefused
from registry.mlflow_registry import MlflowRegistry
from registry.promotion import check_gate
from registry.release import Digest, Refused, Release

_UNKNOWN_DIGEST = Digest("sha256:" + 64 * "0")
_SERVE_PORT = 8000
"""What a rendering without a running stack says; the stack itself may have chosen another."""


def render_documents(
    endpoints: tuple[Endpoint, ...],
    *,
    version: str,
    source: str | None,
    registry: MlflowRegistry | None,
) -> dict[str, str]:
    """What would be applied for `version` of each endpoint, and what watches all of them: text by file name.

    All of it is YAML but what is for Triton's model repository and not for the cluster: `<revision>.config.pbtxt`, and
    `<revision>.model.json` with vLLM.

    Raises:
        BadInput: an endpoint that cannot be rendered: the reason is named.
        PromotionRefused: the registry's version may not be deployed.
    """
    manifests: list[Manifest] = []
    texts: dict[str, str] = {}
    for endpoint in endpoints:
        release = _rendered_release(endpoint, version=version, source=source, registry=registry)
        manifests += _manifests(endpoint, release, is_source_given=source is not None)
        if endpoint.target.protocol == "triton":
            name = revision_name(endpoint.name, version)
            texts[f"{name}.{CONFIG_FILE}"] = render_model_config(endpoint, release)
            if endpoint.engine.kind == "vllm":
                texts[f"{name}.{VLLM_FILE}"] = render_vllm_arguments(endpoint, release)
    manifests += monitoring_manifests(endpoints)
    check_distinct(manifests)
    return {f"{one.name}.yaml": canonical_yaml([one]) for one in manifests} | texts


def _manifests(
    endpoint: Endpoint, release: Release, *, is_source_given: bool
) -> tuple[Manifest, ...]:
    match endpoint.target:
        case TargetKind.LOCAL:
            return _local_manifests(endpoint, release)
        case TargetKind.LOCAL_TRITON:
            return (_local_routes(endpoint, release, prefix="/"),)
        case TargetKind.RAY_SERVE:
            return ray_service.render_all(endpoint, release)
        case TargetKind.TRITON:
            _check_repository(endpoint, is_source_given=is_source_given)
            return inference_service.render_all(endpoint, release, repository=release.source)


def _check_repository(endpoint: Endpoint, *, is_source_given: bool) -> None:
    if endpoint.target is TargetKind.TRITON and not is_source_given:
        message = (
            f"{endpoint.name} loads a Triton model repository, and MLflow only knows where the model's weights are. Name "
            "the repository with --source."
        )
        raise BadInput(message)


def preview_changes(
    endpoint: Endpoint,
    cluster: Cluster,
    *,
    version: str,
    source: str | None,
    registry: MlflowRegistry | None,
) -> str:
    """What an apply of `version` would change in the cluster, as diffs; by the API server's dry run, so nothing changes.

    Raises:
        BadInput: the endpoint is not for a cluster, or cannot be rendered.
        TargetRefused: the cluster would refuse it: the reason is named.
        TargetUnavailable: the cluster does not answer.
    """
    _check_repository(endpoint, is_source_given=source is not None)
    target = cluster_target(endpoint, cluster, repository=lambda release: release.source)
    release = _rendered_release(endpoint, version=version, source=source, registry=registry)
    changes = target.preview(release)
    if not changes:
        return f"v{version} of {endpoint.name} is in the cluster already.\n"
    return "".join(change.text() for change in changes)


def _local_manifests(endpoint: Endpoint, release: Release) -> tuple[Manifest, ...]:
    name = revision_name(endpoint.name, release.version)
    return (
        Manifest(name=f"{name}.serve", body=render_application(endpoint, release)),
        _local_routes(endpoint, release, prefix=f"/{name}/"),
    )


def _local_routes(endpoint: Endpoint, release: Release, *, prefix: str) -> Manifest:
    routes = render_routes(
        {release.version: Backend(host="127.0.0.1", port=_SERVE_PORT, prefix=prefix)},
        Traffic.all_to(release.version),
        timeout_s=endpoint.serving.timeout_s,
    )
    return Manifest(name=f"{revision_name(endpoint.name, release.version)}.routes", body=routes)


def _rendered_release(
    endpoint: Endpoint, *, version: str, source: str | None, registry: MlflowRegistry | None
) -> Release:
    if source is not None or registry is None:
        return Release(
            model=endpoint.model, version=version, source=source or "", digest=_UNKNOWN_DIGEST
        )
    admitted = check_gate(registry.version(endpoint.model, version))
    if isinstance(admitted, Refused):
        raise PromotionRefused("\n".join(admitted.reasons))
    return admitted


def write_documents(documents: dict[str, str], folder: Path) -> str:
    """Writes each document into `folder`, and says where."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in documents.items():
        (folder / name).write_text(text)
    return f"Wrote {len(documents)} documents to {folder}."
