"""What a signature holds against whom: somebody who may write to S3 and to MLflow, and has no key."""

import base64
import contextlib
import json
import subprocess
from pathlib import Path
from typing import Any

import model_signing.signing
import model_signing.verifying
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.digests import BESIDE, MANIFEST_NAME, SIGNATURE_NAME, describe_folder
from registry.errors import BadInput, IntegrityError
from registry.release import ArtifactManifest, FileEntry
from registry.signing import SigningKey, TrustedKeys, make_private_key

SOURCE = "s3://shipway/models/1"


def a_key(folder: Path, name: str = "key") -> SigningKey:
    file = folder / f"{name}.private"
    file.write_text(make_private_key())
    return SigningKey.read(file)


@pytest.fixture(scope="module")
def key(tmp_path_factory) -> SigningKey:
    return a_key(tmp_path_factory.mktemp("keys"))


def write_artifact(folder: Path, weights: bytes = b"weights") -> ArtifactManifest:
    (folder / "nested").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / ".gitattributes").write_text("a hub puts it there")
    (folder / "nested" / "model.safetensors").write_bytes(weights)
    return describe_folder(folder)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("artifact") / "model"
    write_artifact(folder)
    return folder


@pytest.fixture(scope="module")
def manifest(artifact) -> ArtifactManifest:
    return describe_folder(artifact)


@pytest.fixture(scope="module")
def signature(key, manifest) -> bytes:
    return key.sign(manifest)


def fault(trusted: TrustedKeys, manifest: ArtifactManifest, signature: bytes | None) -> str:
    with pytest.raises(IntegrityError) as refused:
        trusted.check(manifest, signature, source=SOURCE)
    return str(refused.value)


def with_file(manifest: ArtifactManifest, path: str, digest: str) -> ArtifactManifest:
    entry = FileEntry(path=path, digest="sha256:" + 64 * digest, size_bytes=7)  # type: ignore[arg-type]
    return ArtifactManifest.of([*(f for f in manifest.files if f.path != path), entry])


def test_what_a_trusted_key_signed_holds(key, manifest, signature) -> None:
    assert key.trusted.check(manifest, signature, source=SOURCE) == key.id


def test_a_changed_file_is_found(key, manifest, signature) -> None:
    changed = with_file(manifest, "config.json", "e")
    assert "Hash mismatch for 'config.json'" in fault(key.trusted, changed, signature)


def test_a_file_too_many_or_too_few_is_found(key, manifest, signature) -> None:
    more = with_file(manifest, "modeling.py", "e")
    assert "modeling.py" in fault(key.trusted, more, signature)
    fewer = ArtifactManifest.of(manifest.files[1:])
    assert "Missing files" in fault(key.trusted, fewer, signature)


def test_the_signature_of_another_version_is_found(key, manifest, tmp_path) -> None:
    other = key.sign(write_artifact(tmp_path / "other", b"other weights"))
    assert "Hash mismatch for 'nested/model.safetensors'" in fault(key.trusted, manifest, other)


def test_no_signature_is_a_fault(key, manifest) -> None:
    assert "is not signed" in fault(key.trusted, manifest, None)


def test_a_foreign_key_is_a_fault_that_names_both(key, manifest, tmp_path) -> None:
    foreign = a_key(tmp_path)
    said = fault(key.trusted, manifest, foreign.sign(manifest))
    assert foreign.id in said
    assert key.id in said


def test_a_foreign_signature_under_a_trusted_keys_name_is_broken(key, manifest, tmp_path) -> None:
    forged = json.loads(a_key(tmp_path).sign(manifest))
    forged["verificationMaterial"]["publicKey"]["hint"] = key.id.removeprefix("sha256:")
    assert "is broken" in fault(key.trusted, manifest, json.dumps(forged).encode())


def test_a_statement_that_was_changed_after_it_was_signed_is_broken(
    key, manifest, signature
) -> None:
    document = json.loads(signature)
    envelope = document["dsseEnvelope"]
    statement = json.loads(base64.b64decode(envelope["payload"]))
    statement["predicate"]["resources"].pop()
    envelope["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    fewer = ArtifactManifest.of(manifest.files[:-1])
    assert "is broken" in fault(key.trusted, fewer, json.dumps(document).encode())


@given(st.data())
def test_a_truncated_or_damaged_signature_is_a_fault_and_never_a_crash(
    key, manifest, signature, data
) -> None:
    at = data.draw(st.integers(0, len(signature) - 1))
    cut = signature[:at]
    fault(key.trusted, manifest, cut)
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != signature[at]))
    damaged = cut + bytes([other]) + signature[at + 1 :]
    # Base64's last digit has bits that mean nothing, and a field may be unknown: then it still says the same.
    with contextlib.suppress(IntegrityError):
        assert key.trusted.check(manifest, damaged, source=SOURCE) == key.id


NOTHINGS: list[Any] = [None, 0, "x", [], {}, [{}], {"a": 1}]


