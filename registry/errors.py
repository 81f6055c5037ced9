"""Every error that Shipway raises on purpose. The message says what happened, then what to do.

ShipwayError
├── BadInput                 what the user gave cannot work (exit code 2)
│   ├── EndpointFileInvalid
│   ├── SourceInvalid        a model source that is missing, unreadable or of a kind we refuse
│   ├── RecipeInvalid
│   ├── ManifestInvalid      an object that its operator would refuse, or take and not obey
│   └── NotFound             no such endpoint, model or version
├── IntegrityError           bytes differ from the digest that was promised
├── Unavailable              an outside system did not answer; the same call may work later
│   ├── RegistryUnavailable
│   ├── ArtifactStoreUnavailable
│   ├── TargetUnavailable
│   │   ├── AnswerLost       a write that may or may not have been carried out
│   │   ├── ObjectChanged    a write by compare-and-set that came too late
│   │   ├── TargetChanged    it is not as it was seen when this was decided: look again, decide again
│   │   └── TargetRefused    it answered, and said no: the same call works once somebody has mended the cause
│   │       ├── KindMissing
│   │       └── FieldConflict
│   ├── JobsUnavailable      the cluster that a stage was sent to, or is sent to, did not answer
│   ├── MetricsUnavailable
│   └── StateUnavailable     the local state database is locked, or cannot be opened
├── WebhookRefused           MLflow does not call such an address
├── PromotionRefused         this version may not be deployed, and why
├── StateConflict            somebody else saved the state first: read it again, decide again
├── StateTooLarge            a state that its store cannot hold
├── StateUnreadable          a saved state that this version of Shipway cannot read
├── StageFailed              a pipeline stage that could not finish (disk full, a library's failure)
├── NoneWithinBudget         of several recipes none gives a checkpoint that is small and good enough
├── GateFailed               a version that is registered and may not be promoted
├── AlreadyRunning           another process does the same in the same place
├── ComponentNotReady        a part of the local stack did not come up in its time
├── ModelNotLoaded           an engine on this machine could not load the model, and trying again would not help
├── EngineDied               an engine on this machine has ended by itself
├── PictureFailed            a rollout could not be drawn; nothing else of it is lost
└── DemoFailed               the demo did not go as it should
"""


class ShipwayError(Exception):
    """The root: the CLI prints its message and exits with 1, or with 2 for BadInput."""

    def in_full(self) -> str:
        """The message, and below it what was noted on the way."""
        return "\n".join([str(self), *getattr(self, "__notes__", ())])


class BadInput(ShipwayError):
    """What the user gave cannot work, however often it is tried."""


class EndpointFileInvalid(BadInput):
    """The endpoint file does not parse or contradicts itself."""


class SourceInvalid(BadInput):
    """A model source that is missing, unreadable, or of a kind that is refused."""


class RecipeInvalid(BadInput):
    """A quantization recipe that cannot work for this model."""


class ManifestInvalid(BadInput):
    """A rendered object that its operator would refuse, or accept and not obey."""


class NotFound(BadInput):
    """The endpoint, model or version that was named does not exist."""


class IntegrityError(ShipwayError):
    """The bytes at hand are not the bytes that were evaluated."""


class Unavailable(ShipwayError):
    """An outside system did not answer; nothing is known, so nothing may be concluded."""


class RegistryUnavailable(Unavailable):
    """MLflow did not answer."""


class ArtifactStoreUnavailable(Unavailable):
    """S3 did not answer, or refused."""


class TargetUnavailable(Unavailable):
    """The platform that serves (Ray, Triton, Envoy, Kubernetes) did not answer."""


class AnswerLost(TargetUnavailable):
    """A write was sent and its answer never came: it may have been carried out, or may be yet."""


class ObjectChanged(TargetUnavailable):
    """An object was to be written as it had been read, and somebody else wrote, made or deleted it meanwhile."""


class TargetChanged(TargetUnavailable):
    """What was decided no longer fits what is there; nothing was changed, and the next look decides anew."""


class TargetRefused(TargetUnavailable):
    """The platform said no: forbidden, over a quota, invalid, or not ours to change. The message says who may mend it."""


class KindMissing(TargetRefused):
    """The cluster does not know the kind of object: its operator is not installed."""


class FieldConflict(TargetRefused):
    """Somebody else set fields of an object that we apply."""

    def __init__(self, message: str, *, fields: frozenset[str]) -> None:
        """`fields` are the paths that the API server named, like `.spec.rules`."""
        super().__init__(message)
        self.fields = fields


class JobsUnavailable(Unavailable):
    """The cluster that runs jobs did not answer, or refused."""


class MetricsUnavailable(Unavailable):
    """No metrics could be read: the observation is a gap, never a zero."""


class StateUnavailable(Unavailable):
    """The local state database is locked, or cannot be opened."""


class WebhookRefused(ShipwayError):
    """MLflow refuses to call the controller; the message is MLflow's own. Polling goes on."""


class PromotionRefused(ShipwayError):
    """This version may not be deployed; the message names every reason."""


class StateConflict(ShipwayError):
    """The saved state changed since it was read."""


class StateTooLarge(ShipwayError):
    """The state does not fit where it is kept."""


class StateUnreadable(ShipwayError):
    """The saved state has a schema that this version cannot read."""


class StageFailed(ShipwayError):
    """A pipeline stage started and could not finish."""


class NoneWithinBudget(ShipwayError):
    """No recipe gives a checkpoint that is small and good enough; the message has the table."""


class GateFailed(ShipwayError):
    """The version is registered, but may not be promoted; the message names every reason."""


class AlreadyRunning(ShipwayError):
    """Another process does the same in the same place, and two would get in each other's way."""


class ComponentNotReady(ShipwayError):
    """A part of the local stack did not become ready in its time."""


class ModelNotLoaded(ShipwayError):
    """An engine on this machine could not load the model; the message is the engine's own."""


class EngineDied(ShipwayError):
    """An engine on this machine, or the process in which its model runs, has ended by itself."""


class PictureFailed(ShipwayError):
    """A rollout could not be drawn. Nothing but its picture is lost."""


class DemoFailed(ShipwayError):
    """The demo did not go as it should."""
