"""What an operator asks for by hand: promote, roll back, follow, render, collect garbage. Called by the CLI."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.live import Live

from deploy_targets.cluster import Cluster
from deploy_targets.control_plane import ControlPlane
from deploy_targets.endpoint import Endpoint, TargetKind
from deploy_targets.kubernetes_targets import cluster_target
from deploy_targets.local.envoy import Backend, render_routes
from deploy_targets.manifest import Manifest, canonical_yaml, check_distinct, revision_name
from deploy_targets.monitoring.manifests import monitoring_manifests
from deploy_targets.ray_serve import manifest as ray_service
from deploy_targets.ray_serve.serve_config import render_application
from deploy_targets.rollout.controller import Store
from deploy_targets.rollout.state import EndpointState, Hold, Override
from deploy_targets.rollout.status import Status
from deploy_targets.rollout.store import StateStore
from deploy_targets.routing.traffic import Traffic
from deploy_targets.triton import manifest as inference_service
from deploy_targets.triton.model_config import (
    CONFIG_FILE,
    VLLM_FILE,
    render_model_config,
    render_vllm_arguments,
)
from registry.artifact_store import ArtifactStore
from registry.errors import BadInput, PromotionRefused
from registry.mlflow_registry import MlflowRegistry
from registry.promotion import (
    CHAMPION,
    AliasTrigger,
    MoveAlias,
    RegistryChange,
    TransitionStage,
    check_gate,
)
from registry.release import Digest, Refused, Release
from registry.retention import Retention, plan_collection
from registry.verification import check_release

_UNKNOWN_DIGEST = Digest("sha256:" + 64 * "0")
_SERVE_PORT = 8000
"""What a rendering without a running stack says; the stack itself may have chosen another."""


def request_promotion(
    registry: MlflowRegistry, endpoint: Endpoint, version: str, *, dry_run: bool
) -> str:
    """Writes the request that the controller will see, and says so.

    Raises:
        NotFound: there is no such version.
        PromotionRefused: it may not be deployed; every reason is named.
    """
    champion = registry.aliases(endpoint.model).get(CHAMPION)
    serving = None if champion is None else registry.version(endpoint.model, champion)
    admitted = check_gate(registry.version(endpoint.model, version), serving=serving)
    if isinstance(admitted, Refused):
        raise PromotionRefused("\n".join(admitted.reasons))
    change: RegistryChange
    if isinstance(endpoint.trigger, AliasTrigger):
        change = MoveAlias(alias=endpoint.trigger.alias, version=version)
        told = f"alias {change.alias} of {endpoint.model} → v{version}"
    else:
        change = TransitionStage(version=version, stage=endpoint.trigger.stage)
        told = f"{endpoint.model} v{version} → stage {change.stage}"
    if dry_run:
        return f"Would write: {told}."
    registry.write(endpoint.model, change)
    return f"Written: {told}. Follow it with `shipway watch {endpoint.name}`."


def request_rollback(
    plane: ControlPlane, endpoint: Endpoint, *, to: str | None, reason: str, by: str
) -> str:
    """Saves the operator's decision; the controller carries it out at its next look.

    MLflow and S3 are asked only about a version that never served here, or so long ago that it is forgotten.

    Raises:
        BadInput: there is nothing to end and nothing to go back to.
        PromotionRefused, IntegrityError: `to` may not be deployed.
    """
    store = plane.store()
    saved = store.load(endpoint.name)
    state = saved.state
    if to is None and state.rollout is not None:
        release, told = None, f"the rollout of v{state.rollout.challenger.version} ends"
    elif to is None and state.experiment is not None:
        release, told = None, f"the experiment {state.experiment.name} ends"
    else:
        release = _release_to(state, to, plane, endpoint)
        told = f"{release} serves again"
    override = Override(to=release, reason=f"operator {by}: {reason}", by=by)
    store.save(replace(state, override=override), expected=saved.revision)
    return f"Saved: {told}. Follow it with `shipway watch {endpoint.name}`."


def request_hold(store: Store, endpoint: Endpoint, *, reason: str, by: str) -> str:
    """Saves the operator's word that no more requests are moved to a challenger; one that was given before is replaced."""
    saved = store.load(endpoint.name)
    state = replace(saved.state, hold=Hold(reason=reason, by=by))
    store.save(state, expected=saved.revision)
    rollout = state.rollout
    waits = "no rollout is under way; the next one waits at weight 0"
    if rollout is not None:
        waits = f"v{rollout.challenger.version} gets no more requests than it has, and is still rolled back if it does harm"
    return f"Held: {waits}. `shipway resume {endpoint.name}` takes it back."


