"""How the controller process is run, read once by its entry point.

What is promised to users is in the endpoint file instead.
"""

from typing import Annotated, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from deploy_targets.rollout.notice import TELLABLE
from registry.events import Event


class ControllerSettings(BaseSettings):
    """Environment variables with the prefix SHIPWAY_."""

    model_config = SettingsConfigDict(env_prefix="SHIPWAY_", frozen=True, extra="ignore")

    poll_s: Annotated[float, Field(gt=0)] = 60
    """How often the registry is read when nothing is under way."""
    tick_s: Annotated[float, Field(gt=0)] = 5
    """How often a rollout under way is looked at."""
    workers: Annotated[int, Field(ge=1, le=64)] = 8
    """Endpoints that are looked at at the same time. One that takes longer than a second does not count."""
    controller_port: Annotated[int, Field(ge=0, le=65535)] = 8090
    """Health and webhook receiver; 0 takes a free one."""
    controller_host: str = "127.0.0.1"
    """The address on which they listen. In a pod it is 0.0.0.0, so that probes and MLflow reach them."""
    controller_url: str | None = None
    """Where MLflow reaches the receiver, for example http://shipway-controller.shipway:8090. Without it a controller that listens beyond loopback sets no webhook up."""
    webhook_secret: SecretStr | None = None
    """With which MLflow signs its webhooks; without it every hint is refused, and polling alone drives the loop."""
    lease_duration_s: Annotated[float, Field(ge=1)] = 15
    """On Kubernetes: a controller that did not renew its Lease for so long is followed by another one."""
    lease_renew_deadline_s: Annotated[float, Field(gt=0)] = 10
    """On Kubernetes: a controller acts no longer after its last confirmed renewal than this."""
    lease_retry_s: Annotated[float, Field(gt=0)] = 2
    """On Kubernetes: between two attempts to renew the Lease, or to get it."""

    @model_validator(mode="after")
    def _check_lease(self) -> Self:
        if not self.lease_retry_s < self.lease_renew_deadline_s < self.lease_duration_s:
            message = (
                f"SHIPWAY_LEASE_RETRY_S ({self.lease_retry_s:g}) must be below SHIPWAY_LEASE_RENEW_DEADLINE_S "
                f"({self.lease_renew_deadline_s:g}), and that below SHIPWAY_LEASE_DURATION_S ({self.lease_duration_s:g}): "
                "else two controllers could lead at once."
            )
            raise ValueError(message)
        return self


class NotifySettings(BaseSettings):
    """Environment variables with the prefix SHIPWAY_NOTIFY_."""

    model_config = SettingsConfigDict(
        env_prefix="SHIPWAY_NOTIFY_", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    url: SecretStr | None = None
    """A webhook that takes Slack's `{"text": …}`; a secret. https, except on this machine. Without it nobody is told."""
    events: Annotated[tuple[Event, ...], NoDecode] = (
        Event.ROLLOUT_STARTED,
        Event.ROLLOUT_PROMOTED,
        Event.ROLLOUT_ROLLED_BACK,
        Event.PROMOTION_REFUSED,
        Event.ROLLOUT_WAITS,
        Event.OVERRIDE_APPLIED,
    )
    """What is told, separated by commas. There are also rollout.goes_on, rollout.set_back, rollout.step_advanced, rollout.withdrawn, rollout.superseded and weights.disturbed."""
    mlflow_url: str | None = None
    """Where people open MLflow, for the links; MLFLOW_TRACKING_URI by default."""

    @field_validator("events", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [one.strip() for one in value.split(",")] if isinstance(value, str) else value

    @field_validator("events")
    @classmethod
    def _check_tellable(cls, value: tuple[Event, ...]) -> tuple[Event, ...]:
        if untold := set(value) - set(TELLABLE):
            message = f"nobody can be told of {', '.join(sorted(untold))}; there is {', '.join(sorted(TELLABLE))}"
            raise ValueError(message)
        return value
