"""How the controller process is run, read once by its entry point.

What is promised to users is in the endpoint file instead.
"""

from typing import Annotated

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class ControllerSettings(BaseSettings):
    """Environment variables with the prefix SHIPWAY_."""

    model_config = SettingsConfigDict(env_prefix="SHIPWAY_", frozen=True, extra="ignore")

    poll_s: Annotated[float, Field(gt=0)] = 30
    """How often the registry is read when nothing is under way."""
    tick_s: Annotated[float, Field(gt=0)] = 5
    """How often a rollout under way is looked at."""
    workers: Annotated[int, Field(ge=1, le=64)] = 8
    """Endpoints that are looked at at the same time."""
    controller_port: Annotated[int, Field(ge=0, le=65535)] = 8090
    """Health and webhook receiver, on loopback; 0 takes a free one."""
    webhook_secret: SecretStr | None = None
    """With which MLflow signs its webhooks; without it every hint is refused, and polling alone drives the loop."""
