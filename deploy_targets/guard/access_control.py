"""Who may come in: API keys by their SHA-256 hashes, never in clear. Pure.

`key_file` reads the file and notices its changes. Fast hashing is right here: a key is 256 random bits, not a password.
"""

import hmac
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from deploy_targets.guard.errors import KeyFileInvalid, KeyRefused, NotPermitted

_SCHEME = "bearer"


Role = Literal["user", "operator"]


class Key(BaseModel):
    """One key, as the file has it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[\w.@-]{1,64}$")]
    """Of whom or what it is for; logs and counts show it."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """The hash of the key in hex."""
    endpoints: tuple[str, ...] | None = None
    """Those that it opens; all without."""
    role: Role = "user"
    """An operator may also choose the version that answers."""


class _KeyFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    keys: tuple[Key, ...]

    @model_validator(mode="after")
    def _are_told_apart(self) -> Self:
        names = [key.name for key in self.keys]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            message = f"each key needs a name of its own; used twice: {', '.join(twice)}"
            raise ValueError(message)
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Whose key it is; the name is what logs show."""

    name: str
    endpoints: tuple[str, ...] | None = None
    """None: all of them."""
    may_pin: bool = False
    """May choose the version that answers."""


ANYBODY = Caller(name="anybody", may_pin=True)
"""The caller where access control is switched off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRing:
    """The keys that are let in: (hash in hex, caller)."""

    entries: tuple[tuple[str, Caller], ...]

    def admit(self, authorization: str | None, *, endpoint: str) -> Caller:
        """The caller whose key this `Authorization` header holds.

        Every hash is compared, each in constant time, so that the time taken tells nothing about a key.

        Raises:
            KeyRefused: no key, not a bearer key, or one that is not on the ring.
            NotPermitted: a key of other endpoints.
        """
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != _SCHEME or not key.strip():
            message = "No API key was given. Send the header 'Authorization: Bearer <key>'."
            raise KeyRefused(message)
        digest = sha256(key.strip().encode()).hexdigest()
        found: Caller | None = None
        for known, caller in self.entries:
            if hmac.compare_digest(known, digest):
                found = caller
        if found is None:
            message = "The API key is not known here. Check it, or ask for a new one."
            raise KeyRefused(message)
        if found.endpoints is not None and endpoint not in found.endpoints:
            message = f"This API key is not for {endpoint!r}. Use another, or ask for that endpoint to be added to it."
            raise NotPermitted(message)
        return found


def parse_keys(text: str) -> KeyRing:
    """The keys of a file `{"keys": [{"name": "...", "sha256": "<hex>"}]}`. An empty list lets nobody in.

    Raises:
        KeyFileInvalid: another form, an unknown field, or a hash that is none.
    """
    try:
        parsed = _KeyFile.model_validate_json(text)
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(map(str, fault["loc"])) or "file"
        message = f"{place}: {fault['msg']}"
        raise KeyFileInvalid(message) from error
    return KeyRing(entries=tuple((key.sha256, _caller(key)) for key in parsed.keys))


def _caller(key: Key) -> Caller:
    return Caller(name=key.name, endpoints=key.endpoints, may_pin=key.role == "operator")
