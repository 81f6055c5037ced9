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
from registry.plain_yaml import load_yaml

_BATCH = 8
_FEWSHOT_SEED = 1234
"""lm-eval's own default."""


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
    from lm_eval import evaluator
    from lm_eval.models import huggingface
    from lm_eval.tasks import TaskManager

    rows: Any = datasets.Dataset
    wrapper: Any = huggingface.HFLM
    library: Any = evaluator

    def config(task: Task) -> dict[str, Any]:
        splits = {task.config["test_split"]: rows.from_list([dict(row) for row in task.rows])}

        def dataset(**_: Any) -> dict[str, Any]:
            return splits

        return {**task.config, "custom_dataset": dataset}

    # As lm_eval.simple_evaluate does it, which also asks git, gcc and pip what is installed: seconds, for a report
    # that nobody reads here.
    loaded: Any = TaskManager(include_defaults=False).load([config(task) for task in tasks])
    for prepared in loaded["tasks"].values():
        if prepared.get_config("num_fewshot") is None:
            prepared.set_config(key="num_fewshot", value=0)
        prepared.set_fewshot_seed(seed=_FEWSHOT_SEED)
    measured: dict[str, list[dict[str, Any]]] = library.evaluate(
        lm=wrapper(pretrained=model, tokenizer=tokenizer, batch_size=_BATCH),
        task_dict=loaded,
        bootstrap_iters=0,
    )["samples"]
    answers: dict[str, tuple[float, ...]] = {}
    for task in tasks:
        by_row = {int(sample["doc_id"]): sample for sample in measured[task.name]}
        answers[task.name] = tuple(float(by_row[row][task.metric]) for row in sorted(by_row))
    return answers


def _read_task(path: Path) -> Task:
    try:
        config: Any = load_yaml(path.read_text(encoding="utf-8"))
        file = path.parent / config["dataset_kwargs"]["data_files"][config["test_split"]]
        metric = config["metric_list"][0]
        if metric["aggregation"] != "mean" or metric["higher_is_better"] is not True:
            message = f"{path}: its first metric must be a mean for which higher is better."
            raise BadInput(message)
        if not file.resolve().is_relative_to(path.parent.resolve()):
            message = f"{path}: its data file must lie beside it, and {file} does not."
            raise BadInput(message)
        with file.open(encoding="utf-8") as lines:
            rows = tuple(json.loads(line) for line in lines)
        name = str(config["task"])
    except yaml.YAMLError as error:
        message = (
            f"The task {path} is not plain YAML ({error}). Python functions in tasks are not run."
        )
        raise BadInput(message) from error
    except (OSError, KeyError, IndexError, TypeError, ValueError, RecursionError) as error:
        message = (
            f"The task {path} cannot be used ({type(error).__name__}: {error}). It needs task, test_split, "
            "dataset_kwargs.data_files and metric_list, as in `python -m pipelines.datasets`."
        )
        raise BadInput(message) from error
    own = {key: value for key, value in config.items() if not key.startswith("dataset_")}
    return Task(name=name, metric=str(metric["metric"]), config=own, rows=rows)
