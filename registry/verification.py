"""Is a version still what it was when it was evaluated and signed? Nothing is changed here.

`shipway verify` asks about every byte, the controller about all but the bytes, before each rollout.
"""

from dataclasses import dataclass

from registry.artifact_store import ArtifactStore
from registry.errors import IntegrityError, NotFound
from registry.release import DIGEST_TAG, ArtifactManifest, ModelVersion, Release, parse_digest
from registry.signing import TrustedKeys


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What was found."""

    faults: tuple[str, ...]
    """One sentence each; none when all is well."""
    held: tuple[str, ...]
    """What was looked at and is as it should be."""


def verify_version(
    version: ModelVersion, store: ArtifactStore, trusted: TrustedKeys | None, *, quick: bool
) -> Verified:
    """Compares the version's digest, the artifact's manifest, its files and its signature with one another.

    All bytes are read, with `quick` only names and sizes. Without `trusted` keys no signature is looked at.

    Raises:
        ArtifactStoreUnavailable: S3 does not answer: nothing is known.
    """
    try:
        manifest = _whole(version, store)
    except (IntegrityError, NotFound) as error:
        return Verified(faults=(str(error),), held=())
    faults: list[str] = []
    held = [f"{len(manifest.files)} files, {manifest.size_bytes} bytes: names and sizes"]
    if not quick:
        changed = _changed(version.source, manifest, store)
        faults += changed
        if not changed:
            held.append(f"every byte, as {manifest.digest} says")
    if trusted is not None:
        try:
            key = trusted.check(manifest, store.signature(version.source), source=version.source)
            held.append(f"signed with the trusted key {key}")
        except IntegrityError as error:
            faults.append(str(error))
    return Verified(faults=tuple(faults), held=tuple(held))


def check_release(release: Release, store: ArtifactStore, trusted: TrustedKeys | None) -> None:
    """Whether the release lies in S3 whole and is signed. No bytes are read: the engines compare them as they load.

    With `trusted` keys it has to be signed by one of them; without, signatures are not looked at.

    Raises:
        NotFound: there is no finished artifact.
        IntegrityError: it is another one, or not signed by a trusted key.
        ArtifactStoreUnavailable: S3 does not answer: nothing is known.
    """
    manifest = store.check(release.source, release.digest)
    if trusted is not None:
        trusted.check(manifest, store.signature(release.source), source=release.source)


def _whole(version: ModelVersion, store: ArtifactStore) -> ArtifactManifest:
    tag = version.tags.get(DIGEST_TAG)
    if tag is None:
        message = f"{version.model} v{version.version} has no digest (tag {DIGEST_TAG}), so nobody can say what its bytes should be."
        raise IntegrityError(message)
    return store.check(version.source, parse_digest(tag))


def _changed(source: str, manifest: ArtifactManifest, store: ArtifactStore) -> list[str]:
    faults: list[str] = []
    for file in manifest.files:
        try:
            found = store.digest_of(source, file.path)
        except NotFound as error:
            faults.append(str(error))
            continue
        if found != file.digest:
            faults.append(
                f"The bytes of {file.path} at {source} are {found}, but {file.digest} was evaluated."
            )
    return faults
