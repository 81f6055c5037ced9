"""How the guard's process is run, read once by its entry point from SHIPWAY_GUARD_*."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from deploy_targets.guard.protocol import ProtocolName
from deploy_targets.guard_policy import GuardPolicy

Port = Annotated[int, Field(ge=1, le=65535)]


class GuardSettings(BaseSettings):
    """Environment variables with the prefix SHIPWAY_GUARD_."""

    model_config = SettingsConfigDict(env_prefix="SHIPWAY_GUARD_", frozen=True, extra="ignore")

    endpoint: Annotated[str, Field(min_length=1)]
    """The endpoint's name: what clients give as `model`."""
    model: str = ""
    """The registered model's name, for the list of models; empty leaves it out."""
    upstream_url: Annotated[str, Field(pattern=r"^https?://")]
    """The split, without /v1."""
    upstream_host: str = ""
    """The Host header by which a Gateway knows the endpoint; that of upstream_url by default."""
    protocol: ProtocolName = "openai"
    """What is spoken behind the split; with `triton` the model there is called like the endpoint."""
    host: str = "127.0.0.1"
    """The address to listen on; loopback unless told otherwise."""
    port: Port
    """For clients."""
    admin_port: Port
    """For metrics and health; on the same host, and not for clients."""
    auth: Literal["api-key", "none"] = "api-key"
    """`none` lets anybody in."""
    keys_file: Path | None = None
    """JSON with the names and hashes of keys; read again when it changes."""
    policy_file: Path | None = None
    """JSON with the endpoint file's `guard`, read once at the start; without it nothing is checked, filtered or limited."""
    redis_url: SecretStr | None = None
    """Where the guards of all processes count limits and budgets together, like redis://:password@host:6379/0. Without it
    each process counts for itself, and begins anew when it is started anew."""
    judge_key: SecretStr | None = None
    """What `guard.judge` of the policy shows to its judge; without it nothing is shown."""
    spool_folder: Path | None = None
    """Where `guard.record` of the policy keeps its records until they are shipped; this process's alone."""
    timeout_s: Annotated[float, Field(gt=0)] = 65
    """For a whole answer. Longer than the split's own, whose 504 names the version that was too slow."""
    drain_s: Annotated[int, Field(ge=0)] = 30
    """How long requests in flight may take to finish when the guard is told to stop."""

    @property
    def redis(self) -> str | None:
        """`redis_url` in the clear."""
        return None if self.redis_url is None else self.redis_url.get_secret_value()

    def policy(self) -> GuardPolicy:
        """What the policy file says.

        Raises:
            OSError: it cannot be read.
            ValidationError: it is of another form.
        """
        if self.policy_file is None:
            return GuardPolicy()
        return GuardPolicy.model_validate_json(self.policy_file.read_bytes())

    @field_validator("redis_url")
    @classmethod
    def _is_of_redis(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not url.get_secret_value().startswith(("redis://", "rediss://")):
            message = "must begin with redis:// or rediss://"
            raise ValueError(message)
        return url

    @model_validator(mode="after")
    def _keys_go_with_auth(self) -> Self:
        if self.auth == "api-key" and self.keys_file is None:
            message = "set SHIPWAY_GUARD_KEYS_FILE, or SHIPWAY_GUARD_AUTH=none to let anybody in"
            raise ValueError(message)
        return self
