"""What one look at an endpoint has seen: all that `plan` decides on, and what an audit line tells of it. Pure.

How it was seen is `controller`'s business.
"""

from dataclasses import dataclass
from datetime import datetime

from deploy_targets.rollout.admission import Inspection
from deploy_targets.rollout.state import NoData, Observation
from deploy_targets.target import Observed
from registry.promotion import RegistryFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class SmokeResult:
    """What a ready revision answered to the smoke prompts, pinned, at weight 0."""

    version: str
    """Which one was asked: by now another one may be the challenger, or no arm any more."""
    passed: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """Everything that was seen in one look. What could not be seen is None or `NoData`, never a guess."""

    now: datetime
    observed: Observed
    facts: RegistryFacts | None
    """None while MLflow does not answer: no request is read and nothing is written there."""
    observation: Observation | NoData
    smoke: SmokeResult | None = None
    inspection: Inspection | None = None
    """Of the version that is asked for; None where none is, or where it could not be inspected."""
    is_removed: bool = False
    """The endpoint is no longer declared."""
