"""The model repository: complete, the same bytes for the same version, and made of the bytes that were evaluated."""

import ast
from dataclasses import replace
from pathlib import Path

import pytest

from deploy_targets.triton.repository import (
    _MODEL_FILE,
    IMPORTED_FILES,
    put_repository,
    repository_of,
    small_files,
)
from registry.errors import TargetRefused
from registry.release import Release
from tests.builders import a_digest, a_release, a_triton_endpoint
from tests.repo.reference import ROOT
from tests.servers import Servers


def imported_by(file: str) -> set[str]:
    """Our own modules that this one imports, with the packages around them, by path."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    files: set[str] = set()
    for name in names:
        parts = name.split(".")
        if (ROOT / f"{'/'.join(parts)}.py").exists():
            packages = (Path(*parts[:depth]) / "__init__.py" for depth in range(1, len(parts)))
            files |= {f"{'/'.join(parts)}.py", *map(str, packages)}
    return files


def test_the_code_in_it_brings_along_everything_of_ours_that_it_imports_and_nothing_else() -> None:
    needed: set[str] = set()
    waiting = imported_by(_MODEL_FILE)
    while waiting:
        needed |= waiting
        waiting = {found for file in waiting for found in imported_by(file)} - needed

    assert set(IMPORTED_FILES) == needed


def test_the_version_folder_is_the_versions_own_number() -> None:
    files = small_files(a_triton_endpoint(), a_release("7"))

    assert {"chat/config.pbtxt", "chat/7/model.py"} < files.keys()
    assert files == small_files(a_triton_endpoint(), a_release("7"))


def test_the_vllm_backend_needs_no_code_of_ours() -> None:
    vllm = {"engine": {"kind": "vllm"}, "resources": {"cpus": 8, "gpus": 1, "memory_gib": 64}}
    files = small_files(a_triton_endpoint(**vllm), a_release("7"))

    assert files.keys() == {"chat/config.pbtxt", "chat/7/model.json"}


@pytest.fixture
def release(servers: Servers, tmp_path: Path) -> Release:
    """Of an artifact that is there."""
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    stored = servers.store.put(tmp_path)
    return Release(
        model="smollm2", version="7", source=stored.source, digest=stored.manifest.digest
    )


@pytest.mark.real
def test_it_is_put_into_s3_once_with_the_checkpoint_below_the_version(
    servers: Servers, release: Release, tmp_path: Path
) -> None:
    first, again = (put_repository(servers.store, a_triton_endpoint(), release) for _ in range(2))

    assert (first.was_there, again.was_there) == (False, True)
    fetched = servers.store.fetch(first.source, first.manifest.digest, into=tmp_path / "into")
    assert (fetched / "chat/7/checkpoint/model.safetensors").read_bytes() == b"weights"


@pytest.mark.real
def test_an_adapter_is_told_where_it_lies_or_refused_for_the_artifacts_own_fault(
    servers: Servers, release: Release
) -> None:
    endpoint = a_triton_endpoint()

    where = repository_of(servers.store, endpoint)

    assert where(release) == put_repository(servers.store, endpoint, release).source
    for fault in ({"digest": a_digest("other")}, {"source": f"{release.source}-gone"}):
        with pytest.raises(TargetRefused):
            where(replace(release, **fault))
