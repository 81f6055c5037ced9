"""A version in a real S3, behind whose back somebody changes one thing."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from deploy_targets import cli
from deploy_targets.rollout.inspector import ReleaseInspector
from pipelines.version import _sign as sign
from registry.artifact_store import ArtifactStore, StoredArtifact
from registry.digests import MANIFEST_NAME, SIGNATURE_NAME
from registry.errors import IntegrityError, NotFound
from registry.release import DIGEST_TAG, ArtifactManifest, FileEntry, ModelVersion, Release
from registry.s3_files import list_files
from registry.signing import SigningKey, TrustedKeys, make_private_key
from registry.verification import Verified, check_release, verify_version
from tests.builders import an_endpoint
from tests.registry.test_artifact_store import Bucket

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return a_key(tmp_path_factory.mktemp("keys"))


def a_key(folder: Path) -> SigningKey:
    (folder / "key").write_text(make_private_key())
    return SigningKey.read(folder / "key")


class Signed:
    """A small artifact, signed, and the version that it is."""

    def __init__(self, store: ArtifactStore, key: SigningKey, folder: Path) -> None:
        (folder / "nested").mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "nested" / "weights.bin").write_bytes(os.urandom(100_000))
        self.store, self.key, self.folder = store, key, folder
        self.stored: StoredArtifact = store.put(folder)
        self.source, self.manifest = self.stored.source, self.stored.manifest
        store.sign(self.source, key.sign(self.manifest))
        self.bucket = Bucket(store, self.source)

    @property
    def version(self) -> ModelVersion:
        tags = {DIGEST_TAG: str(self.manifest.digest)}
        return ModelVersion(model="tiny", version="7", source=self.source, tags=tags)

    @property
    def release(self) -> Release:
        digest = self.manifest.digest
        return Release(model="tiny", version="7", source=self.source, digest=digest)

    def verified(self, *, quick: bool = False) -> Verified:
        return verify_version(self.version, self.store, self.key.trusted, quick=quick)

    def refusal(self, trusted: TrustedKeys | None = None) -> str:
        """What the controller would write on the version."""
        trusted = trusted or self.key.trusted
        inspector = ReleaseInspector(self.store, an_endpoint(), secret=None, trusted=trusted)
        return inspector.inspect(self.version, self.release).artifact_fault


@pytest.fixture
def signed(servers: Any, key: SigningKey, tmp_path: Path) -> Signed:
    return Signed(servers.store, key, tmp_path / "artifact")


def flip(signed: Signed, name: str) -> None:
    """Changes one bit of one byte."""
    content = bytearray((signed.folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    signed.bucket.write(name, bytes(content))


def test_what_nobody_touched_holds(signed: Signed) -> None:
    found = signed.verified()
    assert found.faults == ()
    assert [told.split(" ")[0] for told in found.held] == ["2", "every", "signed"]
    assert signed.refusal() == ""
    assert signed.verified(quick=True).faults == ()


def test_one_changed_byte_is_found_and_its_file_named(signed: Signed) -> None:
    flip(signed, "nested/weights.bin")
    [fault] = signed.verified().faults
    assert "The bytes of nested/weights.bin" in fault
    assert any("signed with" in told for told in signed.verified().held)


def test_a_quick_look_and_the_controller_leave_the_bytes_to_whoever_loads_them(
    signed: Signed, tmp_path: Path
) -> None:
    flip(signed, "nested/weights.bin")
    assert signed.verified(quick=True).faults == ()
    assert signed.refusal() == ""
    with pytest.raises(IntegrityError, match="not served"):
        signed.store.fetch(signed.source, signed.manifest.digest, into=tmp_path)


def test_a_removed_file_is_found(signed: Signed) -> None:
    signed.bucket.remove("config.json")
    assert "config.json" in signed.verified().faults[0]
    assert "config.json" in signed.refusal()


def test_an_added_file_is_found_even_in_a_quick_look(signed: Signed) -> None:
    signed.bucket.write("nested/modeling.py", b"import os")
    for said in (*signed.verified(quick=True).faults, signed.refusal()):
        assert "nested/modeling.py" in said
        assert "was put there by somebody else" in said


def test_the_next_put_of_the_same_bytes_sends_none_for_a_stranger_beside_them(
    signed: Signed,
) -> None:
    signed.bucket.write("stranger", b"x")
    assert signed.store.put(signed.folder).was_there
    signed.bucket.remove("config.json")
    assert not signed.store.put(signed.folder).was_there


def test_other_files_under_a_manifest_that_fits_them_are_found_by_the_digest(
    signed: Signed,
) -> None:
    """Who may write to S3 can make bytes and manifest agree, but neither the version's digest nor the signature."""
    flip(signed, "nested/weights.bin")
    digest = signed.store.digest_of(signed.source, "nested/weights.bin")
    files = [f for f in signed.manifest.files if f.path == "config.json"]
    files.append(FileEntry(path="nested/weights.bin", digest=digest, size_bytes=100_000))
    forged = ArtifactManifest.of(files)
    signed.bucket.write(MANIFEST_NAME, forged.to_json().encode())
    assert "was evaluated" in signed.refusal()
    # With the digest in MLflow forged as well, the signature is what is left.
    release = Release(model="tiny", version="7", source=signed.source, digest=forged.digest)
    with pytest.raises(IntegrityError, match="does not cover"):
        check_release(release, signed.store, signed.key.trusted)
    check_release(release, signed.store, None)


