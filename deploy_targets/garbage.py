"""The versions, bytes and uploads that nothing needs any more: found, and deleted where that is asked for.

Which they are, by aliases, rollouts and retention, is decided by `registry.retention`.
"""

from collections.abc import Iterator

from deploy_targets.control_plane import utc_now
from deploy_targets.rollout.state import EndpointState
from deploy_targets.rollout.store import StateStore
from registry.artifact_store import ArtifactStore
from registry.mlflow_registry import MlflowRegistry
from registry.retention import Retention, plan_collection


def collect_garbage(
    registry: MlflowRegistry,
    artifacts: ArtifactStore,
    store: StateStore,
    rule: Retention,
    *,
    delete: bool,
) -> Iterator[str]:
    """Deletes, or only lists, what nothing needs; one line for each thing."""
    now = utc_now()
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
