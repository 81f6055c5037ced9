"""Where MLflow and S3 are; read once by an entry point and passed on. Credentials stay in AWS' own variables."""

from pydantic import AliasChoices, Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class RegistrySettings(BaseSettings):
    """The names are those that MLflow and the AWS SDK use themselves, where they have one."""

    # The prefix goes with populate_by_name, which would have `bucket` read BUCKET as well.
    model_config = SettingsConfigDict(
        frozen=True, extra="ignore", populate_by_name=True, env_prefix="SHIPWAY_"
    )

    tracking_uri: str = Field(
        default="http://127.0.0.1:5000", validation_alias=AliasChoices("MLFLOW_TRACKING_URI")
    )
    """MLflow's tracking and registry server."""
    bucket: str = Field(default="shipway", validation_alias=AliasChoices("SHIPWAY_BUCKET"))
    """The S3 bucket of model artifacts."""
    s3_endpoint_url: str | None = Field(
        default=None, validation_alias=AliasChoices("AWS_ENDPOINT_URL_S3")
    )
    """Another S3 server than AWS' own."""
