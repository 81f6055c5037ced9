"""From the version that is trained on to its unquantized base. Pure.

A champion is quantized, as a rule, and a quantized model is never trained: what is lost stays lost, and adapters that are
merged into it would be rounded anew. The version's tags say which base it was made of and where that is.
"""

import re
from dataclasses import dataclass

from registry.errors import BadInput, SourceInvalid
from registry.release import (
    BASE_TAG,
    DIGEST_TAG,
    SOURCE_TAG,
    Digest,
    ModelVersion,
    parse_digest,
)

_PARENT = re.compile(r"(\d+)|@?([A-Za-z][\w.-]*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """Where an unquantized base is, and what its bytes must add up to."""

    source: str
    """As `download` takes it."""
    digest: Digest | None
    """None where nobody noted it."""


def parse_parent(text: str) -> tuple[str | None, str | None]:
    """Version number and alias that `text` (`7`, `champion` or `@champion`) names; one of the two is None.

    Raises:
        BadInput: it reads like neither.
    """
    found = _PARENT.fullmatch(text)
    if found is None:
        message = f"{text!r} names no version. Give its number, or an alias like champion."
        raise BadInput(message)
    return found[1], found[2]


def find_base(parent: ModelVersion, *, named: str = "") -> Base:
    """The unquantized base of `parent`; `named` is where a person says that it is.

    Raises:
        SourceInvalid: the version does not say where, and nobody else does.
    """
    who = f"models:/{parent.model}/{parent.version}"
    noted = parent.tags.get(BASE_TAG)
    digest = None if noted is None else parse_digest(noted)
    if named:
        return Base(source=named, digest=digest)
    if digest is None or digest == parent.tags.get(DIGEST_TAG):
        # Not made by a recipe, or by one that changed nothing: it is its own base, unless it turns out to be quantized.
        return Base(source=who, digest=digest)
    source = parent.tags.get(SOURCE_TAG)
    if source is None:
        message = (
            f"{who} was quantized from a base with the digest {digest}, and does not say where that is. "
            "Name the source with -P base=...: it is taken if its bytes have that digest."
        )
        raise SourceInvalid(message)
    return Base(source=source, digest=digest)


def check_base(parent: ModelVersion, base: Base, *, digest: Digest, is_quantized: bool) -> None:
    """Refuses what was found at `base` where it is not what `parent` was made of, or cannot be trained.

    Raises:
        SourceInvalid: it is quantized, or other bytes.
    """
    who = f"models:/{parent.model}/{parent.version}"
    if base.digest is not None and digest != base.digest:
        message = (
            f"{base.source} has the digest {digest}, but {who} was made of {base.digest}. Somebody changed the source, "
            "or another library converts it by now. Name the right one with -P base=..., or release the model anew."
        )
        raise SourceInvalid(message)
    if is_quantized:
        message = (
            f"{base.source} is quantized, and {who} does not say what it was made of. "
            "Name its unquantized base with -P base=...."
        )
        raise SourceInvalid(message)