def request_resume(store: Store, endpoint: Endpoint) -> str:
    """Takes the operator's hold back.

    Raises:
        BadInput: there is none.
    """
    saved = store.load(endpoint.name)
    if saved.state.hold is None:
        message = f"{endpoint.name} is not held. `shipway status` says what a rollout waits for."
        raise BadInput(message)
    store.save(replace(saved.state, hold=None), expected=saved.revision)
    return f"No longer held. Follow it with `shipway watch {endpoint.name}`."


def _release_to(
    state: EndpointState, to: str | None, plane: ControlPlane, endpoint: Endpoint
) -> Release:
    if to is None and state.previous is None:
        message = f"Nothing is being rolled out on {endpoint.name}, and nothing served before. Name a version with --to."
        raise BadInput(message)
    for known in (*reversed(state.served), state.serving):
        if known is not None and to in {None, known.version}:
            return known
    admitted = check_gate(plane.registry().version(endpoint.model, str(to)))
    if isinstance(admitted, Refused):
        raise PromotionRefused("\n".join(admitted.reasons))
    check_release(admitted, plane.artifacts(), plane.trusted_keys())
    return admitted


def follow(look: Callable[[], Status], *, console: Console, every_s: float, looks: int) -> None:
    """Shows the status again and again, until `looks` are used up (0: until interrupted)."""
    seen = 0
    with Live(console=console, auto_refresh=False) as live:
        while looks == 0 or seen < looks:
            live.update("\n".join(look().lines()), refresh=True)
            seen += 1
            if seen != looks:
                time.sleep(every_s)


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
        if endpoint.target in {TargetKind.TRITON, TargetKind.LOCAL_TRITON}:
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


def collect_garbage(
    registry: MlflowRegistry,
    artifacts: ArtifactStore,
    store: StateStore,
    rule: Retention,
    *,
    delete: bool,
) -> Iterator[str]:
    """Deletes, or only lists, what nothing needs; one line for each thing."""
    now = datetime.now(UTC)
    # Before the versions: what is written and registered from now on is younger than any of this.
    stored, unfinished = artifacts.written(), artifacts.unfinished()
    models = registry.models()
    versions = [version for model in models for version in registry.versions(model)]
    aliased = {(model, version) for model in models for version in registry.aliases(model).values()}
    garbage = plan_collection(
        versions,
        aliased=aliased,
        in_use={pair for state in store.states() for pair in _in_use(state)},
        stored=stored,
        rule=rule,
        now=now,
    )
    young = now - rule.keep_for
    verb = "deleted" if delete else "would delete"
    for version in garbage.versions:
        if delete:
            registry.delete_version(version.model, version.version)
        yield f"{verb} {version.model} v{version.version}"
    for source in garbage.sources:
        if delete and not artifacts.delete(source, unless_written_since=young):
            yield f"kept {source}: somebody wrote there just now"
            continue
        yield f"{verb} {source}"
    stale = [upload for upload in unfinished if upload.written < young]
    for upload in stale:
        if delete:
            artifacts.give_up(upload)
        yield f"{verb} the unfinished upload of {upload.key}, last written {upload.written:%Y-%m-%d}"
    if not garbage.versions and not garbage.sources and not stale:
        yield "Everything that is there is needed."


def _in_use(state: EndpointState) -> Iterator[tuple[str, str]]:
    rollout, override = state.rollout, state.override
    releases = (
        state.serving,
        *state.served,
        None if rollout is None else rollout.challenger,
        None if override is None else override.to,
        *(() if state.experiment is None else state.experiment.arms),
    )
    for release in releases:
        if release is not None:
            yield release.model, release.version