def test_another_versions_signature_does_not_pass(signed: Signed, tmp_path: Path) -> None:
    other = Signed(signed.store, signed.key, tmp_path / "other")
    signed.bucket.write(SIGNATURE_NAME, other.store.signature(other.source) or b"")
    assert "does not cover" in signed.refusal()
    assert "does not cover" in signed.verified().faults[0]


def test_no_signature_a_truncated_one_and_one_of_a_foreign_key_are_refused(
    signed: Signed, tmp_path: Path
) -> None:
    whole = signed.store.signature(signed.source) or b""
    signed.bucket.write(SIGNATURE_NAME, whole[: len(whole) // 2])
    assert "cannot be read" in signed.refusal()
    signed.bucket.write(SIGNATURE_NAME, b"")
    assert "cannot be read" in signed.refusal()
    signed.bucket.remove(SIGNATURE_NAME)
    assert "is not signed" in signed.refusal()
    foreign = a_key(tmp_path)
    signed.store.sign(signed.source, foreign.sign(signed.manifest))
    assert "not trusted" in signed.refusal()
    assert signed.refusal(foreign.trusted) == ""


def test_an_artifact_that_is_gone_or_a_version_without_a_digest_is_one_fault(
    signed: Signed,
) -> None:
    nameless = ModelVersion(model="tiny", version="7", source=signed.source)
    [fault] = verify_version(nameless, signed.store, None, quick=False).faults
    assert "has no digest" in fault
    signed.store.delete(signed.source)
    assert "does not have the artifact" in signed.verified().faults[0]
    with pytest.raises(NotFound):
        check_release(signed.release, signed.store, None)


def test_a_signature_is_no_file_of_the_artifact_and_goes_with_it(signed: Signed) -> None:
    names = {file.path for file in list_files(signed.store._client, signed.source)}
    assert names == {"config.json", "nested/weights.bin"}
    signed.store.delete(signed.source)
    assert signed.bucket.keys() == set()


def test_the_pipeline_keeps_a_good_signature_and_replaces_any_other(
    signed: Signed, tmp_path: Path
) -> None:
    store, source = signed.store, signed.source
    before = store.signature(source)
    session: Any = SimpleNamespace(signing_key=signed.key, store=store)
    assert sign(session, signed.stored) == signed.key.id
    assert store.signature(source) == before
    session.signing_key = a_key(tmp_path)
    assert sign(session, signed.stored) == session.signing_key.id
    assert session.signing_key.trusted.check(
        signed.manifest, store.signature(source), source=source
    )
    session.signing_key = None
    assert sign(session, signed.stored) is None


@pytest.mark.parametrize("has_keys", [True, False])
def test_the_command_says_what_it_looked_at_and_ends_with_1_at_a_fault(
    signed: Signed, monkeypatch: pytest.MonkeyPatch, *, has_keys: bool
) -> None:
    class Plane:
        def registry(self):
            return self

        def version(self, name: str, version: str) -> ModelVersion:
            assert (name, version) == ("tiny", "7")
            return signed.version

        def artifacts(self) -> ArtifactStore:
            return signed.store

        def trusted_keys(self) -> TrustedKeys | None:
            return signed.key.trusted if has_keys else None

    monkeypatch.setattr(cli, "compose", lambda _: Plane())
    quick = CliRunner().invoke(cli.app, ["verify", "tiny", "7", "--quick"])
    assert quick.exit_code == 0
    assert "unread the bytes" in quick.stdout
    assert ("unread the signature" in quick.stdout) is not has_keys
    flip(signed, "config.json")
    full = CliRunner().invoke(cli.app, ["verify", "tiny", "7"])
    assert full.exit_code == 1
    assert "FAULT  The bytes of config.json" in full.stdout
