"""What the environment tells Ray's clients."""

from pydantic import AliasChoices, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class RayClientSettings(BaseSettings):
    """The names are Ray's and MLflow's own."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    ray_address: str | None = Field(
        default=None, validation_alias=AliasChoices("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
    )
    """The dashboard to which `mlflow run --backend shipway-ray` sends jobs, where its configuration names none."""
    ray_token: SecretStr | None = Field(default=None, validation_alias="RAY_AUTH_TOKEN")
    """The dashboard's token, where it asks for one."""
    run_id: str | None = Field(default=None, validation_alias="MLFLOW_RUN_ID")
    """The MLflow run for which the job is; without it that of the same command, or a new one."""
