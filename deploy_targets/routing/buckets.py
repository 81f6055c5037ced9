"""Sticky shares: which version a user gets, so that the same one gets it again and shares stay exact. Pure.

A user has a bucket, 0 to 99, from a salted hash; the guard computes it and knows no weights. The split maps buckets to
versions and knows no users, so one write still moves everything. Each version ranks the buckets in an order of its own,
and takes as many as it has percent, the highest version first and the lowest what is left. So between two versions
a share that grows keeps whom it has and only adds, whichever of them it is that grows; and another version meets other
users first, so that it is not always the same ones who try what is new.
"""

import hashlib
import hmac
from collections.abc import Iterable

from deploy_targets.routing.traffic import Traffic

BUCKET_HEADER = "x-shipway-bucket"
"""On a request, set by the guard alone: the user's bucket, two digits."""
SPLIT_HEADER = "x-shipway-split"
"""On a response that was shared out: the versions that share, joined by commas. A new list means that users start anew."""
BUCKETS = 100
"""One for each percent."""


def digest_of(user: str, *, endpoint: str, salt: str) -> bytes:
    """What stands for a user: 32 bytes that do not tell who it is. HMAC-SHA256 under the salt of endpoint, NUL, user."""
    return hmac.digest(salt.encode(), f"{endpoint}\0{user}".encode(), "sha256")


def bucket_of(digest: bytes) -> int:
    """The bucket: the first 8 bytes, as a number, modulo 100. No bucket is likelier than another by more than 1e-17."""
    return int.from_bytes(digest[:8], "big") % BUCKETS


def bucket_text(bucket: int) -> str:
    """As the header has it."""
    return f"{bucket:02}"


def shares(traffic: Traffic) -> dict[str, tuple[int, ...]]:
    """The buckets of each version with traffic, each bucket at exactly one; none where one version has all, or none has."""
    versions = sorted(traffic.weights, key=_rank_of, reverse=True)
    if len(versions) <= 1:
        return {}
    left = set(range(BUCKETS))
    taken: dict[str, tuple[int, ...]] = {}
    for version in versions:
        own = [bucket for bucket in _order(version) if bucket in left][: traffic.weights[version]]
        taken[version] = tuple(sorted(own))
        left -= set(own)
    return taken


def pattern(buckets: Iterable[int]) -> str:
    """A regular expression that matches exactly the header of these buckets; the same in RE2, PCRE and ECMAScript."""
    return f"^({'|'.join(map(bucket_text, buckets))})$"


def split_name(traffic: Traffic) -> str:
    """The value of `SPLIT_HEADER`; it does not change while weights do."""
    return ",".join(sorted(traffic.weights, key=_rank_of))


def _order(version: str) -> list[int]:
    """The buckets in the order in which this version takes them."""

    def place(bucket: int) -> bytes:
        return hashlib.sha256(f"{version}\0{bucket}".encode()).digest()

    return sorted(range(BUCKETS), key=place)


def _rank_of(version: str) -> tuple[int, str]:
    """Numbers by size, whatever else there may be after them by name."""
    return (int(version), "") if version.isdecimal() else (-1, version)
