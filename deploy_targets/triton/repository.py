"""A version's Triton model repository, put into S3: what KServe's InferenceService loads, and the local Triton, too.

It is made of the evaluated artifact, whose files S3 copies itself, and of a few small ones: the configuration and the
python backend's code. Equal repositories have one digest and lie in one place, so nothing is ever sent or copied twice.
"""

from collections.abc import Callable
from pathlib import Path

from deploy_targets.endpoint import Endpoint
from deploy_targets.engine.tensors import CHECKPOINT_FOLDER
from deploy_targets.triton.model_config import (
    CONFIG_FILE,
    VLLM_FILE,
    render_model_config,
    render_vllm_arguments,
)
from registry.artifact_store import ArtifactStore, StoredArtifact
from registry.errors import IntegrityError, NotFound, TargetRefused
from registry.release import Release

_ROOT = Path(__file__).parents[2]
_MODEL_FILE = "deploy_targets/triton/model.py"
IMPORTED_FILES = (
    "deploy_targets/__init__.py",
    "deploy_targets/engine/__init__.py",
    "deploy_targets/engine/chat.py",
    "deploy_targets/engine/generation.py",
    "deploy_targets/engine/tensors.py",
    "registry/__init__.py",
    "registry/digests.py",
    "registry/errors.py",
    "registry/release.py",
)
"""What `model` imports of ours; a test follows the imports."""


def put_repository(store: ArtifactStore, endpoint: Endpoint, release: Release) -> StoredArtifact:
    """Where the repository of `release` lies; it is made there if it is not there yet.

    Raises:
        IntegrityError: at the release's source lies something else than was evaluated.
        ManifestInvalid: the version is no number, so it cannot be a version folder.
        NotFound: there is no finished artifact at the release's source.
    """
    return store.compose(
        release.source,
        release.digest,
        under=f"{endpoint.name}/{release.version}/{CHECKPOINT_FOLDER}",
        beside=small_files(endpoint, release),
    )


def repository_of(store: ArtifactStore, endpoint: Endpoint) -> Callable[[Release], str]:
    """For an adapter: puts the repository of a release and says where it lies.

    What the artifact itself is at fault for is raised as TargetRefused, so that the rollout ends for that reason.
    """

    def put(release: Release) -> str:
        try:
            return put_repository(store, endpoint, release).source
        except (IntegrityError, NotFound) as error:
            raise TargetRefused(str(error)) from error

    return put


def small_files(endpoint: Endpoint, release: Release) -> dict[str, bytes]:
    """Everything in the repository but the checkpoint: bytes by path."""
    model, version = endpoint.name, f"{endpoint.name}/{release.version}"
    files = {f"{model}/{CONFIG_FILE}": render_model_config(endpoint, release).encode()}
    if endpoint.engine.kind == "vllm":
        arguments = render_vllm_arguments(endpoint, release)
        return {**files, f"{version}/{VLLM_FILE}": arguments.encode()}
    code = {"model.py": _MODEL_FILE, **{name: name for name in IMPORTED_FILES}}
    return files | {f"{version}/{name}": (_ROOT / file).read_bytes() for name, file in code.items()}
