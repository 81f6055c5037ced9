"""Where MLflow, S3 and the controller are; read once by an entry point and passed on. Credentials stay in AWS' own variables."""

from pathlib import Path

from pydantic import AliasChoices, Field, SecretStr
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


class SigningSettings(BaseSettings):
    """Which signatures are asked for, in the environment of a controller and of the commands beside it."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_prefix="SHIPWAY_")

    signing_keys: Path | None = None
    """Public keys: a PEM file, or a folder of `*.pem` files. With them every version has to be signed by one of them."""


class MlflowAppSettings(BaseSettings):
    """What `mlflow server --app-name shipway` reads in the server's own environment."""

    model_config = SettingsConfigDict(
        frozen=True, extra="ignore", populate_by_name=True, env_prefix="SHIPWAY_"
    )

    webhook_secret: SecretStr | None = None
    """The controller's own; without it no hint is sent and no name is written."""
    controller_url: str = "http://127.0.0.1:8090"
    """Where the controller takes hints."""
    server_kind: str = Field(default="uvicorn", validation_alias=AliasChoices("_MLFLOW_SGI_NAME"))
    """`uvicorn`, `gunicorn` or `waitress`; set by `mlflow server` itself, never by hand."""
