"""The rollout as an MLflow run: what a person who has only the MLflow UI can see of it, and why.

One run for each rollout in the endpoint's experiment, found again by its tag after a restart. It gets the chart points
that it lacks, the state and its reason as tags, the policy and a picture as artifacts, and it is closed with the
outcome. Losing MLflow loses nothing: points and ended rollouts wait in the saved state.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

import structlog
import yaml

from deploy_targets.endpoint import Endpoint
from deploy_targets.rollout.experiment_journal import ExperimentJournal
from deploy_targets.rollout.gap import policy_of, step_of
from deploy_targets.rollout.judge import add_counts
from deploy_targets.rollout.pause import reason_of
from deploy_targets.rollout.state import (
    Counts,
    EndedRollout,
    EndpointState,
    Outcome,
    Phase,
    Point,
    RolloutState,
)
from registry.errors import PictureFailed, RegistryUnavailable
from registry.events import Event
from registry.release import ASKED_BY_TAG, REASON_TAG, ROLLOUT_TAG, STATUS_TAG
from registry.tracking import Tracking

EXPERIMENT_PREFIX = "shipway/"
WEIGHT_METRIC = "weight_percent"
OUTCOME_TAG = "shipway.outcome"
VERSION_TAG = "shipway.version"
CHAMPION_TAG = "shipway.champion"
DISTURBANCE_TAG = "shipway.disturbance"
"""Who else set the weights last; it stays when they are ours again."""
_PICTURE = "rollout.png"
_NO_CHAMPION = "none"
_log = structlog.get_logger()


class Draw(Protocol):
    """Makes the picture of a rollout."""

    def __call__(self, rollout: RolloutState, /, *, title: str) -> bytes | None:
        """The PNG; None when it has to be asked for again.

        Raises:
            PictureFailed: there is none to be had.
        """
        ...


@dataclass(slots=True, kw_only=True)
class _Written:
    """What the run is known to say already."""

    run_id: str
    page: str
    """Its address, after that of the MLflow UI."""
    points: int
    """Points with a smaller index have been written."""
    headline: str = ""
    """The last phase and step that was pictured."""
    tags: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class PastRollout:
    """A rollout as its MLflow run tells it."""

    started: datetime
    champion: str
    version: str
    status: str
    reason: str
    run_id: str

    def to_json(self) -> dict[str, str]:
        """The fields by name."""
        return {
            "started": self.started.isoformat(),
            "champion": self.champion,
            "version": self.version,
            "status": self.status,
            "reason": self.reason,
            "run_id": self.run_id,
        }

    def line(self) -> str:
        """For people."""
        began = f"{self.started:%Y-%m-%d %H:%M:%S}"
        return f"{began}  {self.path}  {self.status}: {self.reason}"

    @property
    def path(self) -> str:
        """From which version to which."""
        return _path("" if self.champion == _NO_CHAMPION else self.champion, self.version)


def past_rollouts(tracking: Tracking, endpoint: Endpoint, *, limit: int) -> tuple[PastRollout, ...]:
    """The newest rollouts of an endpoint, the one under way included."""
    experiment = tracking.experiment(EXPERIMENT_PREFIX + endpoint.name)
    return tuple(
        PastRollout(
            started=datetime.fromtimestamp(int(run["start_time"]) / 1000, tz=UTC),
            champion=run.get(CHAMPION_TAG, "?"),
            version=run.get(VERSION_TAG, "?"),
            status=run.get(STATUS_TAG, "?"),
            reason=run.get(REASON_TAG, ""),
            run_id=run["run_id"],
        )
        for run in tracking.search(experiment, f"tags.`{ROLLOUT_TAG}` != ''", limit=limit)
    )


class Journal:
    """Writes the rollouts of one endpoint. Every method raises `RegistryUnavailable` when MLflow does not answer."""

    def __init__(self, tracking: Tracking, endpoint: Endpoint, *, draw: Draw) -> None:
        """Nothing is written before the first rollout."""
        self._tracking = tracking
        self._endpoint = endpoint
        self._draw = draw
        self._unsent: tuple[str, str, bytes] | None = None
        """A rollout, a title and its picture: MLflow may take tags for hours and no artifacts, and nothing is drawn anew for that."""
        self._written: dict[str, _Written] = {}
        self._experiments = ExperimentJournal(
            tracking, endpoint, folder=EXPERIMENT_PREFIX + endpoint.name
        )

    @property
    def pages(self) -> Mapping[str, str]:
        """Rollouts under way to the pages of their runs in the MLflow UI, as far as they are known; nobody is asked."""
        return {rollout: written.page for rollout, written in self._written.items()}

    def write(self, state: EndpointState) -> tuple[str, ...]:
        """Brings the runs up to `state`; returns the ids of the rollouts and experiments whose runs are now closed."""
        try:
            return (*self._write(state), *self._experiments.write(state))
        except RegistryUnavailable:
            self._experiments.forget()
            # What is remembered of the runs may be wrong by now, one may have been deleted: look them up again.
            self._written.clear()
            raise

    def _write(self, state: EndpointState) -> tuple[str, ...]:
        if state.rollout is not None:
            self._write_progress(state.rollout, disturbance=state.disturbance)
        return tuple(ended.rollout.id for ended in state.unreported if self._close(ended))

    def _write_progress(self, rollout: RolloutState, *, disturbance: str) -> None:
        written = self._run_of(rollout)
        self._write_points(written, rollout)
        step = step_of(self._endpoint, rollout)
        stage = (
            f"{rollout.phase} at {step.weight} %"
            if rollout.phase is Phase.STEPPING
            else rollout.phase.value
        )
        if rollout.waiting:
            stage = f"{stage}, waiting"
        reason = reason_of(rollout)
        if disturbance:
            self._tag(written, {DISTURBANCE_TAG: disturbance})
        self._tag(written, {STATUS_TAG: stage, REASON_TAG: reason})
        if stage != written.headline and self._tell(written, rollout, title=stage, reason=reason):
            written.headline = stage

    def _close(self, ended: EndedRollout) -> bool:
        """Whether that is done: it is not while its picture has to wait."""
        rollout, outcome = ended.rollout, ended.outcome
        written = self._run_of(rollout)
        self._write_points(written, rollout)
        told = {STATUS_TAG: outcome.value, OUTCOME_TAG: outcome.value, REASON_TAG: ended.reason}
        self._tag(written, told)
        if not self._tell(written, rollout, title=outcome.value, reason=ended.reason):
            return False
        status = "FINISHED" if outcome is Outcome.PROMOTED else "KILLED"
        self._tracking.finish(
            written.run_id, status="FAILED" if outcome is Outcome.ROLLED_BACK else status
        )
        self._written.pop(rollout.id, None)
        return True

    def _run_of(self, rollout: RolloutState) -> _Written:
        known = self._written.get(rollout.id)
        if known is not None:
            return known
        experiment = self._tracking.experiment(EXPERIMENT_PREFIX + self._endpoint.name)
        run_id = self._tracking.find_run(experiment, tag=ROLLOUT_TAG, value=rollout.id)
        if run_id is None:
            release = rollout.challenger
            run_id = self._tracking.create_run(
                experiment_id=experiment,
                name=_path(rollout.champion, release.version),
                tags={
                    ROLLOUT_TAG: rollout.id,
                    VERSION_TAG: release.version,
                    CHAMPION_TAG: rollout.champion or _NO_CHAMPION,
                    **({ASKED_BY_TAG: rollout.asked_by} if rollout.asked_by else {}),
                },
            )
            self._tracking.log_params(
                run_id,
                {
                    "endpoint": self._endpoint.name,
                    "model": release.model,
                    "challenger": release.version,
                    "champion": rollout.champion or _NO_CHAMPION,
                    "digest": release.digest,
                    "source": release.source,
                },
            )
            policy = policy_of(self._endpoint, rollout).model_dump(mode="json")
            self._tracking.log_text(run_id, yaml.safe_dump(policy, sort_keys=False), "policy.yaml")
        points = self._tracking.next_step(run_id, WEIGHT_METRIC)
        page = f"#/experiments/{experiment}/runs/{run_id}"
        self._written[rollout.id] = _Written(run_id=run_id, page=page, points=points)
        return self._written[rollout.id]

    def _write_points(self, written: _Written, rollout: RolloutState) -> None:
        for point, totals in _accumulated(rollout.points):
            if point.index >= written.points:
                self._tracking.log_metrics(
                    written.run_id, _metrics(point, *totals), step=point.index, at=point.at
                )
                written.points = point.index + 1

    def _tag(self, written: _Written, tags: dict[str, str]) -> None:
        changed = {key: value for key, value in tags.items() if written.tags.get(key) != value}
        if changed:
            self._tracking.set_tags(written.run_id, changed)
            written.tags.update(changed)

    def _tell(self, written: _Written, rollout: RolloutState, *, title: str, reason: str) -> bool:
        """In words, and as a picture where anything was measured; returns whether that is done, or has to be asked for again."""
        note = f"**{title}**\n\n{reason}\n"
        if rollout.points:
            try:
                if not self._send_picture(written, rollout, title=title):
                    return False
            except PictureFailed as error:
                _log.error(Event.PICTURE_FAILED, endpoint=self._endpoint.name, reason=str(error))
                note += f"\n{error}\n"
            else:
                image = f"get-artifact?path={_PICTURE}&run_uuid={written.run_id}"
                note += f"\n![the rollout]({image})\n"
        self._tag(written, {"mlflow.note.content": note})
        return True

    def _send_picture(self, written: _Written, rollout: RolloutState, *, title: str) -> bool:
        """Whether it is there now; it is not while it has to wait for another one's."""
        path = _path(rollout.champion, rollout.challenger.version)
        heading = f"{self._endpoint.name}: {path}, {title}"
        if self._unsent is None or self._unsent[:2] != (rollout.id, heading):
            drawn = self._draw(rollout, title=heading)
            if drawn is None:
                return False
            self._unsent = (rollout.id, heading, drawn)
        self._tracking.log_bytes(written.run_id, self._unsent[2], _PICTURE)
        self._unsent = None
        return True