@given(st.data())
def test_a_signature_with_anything_else_in_a_place_of_it_is_a_fault_and_never_a_crash(
    key, manifest, signature, data
) -> None:
    document = json.loads(signature)
    at: Any = document
    while True:
        name = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        if isinstance(at[name], dict | list) and at[name] and data.draw(st.booleans()):
            at = at[name]
            continue
        at[name] = data.draw(st.sampled_from([one for one in NOTHINGS if one != at[name]]))
        break
    with contextlib.suppress(IntegrityError):
        # What is not looked at (say, an unknown keyid) may be anything.
        assert key.trusted.check(manifest, json.dumps(document).encode(), source=SOURCE) == key.id


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b"null", b"\xff", b"[" * 100_000])
def test_what_is_no_signature_at_all_cannot_be_read(key, manifest, text) -> None:
    assert "cannot be read" in fault(key.trusted, manifest, text)


def test_two_keys_may_be_trusted_at_once(key, manifest, signature, tmp_path) -> None:
    new = a_key(tmp_path, "new")
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "old.pem").write_text(key.public)
    (keys / "new.pem").write_text(new.public)
    trusted = TrustedKeys.read(keys)
    assert trusted.ids == tuple(sorted([key.id, new.id]))
    assert trusted.check(manifest, signature, source=SOURCE) == key.id
    assert trusted.check(manifest, new.sign(manifest), source=SOURCE) == new.id


def test_the_librarys_own_reading_of_the_bytes_agrees_with_our_digests(
    key, artifact, manifest, signature, tmp_path
) -> None:
    """Both ways: it takes our signature for the folder as it lies in S3, and we take its own."""
    copied = tmp_path / "copied"
    write_artifact(copied)
    (copied / MANIFEST_NAME).write_text(manifest.to_json())
    (copied / SIGNATURE_NAME).write_bytes(signature)
    public = tmp_path / "public.pem"
    public.write_text(key.public)
    theirs = model_signing.hashing.Config().set_ignored_paths(
        paths=sorted(BESIDE), ignore_git_paths=False
    )
    verifier = model_signing.verifying.Config().use_elliptic_key_verifier(public_key=public)
    verifier.set_hashing_config(theirs).verify(copied, copied / SIGNATURE_NAME)
    (copied / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="Hash mismatch"):
        verifier.verify(copied, copied / SIGNATURE_NAME)

    hashing = model_signing.hashing.Config().set_ignored_paths(paths=[], ignore_git_paths=False)
    signer = model_signing.signing.Config().use_elliptic_key_signer(private_key=key._path)
    signer.set_hashing_config(hashing).sign(artifact, tmp_path / "theirs")
    made = (tmp_path / "theirs").read_bytes()
    assert key.trusted.check(manifest, made, source=SOURCE) == key.id


def test_shards_that_name_the_same_bytes_are_not_taken_for_files(
    key, artifact, manifest, tmp_path
) -> None:
    hashing = model_signing.hashing.Config().use_shard_serialization(shard_size=1 << 20)
    hashing.set_ignored_paths(paths=[], ignore_git_paths=False)
    signer = model_signing.signing.Config().use_elliptic_key_signer(private_key=key._path)
    signer.set_hashing_config(hashing).sign(artifact, tmp_path / "shards")
    assert "does not cover" in fault(key.trusted, manifest, (tmp_path / "shards").read_bytes())


# Keys


def test_the_documented_commands_make_a_pair_that_works(manifest, tmp_path) -> None:
    private, public = tmp_path / "signing.key", tmp_path / "signing.pem"
    made = "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out"
    subprocess.run([*made.split(), private], check=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    assert private.stat().st_mode & 0o77 == 0
    key = SigningKey.read(private)
    assert TrustedKeys.read(public).check(manifest, key.sign(manifest), source=SOURCE) == key.id
    told = subprocess.run(["sha256sum", public], check=True, capture_output=True, text=True)
    assert key.id == f"sha256:{told.stdout.split()[0]}"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("genpkey -algorithm RSA", "not on an elliptic curve"),
        ("genpkey -algorithm ED25519", "not on an elliptic curve"),
        ("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:secp256k1", "secp256k1"),
        (
            "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -aes256 -pass pass:x",
            "encrypted",
        ),
    ],
)
def test_a_key_that_cannot_sign_is_refused_before_anything_is_done(command, said, tmp_path) -> None:
    file = tmp_path / "key"
    subprocess.run(["openssl", *command.split(), "-out", file], check=True, capture_output=True)
    with pytest.raises(BadInput, match=said):
        SigningKey.read(file)


def test_what_holds_no_public_key_is_refused_and_not_quoted(tmp_path) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        TrustedKeys.read(tmp_path / "absent")
    with pytest.raises(BadInput, match=r"has no \*.pem file"):
        TrustedKeys.read(tmp_path)
    private = make_private_key()
    (tmp_path / "wrong.pem").write_text(private)
    with pytest.raises(BadInput, match="no public key") as refused:
        TrustedKeys.read(tmp_path)
    assert private.splitlines()[1] not in str(refused.value)
    with pytest.raises(BadInput, match="cannot be read"):
        SigningKey.read(tmp_path / "absent")
    (tmp_path / "torn").write_text(private[:100])
    with pytest.raises(BadInput, match="no private key") as refused:
        SigningKey.read(tmp_path / "torn")
    assert private[30:60] not in str(refused.value)
