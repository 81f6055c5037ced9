"""What became of each scheduled run, in MLflow: the run that `mlflow run` goes on with, or one that says why none began.

Each schedule has an experiment of its own. The record is written before anything is started, so that nothing runs twice.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from pipelines.schedule.declared import experiment_of
from pipelines.schedule.due import Miss, Past, Start

if TYPE_CHECKING:
    from registry.tracking import Tracking

SCHEDULE_TAG = "shipway.schedule"
AT_TAG = "shipway.schedule.at"
OUTCOME_TAG = "shipway.schedule.outcome"
REASON_TAG = "shipway.schedule.reason"
PASSED_OVER_TAG = "shipway.schedule.passed_over"
PLACE_TAG = "shipway.schedule.place"
"""Whose run it is: of several machines that run the same schedule each looks after its own."""
_LOOK_BACK = 100
"""Runs of one schedule that are looked at; more are not under way."""


class Outcome(StrEnum):
    """How a scheduled run ended, or that it has not."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    MISSED = "missed"
    """It did not start within its deadline."""
    REPLACED = "replaced"
    """It was ended for the next one."""
    INTERRUPTED = "interrupted"
    """It was ended, by a signal or with `shipway schedule run`."""
    LOST = "lost"
    """Its process is gone and did not say how it ended."""


_OF_STATUS = {
    "FINISHED": Outcome.SUCCEEDED,
    "FAILED": Outcome.FAILED,
    "KILLED": Outcome.INTERRUPTED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What MLflow has of one schedule."""

    past: Past = field(default_factory=Past)
    outcome: str = ""
    """Of the newest; empty where there is none."""
    status: Mapping[str, str] = field(default_factory=dict[str, str])
    """Of each run that is recorded as under way, as MLflow has it."""
    own: frozenset[str] = frozenset()
    """Those of them that were started in this place; what became of the others is seen where they were."""


class Records:
    """The runs of schedules. Every method raises `RegistryUnavailable` when MLflow gives no answer."""

    def __init__(self, tracking: "Tracking", *, place: str = "") -> None:
        """`tracking` brings its own timeouts; `place` is where runs are started (`children.place_of`)."""
        self._tracking = tracking
        self._place = place

    def history(self, schedule: str) -> History:
        """What is recorded of `schedule`."""
        experiment, query = self._experiment(schedule), f"tags.`{SCHEDULE_TAG}` = '{schedule}'"
        runs = self._tracking.search(experiment, query, limit=_LOOK_BACK)
        if not runs:
            return History()
        newest = max(runs, key=lambda run: datetime.fromisoformat(run[AT_TAG]))
        # Asked for by itself: a run that takes long may have more missed ones after it than are looked at.
        is_running = f"{query} and tags.`{OUTCOME_TAG}` = '{Outcome.RUNNING}'"
        running = self._tracking.search(experiment, is_running, limit=_LOOK_BACK)
        own = {run["run_id"] for run in running if run.get(PLACE_TAG, self._place) == self._place}
        # Another's that has ended is over, also where nobody is left there to record it.
        status = {
            run["run_id"]: run["status"]
            for run in running
            if run["run_id"] in own or run["status"] not in _OF_STATUS
        }
        past = Past(last=datetime.fromisoformat(newest[AT_TAG]), running=tuple(sorted(status)))
        return History(past=past, outcome=newest[OUTCOME_TAG], status=status, own=frozenset(own))

    def begin(self, start: Start) -> str:
        """The id of a new run for `start`, which is under way from now on."""
        # MLflow notes the entry point on runs that it makes, and this one it only goes on with.
        entry_point = {"mlflow.project.entryPoint": start.schedule.entry_point}
        is_ours = {PLACE_TAG: self._place, OUTCOME_TAG: Outcome.RUNNING.value}
        tags = {**_tags(start), **entry_point, **is_ours}
        return self._create(start, tags)

    def miss(self, miss: Miss) -> None:
        """A run that says that none began, and why."""
        tags = {**_tags(miss), OUTCOME_TAG: Outcome.MISSED.value, REASON_TAG: miss.reason}
        self._tracking.finish(self._create(miss, tags), status="FAILED")

    def end(
        self, run_id: str, status: str, *, outcome: Outcome | None = None, reason: str = ""
    ) -> Outcome:
        """Records that the run's process is gone. Without `outcome`, the run's own `status` in MLflow tells it."""
        told = outcome or _OF_STATUS.get(status, Outcome.LOST)
        said = {REASON_TAG: reason} if reason else {}
        self._tracking.set_tags(run_id, {OUTCOME_TAG: told.value, **said})
        if status not in _OF_STATUS:
            self._tracking.finish(run_id, status="FAILED" if told is Outcome.FAILED else "KILLED")
        return told

    def _create(self, action: Start | Miss, tags: Mapping[str, str]) -> str:
        name = action.schedule.name
        return self._tracking.create_run(
            experiment_id=self._experiment(name), name=f"{name} {_spelled(action.at)}", tags=tags
        )

    def _experiment(self, schedule: str) -> str:
        return self._tracking.experiment(experiment_of(schedule))


def _tags(action: Start | Miss) -> dict[str, str]:
    return {
        SCHEDULE_TAG: action.schedule.name,
        AT_TAG: _spelled(action.at),
        PASSED_OVER_TAG: str(action.passed_over),
    }


def _spelled(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds")