def _path(champion: str | None, version: str) -> str:
    """A rollout in people's words; of a first release there is no champion."""
    return f"{f'v{champion}' if champion else 'first'} → v{version}"


def _accumulated(points: tuple[Point, ...]) -> Iterator[tuple[Point, tuple[Counts, Counts]]]:
    """Each point with the totals up to it: champion's and challenger's."""
    old, new = Counts(), Counts()
    for point in points:
        old, new = add_counts(old, point.champion), add_counts(new, point.challenger)
        yield point, (old, new)


def _metrics(point: Point, old: Counts, new: Counts) -> dict[str, float]:
    """The point in MLflow's metric names; a mean latency only where there were requests to take it over."""
    values: dict[str, float] = {WEIGHT_METRIC: point.weight}
    for reading in point.readings:
        values[f"{reading.metric}_e_value"] = reading.e_value
        ends = {"low": reading.low, "high": reading.high}
        values |= {f"{reading.metric}_{end}": at for end, at in ends.items() if at is not None}
    for side, total, step in (
        ("champion", old, point.champion),
        ("challenger", new, point.challenger),
    ):
        values[f"{side}_requests"] = total.requests
        values[f"{side}_errors"] = total.errors
        if total.judged:
            values[f"{side}_judged_answers"] = total.judged
            values[f"{side}_bad_answers"] = total.bad
        if step.requests:
            values[f"{side}_latency_mean_s"] = step.duration_s / step.requests
    return values
