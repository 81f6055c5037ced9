"""lm-eval tasks from a local folder, without a network: each YAML file names a JSON Lines file beside it.

Only plain data is read: a task that calls for Python code (`!function`) is refused, and nothing is downloaded.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from registry.errors import BadInput

_BATCH = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One task: lm-eval's configuration, the rows it asks about, and the metric that counts."""

    name: str
    metric: str
    config: Mapping[str, Any]
    rows: tuple[Mapping[str, Any], ...]


def read_tasks(folder: Path) -> tuple[Task, ...]:
    """The tasks in `folder`, in the order of their files.

    Raises:
        BadInput: there are none, or one cannot be used.
    """
    tasks = tuple(_read_task(path) for path in sorted(folder.glob("*.yaml")))
    if not tasks:
        message = (
            f"There are no tasks (*.yaml) in {folder}. See `python -m pipelines.datasets` for one."
        )
        raise BadInput(message)
    return tasks


def measure_tasks(
    model: Any, tokenizer: Any, tasks: tuple[Task, ...]
) -> dict[str, tuple[float, ...]]:
    """For each task one number between 0 and 1 for each of its rows, in their order."""
    import datasets
    import lm_eval
    from lm_eval.models import huggingface
    from lm_eval.tasks import TaskManager

    rows: Any = datasets.Dataset
    wrapper: Any = huggingface.HFLM
    library: Any = lm_eval

    def config(task: Task) -> dict[str, Any]:
        splits = {task.config["test_split"]: rows.from_list([dict(row) for row in task.rows])}

        def dataset(**_: Any) -> dict[str, Any]:
            return splits

        return {**task.config, "custom_dataset": dataset}

    measured: dict[str, list[dict[str, Any]]] = library.simple_evaluate(
        model=wrapper(pretrained=model, tokenizer=tokenizer, batch_size=_BATCH),
        tasks=[config(task) for task in tasks],
        task_manager=TaskManager(include_defaults=False),
        bootstrap_iters=0,
    )["samples"]
    answers: dict[str, tuple[float, ...]] = {}
    for task in tasks:
        by_row = {int(sample["doc_id"]): sample for sample in measured[task.name]}
        answers[task.name] = tuple(float(by_row[row][task.metric]) for row in sorted(by_row))
    return answers


def _read_task(path: Path) -> Task:
    try:
        config: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        file = path.parent / config["dataset_kwargs"]["data_files"][config["test_split"]]
        metric = config["metric_list"][0]
        if metric["aggregation"] != "mean" or metric["higher_is_better"] is not True:
            message = f"{path}: its first metric must be a mean for which higher is better."
            raise BadInput(message)
        if not file.resolve().is_relative_to(path.parent.resolve()):
            message = f"{path}: its data file must lie beside it, and {file} does not."
            raise BadInput(message)
        rows = tuple(json.loads(line) for line in file.read_text(encoding="utf-8").splitlines())
        name = str(config["task"])
    except yaml.YAMLError as error:
        message = (
            f"The task {path} is not plain YAML ({error}). Python functions in tasks are not run."
        )
        raise BadInput(message) from error
    except (OSError, KeyError, IndexError, TypeError, ValueError) as error:
        message = (
            f"The task {path} cannot be used ({type(error).__name__}: {error}). It needs task, test_split, "
            "dataset_kwargs.data_files and metric_list, as in `python -m pipelines.datasets`."
        )
        raise BadInput(message) from error
    own = {key: value for key, value in config.items() if not key.startswith("dataset_")}
    return Task(name=name, metric=str(metric["metric"]), config=own, rows=rows)
