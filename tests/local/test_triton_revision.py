"""One revision's keeper with a tritonserver that only plays one; `tests.contracts` runs it with the real one."""

import asyncio
from pathlib import Path

import aiohttp
import pytest

from deploy_targets.endpoint import Endpoint
from deploy_targets.local import triton_revision
from deploy_targets.local.triton_revision import RevisionKeeper, RevisionSpec, RevisionStatus
from deploy_targets.local.triton_server import TritonEnvironment
from deploy_targets.target import Readiness
from registry.artifact_store import StoredArtifact
from registry.errors import ArtifactStoreUnavailable, IntegrityError
from registry.release import ArtifactManifest
from tests.builders import a_release

pytestmark = pytest.mark.real


class Store:
    """Fails as often as it is told to, and then has the repository."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)

    def compose(self, *_: object, **__: object) -> StoredArtifact:
        if self.failures:
            raise self.failures.pop(0)
        manifest = ArtifactManifest(files=())
        return StoredArtifact(source="s3://b/derived/x", manifest=manifest, was_there=False)


def kept(folder: Path, program: str | None, store: Store) -> RevisionStatus:
    """The status in the end, with a tritonserver that runs `program`; without one there is no environment."""
    environment = TritonEnvironment(folder / "environment")
    if program is not None:
        bundle = environment.path / "lib/python3.11/site-packages/pytriton/tritonserver/bin"
        bundle.mkdir(parents=True)
        (bundle / "tritonserver").write_text(f"#!/bin/sh\n{program}\n")
        (bundle / "tritonserver").chmod(0o755)
        (environment.path / ".ready").touch()
    endpoint = Endpoint.model_validate(
        {"name": "chat", "model": "smollm2", "target": "local-triton"}
    )
    keeper = RevisionKeeper(
        RevisionSpec(endpoint=endpoint, release=a_release("7"), port=1, triton_port=2),
        folder=folder,
        store=store,
        s3_endpoint_url=None,
        triton=environment,
    )

    async def keep() -> None:
        async with aiohttp.ClientSession() as session:
            await keeper.keep(session)

    asyncio.run(keep())
    return keeper.status


def test_a_server_that_ends_again_and_again_before_it_is_ready_is_given_up(tmp_path: Path) -> None:
    status = kept(tmp_path, f"echo x >> {tmp_path}/starts; exit 3", Store())

    assert status.readiness is Readiness.FAILED
    assert "tritonserver ended (3)" in status.reason
    assert (tmp_path / "starts").read_text().count("x") == triton_revision._MAX_BARREN_STARTS
    assert status.restarts == 0


def test_a_store_that_does_not_answer_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_revision, "_PAUSE_S", 0.01)
    away = [ArtifactStoreUnavailable("S3 is away") for _ in range(3)]

    status = kept(tmp_path, "exit 3", Store(*away))

    assert status.repository == "s3://b/derived/x"


def test_other_bytes_than_were_evaluated_are_never_asked_for_twice(tmp_path: Path) -> None:
    store = Store(IntegrityError("other bytes"), IntegrityError("again"))

    status = kept(tmp_path, "exit 3", store)

    assert (status.readiness, status.reason) == (Readiness.FAILED, "other bytes")
    assert len(store.failures) == 1


def test_without_tritons_environment_the_revision_says_what_to_do(tmp_path: Path) -> None:
    status = kept(tmp_path, None, Store())

    assert status.readiness is Readiness.FAILED
    assert "make setup-triton" in status.reason
