"""Data of strangers, to calibrate with, to learn from and to ask: nested without end, each is refused and nothing crashes.

What else is no data: `tests/pipelines/quantize/test_calibration.py`, `tests/pipelines/retrain/test_examples.py`.
"""

from pathlib import Path

import pytest

from pipelines.evaluate.prompts import read_prompts
from pipelines.evaluate.tasks import read_tasks
from pipelines.quantize.calibration import read_texts
from pipelines.retrain.examples import parse_examples
from registry.errors import BadInput, ShipwayError

DEEP = '{"text": ' + "[" * 100_000 + "\n"


def test_calibration_texts_that_are_nested_without_end_are_refused(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text(DEEP)
    with pytest.raises(ShipwayError, match="Line 1 of"):
        read_texts(tmp_path / "c.jsonl")


def test_a_tasks_rows_that_are_nested_without_end_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(DEEP)
    (tmp_path / "task.yaml").write_text(
        "task: t\ntest_split: test\ndataset_kwargs: {data_files: {test: rows.jsonl}}\n"
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    with pytest.raises(BadInput, match="RecursionError"):
        read_tasks(tmp_path)


def test_prompts_that_are_nested_without_end_are_refused(tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text(DEEP)
    with pytest.raises(BadInput):
        read_prompts(tmp_path)


def test_chats_that_are_nested_without_end_are_refused() -> None:
    with pytest.raises(BadInput, match="line 1"):
        parse_examples(DEEP.encode(), where="it")
