"""An experiment's run in a real MLflow: charts, where it stands, why it ended."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy_targets.rollout.experiment_state import (
    Experiment,
    ExperimentOutcome,
    ExperimentPhase,
    Finding,
)
from tests.builders import NOON, a_state
from tests.rollout.test_experiments import an_experiment
from tests.rollout.test_journal import Diary, diary  # noqa: F401 - a fixture

pytestmark = pytest.mark.real


def running(intervals: int) -> Experiment:
    return an_experiment(
        phase=ExperimentPhase.RUNNING,
        intervals=intervals,
        counted={"6": (100 * intervals, intervals), "7": (90 * intervals, 0)},
        findings={"7": Finding.UNDECIDED},
        reasons={"7": "worse in errors: e-value 0.1 of 200"},
        charted={"v7_errors_worse_e_value": 0.1 * intervals},
    )


def test_an_experiment_is_one_run_across_restarts_and_is_closed_with_its_finding(
    diary: Diary,  # noqa: F811
    tmp_path: Path,
) -> None:
    for intervals in (0, 1, 2, 2, 3):
        diary.journal.write(replace(a_state(), experiment=running(intervals)))
        diary.restart()
    run = diary.run
    assert (run.info.status, run.data.tags["shipway.status"]) == ("RUNNING", "running")
    assert run.data.params["arms"] == "7"
    assert diary.points("v7_users") == [(1, 90.0), (2, 180.0), (3, 270.0)]
    assert diary.points("users") == [(n, 190.0 * n) for n in (1, 2, 3)]
    rules: Any = yaml.safe_load(diary.artifact("rules_of_each_arm.yaml", tmp_path))
    assert rules["false_rollback_rate"] == pytest.approx(0.005)

    ended = replace(
        running(4),
        outcome=ExperimentOutcome.DECIDED,
        findings={"7": Finding.WINNER},
        reason="v7 winner",
        ended=NOON,
    )
    assert diary.journal.write(replace(a_state(), past_experiments=(ended,))) == (ended.id,)
    run = diary.run
    assert run.info.status == "FINISHED"
    assert run.data.tags["shipway.v7"] == "winner"
    assert run.data.tags["shipway.reason"] == "v7 winner"
    assert "v7: 360 users" in run.data.tags["mlflow.note.content"]
    told = replace(ended, is_told=True)
    assert diary.journal.write(replace(a_state(), past_experiments=(told,))) == ()
