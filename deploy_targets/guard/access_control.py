"""Who may come in: API keys by their SHA-256 hashes, never in clear. Pure.

`key_file` reads the file and notices its changes. Fast hashing is right here: a key is 256 random bits, not a password.
"""

import hmac
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from deploy_targets.guard.errors import KeyFileInvalid, KeyRefused, NotPermitted
from deploy_targets.guard_policy import NO_LIMITS, Limits

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
    limits: Limits = NO_LIMITS
    """Its own; those that it does not name are the endpoint's for each key."""
    role: Role = "user"
    """An operator may also choose the version that answers."""


class KeyList(BaseModel):
    """The file of all keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    keys: tuple[Key, ...]

    @model_validator(mode="after")
    def _are_told_apart(self) -> Self:
        names = [key.name for key in self.keys]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            message = f"each key needs a name of its own; used twice: {', '.join(twice)}"
            raise ValueError(message)
        return self

    def with_key(self, key: Key) -> "KeyList":
        """One more.

        Raises:
            KeyFileInvalid: there is one of that name.
        """
        if any(one.name == key.name for one in self.keys):
            message = (
                f"there is a key named {key.name!r} already; revoke it, or choose another name"
            )
            raise KeyFileInvalid(message)
        return KeyList(keys=(*self.keys, key))

    def without(self, name: str) -> "KeyList":
        """One less.

        Raises:
            KeyFileInvalid: there is none of that name.
        """
        kept = tuple(one for one in self.keys if one.name != name)
        if len(kept) == len(self.keys):
            known = ", ".join(one.name for one in self.keys) or "none"
            message = f"there is no key named {name!r} (there: {known})"
            raise KeyFileInvalid(message)
        return KeyList(keys=kept)

    def document(self) -> str:
        """The file's text."""
        return self.model_dump_json(indent=1, exclude_defaults=True) + "\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Whose key it is; the name is what logs show."""

    name: str
    endpoints: tuple[str, ...] | None = None
    """None: all of them."""
    limits: Limits = NO_LIMITS
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
        digest = hash_of(key.strip())
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


def hash_of(key: str) -> str:
    """What is kept of a key."""
    return sha256(key.encode()).hexdigest()


def parse_keys(text: str) -> KeyRing:
    """The ring that `parse_key_list` describes. An empty list lets nobody in."""
    return KeyRing(entries=tuple((key.sha256, _caller(key)) for key in parse_key_list(text).keys))


def parse_key_list(text: str) -> KeyList:
    """The keys of a file `{"keys": [{"name": "...", "sha256": "<hex>"}]}`.

    Raises:
        KeyFileInvalid: another form, an unknown field, or a hash that is none.
    """
    try:
        return KeyList.model_validate_json(text)
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(map(str, fault["loc"])) or "file"
        message = f"{place}: {fault['msg']}"
        raise KeyFileInvalid(message) from error


def _caller(key: Key) -> Caller:
    return Caller(
        name=key.name,
        endpoints=key.endpoints,
        limits=key.limits,
        may_pin=key.role == "operator",
    )
