"""Where a replica keeps its verified copies of artifacts; the rest of what it needs comes in its arguments."""

from pathlib import Path

from pydantic_settings import BaseSettings, SettingsConfigDict


class EngineSettings(BaseSettings):
    """Environment variables with the prefix SHIPWAY_."""

    model_config = SettingsConfigDict(env_prefix="SHIPWAY_", frozen=True, extra="ignore")

    home: Path = Path(".shipway")
    """Copies lie in `models/` below it."""
