"""Signatures over an artifact's files, as OpenSSF model-signing writes and checks them. The only importer of that library.

A signature is a sigstore bundle around an in-toto statement, which names each file and its SHA-256. Both come from
the artifact's manifest, so that no byte is read here: whoever loads the files compares them with the manifest. The
keys are on elliptic curves (P-256, P-384 or P-521), in PEM files; no server is asked. docs/signing.md says who guards what.
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Self

import model_signing.hashing
import model_signing.manifest
import model_signing.signing
import model_signing.verifying
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from registry.digests import BESIDE, digest_bytes
from registry.errors import BadInput, IntegrityError
from registry.release import ArtifactManifest

# Their types leave what a path is unknown.
_signer: Any = model_signing.signing
_verifier: Any = model_signing.verifying
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_WHAT_HELPS = "docs/signing.md says how a key is made."


class SigningKey:
    """A private key in a file. The file is read anew for each signature, and its content kept nowhere."""

    def __init__(self, path: Path, public: bytes) -> None:
        """`public` is its public half as a PEM document."""
        self._path = path
        self._public = public

    @classmethod
    def read(cls, path: Path) -> Self:
        """The key in that file.

        Raises:
            BadInput: there is none that can sign, or it is encrypted.
        """
        try:
            key = serialization.load_pem_private_key(_content(path), password=None)
        except TypeError as error:
            message = f"The signing key {path} is encrypted. Give one without a password, readable by its owner alone."
            raise BadInput(message) from error
        except (ValueError, UnsupportedAlgorithm) as error:
            # The library's own words are left out: nobody has to know what it quotes.
            message = f"{path} holds no private key in PEM form. {_WHAT_HELPS}"
            raise BadInput(message) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            message = f"The signing key {path} is not on an elliptic curve. {_WHAT_HELPS}"
            raise BadInput(message)
        return cls(path, _pem(key.public_key(), path))

    @property
    def public(self) -> str:
        """Its public half as a PEM document."""
        return self._public.decode()

    @property
    def id(self) -> str:
        """The SHA-256 of the public half as a PEM document, which is how a signature names its key."""
        return digest_bytes(self._public)

    @property
    def trusted(self) -> "TrustedKeys":
        """What its own signatures are checked with."""
        return TrustedKeys({self.id: self._public})

    def sign(self, manifest: ArtifactManifest) -> bytes:
        """The signature over all files of `manifest`, as it is stored."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "signature"
            config = _signer.Config().use_elliptic_key_signer(private_key=self._path)
            config.set_hashing_config(_Known(manifest)).sign(folder, file)
            return file.read_bytes()


class TrustedKeys:
    """Public keys. What one of them has signed is what it was when it was signed."""

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        """PEM documents by their ids."""
        self._keys = dict(keys)

    @classmethod
    def read(cls, path: Path) -> Self:
        """The key in that file, or those in all `*.pem` files of that folder.

        Raises:
            BadInput: there is none, or something else.
        """
        files = sorted(path.glob("*.pem")) if path.is_dir() else [path]
        if not files:
            message = f"{path} has no *.pem file, so no signature could be checked. {_WHAT_HELPS}"
            raise BadInput(message)
        return cls({digest_bytes(pem): pem for pem in map(_public_key, files)})

    @property
    def ids(self) -> tuple[str, ...]:
        """Of all keys."""
        return tuple(sorted(self._keys))

    def check(self, manifest: ArtifactManifest, signature: bytes | None, *, source: str) -> str:
        """The id of the key that signed exactly the files of `manifest`, which lie at `source`.

        Raises:
            IntegrityError: there is no signature, it is broken or of a foreign key, or it covers other files.
        """
        if signature is None:
            message = f"{source} is not signed. Release it with SHIPWAY_SIGNING_KEY_FILE set to a key that is trusted."
            raise IntegrityError(message)
        key = _key_named(signature, source)
        if key not in self._keys:
            message = f"{source} is signed with the key {key}, which is not trusted; trusted are {', '.join(self.ids)}."
            raise IntegrityError(message)
        with tempfile.TemporaryDirectory() as folder:
            file, public = Path(folder) / "signature", Path(folder) / "key"
            file.write_bytes(signature)
            public.write_bytes(self._keys[key])
            config = _verifier.Config().use_elliptic_key_verifier(public_key=public)
            try:
                config.set_hashing_config(_Known(manifest)).verify(folder, file)
            except InvalidSignature as error:
                message = f"The signature at {source} is broken: it is not what the key {key} signed. Release it anew."
                raise IntegrityError(message) from error
            except _UNREADABLE as error:
                # Their message on files that differ names each of them, which may be thousands.
                told = str(error)[:500]
                message = f"The signature at {source} does not cover this artifact: {told}. Release it anew."
                raise IntegrityError(message) from error
        return key


_UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""What the library raises at documents that are no signatures: it has no exceptions of its own."""


class _Known(model_signing.hashing.Config):
    """In place of the library's own reading of a folder: the digests that a manifest names already."""

    def __init__(self, manifest: ArtifactManifest) -> None:
        super().__init__()
        self._known = manifest

    def hash(
        self,
        model_path: object,  # noqa: ARG002 - theirs
        *,
        files_to_hash: object = None,  # noqa: ARG002 - theirs
    ) -> model_signing.manifest.Manifest:
        """All files of the manifest."""
        theirs: Any = model_signing.manifest
        kind = theirs.SerializationType.from_args(
            {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                # So that the library's own command takes the folder as it lies in S3.
                "ignore_paths": sorted(BESIDE),
            }
        )
        items = [
            theirs.FileManifestItem(
                path=PurePosixPath(file.path),
                digest=theirs.hashing.Digest(
                    "sha256", bytes.fromhex(file.digest.removeprefix("sha256:"))
                ),
            )
            for file in self._known.files
        ]
        name = self._known.digest.removeprefix("sha256:")
        return model_signing.manifest.Manifest(name, items, kind)


def make_private_key() -> str:
    """A new key on P-256 as a PEM document."""
    private = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return private.decode()


def _key_named(signature: bytes, source: str) -> str:
    """The id of the key with which the document says that it was signed. Nothing of that is proven yet."""
    try:
        document = json.loads(signature)
        hint = document["verificationMaterial"]["publicKey"]["hint"]
    except _UNREADABLE as error:
        message = (
            f"The signature at {source} cannot be read: {type(error).__name__}. Release it anew."
        )
        raise IntegrityError(message) from error
    return f"sha256:{hint}"


def _public_key(path: Path) -> bytes:
    try:
        key = serialization.load_pem_public_key(_content(path))
    except (ValueError, UnsupportedAlgorithm) as error:
        message = f"{path} holds no public key in PEM form. {_WHAT_HELPS}"
        raise BadInput(message) from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        message = f"The public key {path} is not on an elliptic curve. {_WHAT_HELPS}"
        raise BadInput(message)
    return _pem(key, path)


def _pem(key: ec.EllipticCurvePublicKey, path: Path) -> bytes:
    if not isinstance(key.curve, _CURVES):
        message = (
            f"{path} is on the curve {key.curve.name}. Use P-256, P-384 or P-521. {_WHAT_HELPS}"
        )
        raise BadInput(message)
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        message = f"The key {path} cannot be read ({error.strerror}). {_WHAT_HELPS}"
        raise BadInput(message) from error
