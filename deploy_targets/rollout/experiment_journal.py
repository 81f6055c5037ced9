"""An experiment as an MLflow run: its numbers as charts, where it stands and why as tags, its rules as a file.

One run for each, found again by its tag after a restart. The state remembers only totals, so a minute at which MLflow was
away has no point in the charts; the next one tells all that was counted by then.
"""

import yaml

from deploy_targets.endpoint import Endpoint
from deploy_targets.rollout.experiment_state import Experiment, ExperimentOutcome
from deploy_targets.rollout.state import EndpointState
from registry.release import EXPERIMENT_TAG, REASON_TAG, STATUS_TAG
from registry.tracking import Tracking

_CHART = "users"


class ExperimentJournal:
    """Writes the experiments of one endpoint. Raises `RegistryUnavailable` when MLflow does not answer."""

    def __init__(self, tracking: Tracking, endpoint: Endpoint, *, folder: str) -> None:
        """`folder` is the name of the MLflow experiment that holds the runs. Nothing is written before the first."""
        self._tracking = tracking
        self._endpoint = endpoint
        self._folder = folder
        self._runs: dict[str, str] = {}
        self._charted: dict[str, int] = {}
        self._tags: dict[str, dict[str, str]] = {}

    def forget(self) -> None:
        """What is remembered of the runs may be wrong: they are looked up again."""
        self._runs.clear()
        self._charted.clear()
        self._tags.clear()

    def write(self, state: EndpointState) -> tuple[str, ...]:
        """Brings the runs up to `state`; the ids of those that ended and are closed now."""
        if state.experiment is not None:
            self._write(state.experiment)
        untold = [one for one in state.past_experiments if not one.is_told]
        for one in untold:
            run_id = self._write(one)
            is_decided = one.outcome is ExperimentOutcome.DECIDED
            self._tracking.finish(run_id, status="FINISHED" if is_decided else "KILLED")
            for known in (self._runs, self._charted, self._tags):
                known.pop(one.id, None)
        return tuple(one.id for one in untold)

    def _write(self, experiment: Experiment) -> str:
        run_id = self._run_of(experiment)
        if experiment.intervals > self._charted[experiment.id]:
            values: dict[str, float] = {_CHART: experiment.compared, **experiment.charted}
            for version, (users, failed) in experiment.counted.items():
                values |= {f"v{version}_users": users, f"v{version}_failed": failed}
            self._tracking.log_metrics(run_id, values, step=experiment.intervals)
            self._charted[experiment.id] = experiment.intervals
        stands = experiment.outcome or experiment.phase
        told = {
            STATUS_TAG: stands.value,
            REASON_TAG: experiment.reason or "; ".join(experiment.lines()[1:]),
            "mlflow.note.content": "\n".join(("```", *experiment.lines(), "```")),
        }
        told |= {f"shipway.v{arm}": found.value for arm, found in experiment.findings.items()}
        known = self._tags.setdefault(experiment.id, {})
        changed = {name: value for name, value in told.items() if known.get(name) != value}
        if changed:
            self._tracking.set_tags(run_id, changed)
            known.update(changed)
        return run_id

    def _run_of(self, experiment: Experiment) -> str:
        if known := self._runs.get(experiment.id):
            return known
        folder = self._tracking.experiment(self._folder)
        run_id = self._tracking.find_run(folder, tag=EXPERIMENT_TAG, value=experiment.id)
        if run_id is None:
            run_id = self._tracking.create_run(
                experiment_id=folder,
                name=f"experiment {experiment.name}",
                tags={EXPERIMENT_TAG: experiment.id},
            )
            self._tracking.log_params(
                run_id,
                {
                    "endpoint": self._endpoint.name,
                    "champion": experiment.champion,
                    "arms": ",".join(experiment.versions),
                    "share": experiment.share,
                    "goal": experiment.goal,
                    "until": experiment.until or "",
                    "users": experiment.users or "",
                    "asked_by": experiment.by,
                },
            )
            rules = experiment.rules.model_dump(mode="json")
            text = yaml.safe_dump(rules, sort_keys=False)
            self._tracking.log_text(run_id, text, "rules_of_each_arm.yaml")
        self._runs[experiment.id] = run_id
        self._charted[experiment.id] = max(self._tracking.next_step(run_id, _CHART) - 1, 0)
        return run_id
