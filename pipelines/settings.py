"""What the environment tells a pipeline process. MLflow's and S3's addresses are in `registry.settings`."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class PipelineSettings(BaseSettings):
    """`mlflow run` sets the run's id for the process that it starts."""

    # Not populate_by_name: it would have `home` read HOME as well.
    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    home: Path = Field(default=Path(".shipway"), validation_alias="SHIPWAY_HOME")
    """The state folder; stages work below `work/` in it, demo data lies in `data/`."""
    signing_key_file: Path | None = Field(default=None, validation_alias="SHIPWAY_SIGNING_KEY_FILE")
    """The private key (PEM) that signs each version; without it versions are not signed."""
    run_id: str | None = Field(default=None, validation_alias="MLFLOW_RUN_ID")
    """The MLflow run to go on with; without it a new one is made."""
    price_per_hour: float | None = Field(
        default=None, validation_alias="SHIPWAY_PRICE_PER_HOUR", ge=0
    )
    """What an hour of this machine costs, in your currency; with it each stage logs the metric `cost`."""
    keep_work_days: int = Field(default=30, validation_alias="SHIPWAY_KEEP_WORK_DAYS", ge=1)
    """Finished work and broken-off downloads that no run used for as long are deleted as a run begins."""
    experiment: str = Field(
        default="shipway/pipelines", validation_alias="MLFLOW_EXPERIMENT_NAME", min_length=1
    )
    """Where a new run is made."""
