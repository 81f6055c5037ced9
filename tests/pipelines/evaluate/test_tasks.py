"""lm-eval tasks from a folder: the same answers as lm-eval's own, and nothing but plain data."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from pipelines.datasets import write_demo_data
from pipelines.evaluate.tasks import measure_tasks, read_tasks
from registry.errors import BadInput
from registry.scorecard import Kind, Score

TASK = {
    "task": "colours",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "colours.jsonl"}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{q}}",
    "doc_to_choice": "{{c}}",
    "doc_to_target": "{{a}}",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}
ROWS = [{"q": "The sky is", "c": ["blue", "loud"], "a": 0}]


@pytest.fixture
def folder(tmp_path) -> Path:
    write(tmp_path)
    return tmp_path


def write(folder: Path, *, rows: str | None = None, **changes: object) -> None:
    task = {key: value for key, value in {**TASK, **changes}.items() if value is not None}
    (folder / "colours.yaml").write_text(yaml.safe_dump(task))
    text = "".join(json.dumps(row) + "\n" for row in ROWS) if rows is None else rows
    (folder / "colours.jsonl").write_text(text)


def test_a_task_has_its_name_its_metric_and_its_rows(folder) -> None:
    [task] = read_tasks(folder)
    assert (task.name, task.metric) == ("colours", "acc")
    assert list(task.rows) == ROWS
    assert not [key for key in task.config if key.startswith("dataset")]


def test_a_row_may_hold_any_character(folder) -> None:
    row = {"q": "one\u2028two", "c": ["a", "b"], "a": 1}
    write(folder, rows=json.dumps(row, ensure_ascii=False) + "\n")
    assert list(read_tasks(folder)[0].rows) == [row]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"task": None}, "cannot be used"),
        ({"test_split": "train"}, "cannot be used"),
        ({"metric_list": []}, "cannot be used"),
        ({"rows": "{"}, "cannot be used"),
        ({"dataset_kwargs": {"data_files": {"test": "no.jsonl"}}}, "cannot be used"),
        ({"dataset_kwargs": {"data_files": {"test": "../../secret"}}}, "must lie beside it"),
        (
            {"metric_list": [{"metric": "ppl", "aggregation": "mean", "higher_is_better": False}]},
            "for which higher is better",
        ),
    ],
)
def test_a_task_that_cannot_be_used_is_refused(folder, changes, says) -> None:
    write(folder, **changes)
    with pytest.raises(BadInput, match=says):
        read_tasks(folder)


def test_a_task_with_code_in_it_is_refused(folder) -> None:
    file = folder / "colours.yaml"
    file.write_text(file.read_text() + "process_docs: !function evil.run\n")
    with pytest.raises(BadInput, match="Python functions in tasks are not run"):
        read_tasks(folder)


def test_a_folder_without_tasks_is_refused(tmp_path) -> None:
    with pytest.raises(BadInput, match="There are no tasks"):
        read_tasks(tmp_path)


@pytest.mark.real
def test_the_digits_are_those_of_lm_evals_own_command(tmp_path, tiny_model) -> None:
    from pipelines.loading import load_model, load_tokenizer

    write_demo_data(tmp_path)
    tasks = tmp_path / "tasks"
    model = load_model(tiny_model, dtype=torch.float32).eval()
    answers = measure_tasks(model, load_tokenizer(tiny_model), read_tasks(tasks))
    # It reads the same task file; the rows are found from the folder that it runs in.
    subprocess.run(
        [
            sys.executable, "-m", "lm_eval", "run", "--model", "hf",
            "--model_args", f"pretrained={tiny_model},dtype=float32",
            "--tasks", "next_name", "--include_path", str(tasks), "--device", "cpu",
            "--batch_size", "8", "--output_path", str(tmp_path / "out"), "--log_samples",
        ],
        cwd=tasks, check=True, capture_output=True, timeout=300,
        env={
            **os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1",
            "HF_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1",
        },
    )  # fmt: skip
    [report] = (tmp_path / "out").rglob("results_*.json")
    theirs = json.loads(report.read_text())["results"]["next_name"]
    [log] = (tmp_path / "out").rglob("samples_next_name_*.jsonl")
    rows = sorted(map(json.loads, log.read_text().splitlines()), key=lambda row: row["doc_id"])
    score = Score.of(Kind.ACCURACY, answers["next_name"])
    assert set(answers["next_name"]) == {0.0, 1.0}
    assert answers["next_name"] == tuple(row["acc"] for row in rows)
    assert score.value == theirs["acc,none"]
    assert score.stderr == pytest.approx(theirs["acc_stderr,none"], rel=1e-14)
