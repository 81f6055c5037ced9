"""`python -m tests.bench.evaluate`: lm-eval's scores by our evaluation against lm-eval's own command, in CPU time.

Both load the same model and answer the same task, each in a process of its own, in turns; their scores must be equal to the
last digit. What our stage measures besides (perplexity, agreement, golden prompts, speed) is not in it: lm-eval has none.
Wall time is not compared: on a busy machine it says nothing.
"""

import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from pipelines.datasets import write_demo_data
from tests.bench.figures import Figure, tell
from tests.bench.gptq import Cost, run, write_base

_ROOT = Path(__file__).parents[2]
_MAX_CPU_RATIO = 1.1
_OURS = """
import json, pathlib, sys
from pipelines.evaluate.measure import load
from pipelines.evaluate.tasks import measure_tasks, read_tasks
from pipelines.session import _prepare_process
base, tasks, out = map(pathlib.Path, sys.argv[1:])
_prepare_process()
model, tokenizer = load(base)
answers = measure_tasks(model, tokenizer, read_tasks(tasks))
out.write_text(json.dumps({name: sum(rows) / len(rows) for name, rows in answers.items()}))
"""


def main(
    *,
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each.")] = 3,
    tiny: Annotated[
        bool, typer.Option(help="A tiny random model, to try the bench out: fixed costs dwarf it.")
    ] = False,
) -> None:
    """Compare lm-eval's scores by our evaluation with lm-eval's own command."""
    with tempfile.TemporaryDirectory(prefix="shipway-bench-") as name:
        ratio = compare(Path(name), rounds=rounds, tiny=tiny)
    if ratio > _MAX_CPU_RATIO and not tiny:
        sys.exit(1)


def compare(folder: Path, *, rounds: int, tiny: bool) -> float:
    """Prints each run's cost and the medians; gives the ratio of the medians.

    Raises:
        SystemExit: the two gave different scores: they would have done different work.
    """
    write_demo_data(folder)
    tasks = folder / "tasks"
    config = tasks / "next_name.yaml"
    # lm-eval looks for the rows from where it runs.
    config.write_text(
        config.read_text().replace("test: next_name", f"test: {tasks.resolve()}/next_name")
    )
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HOME": str(folder / "cache"),
        "GPTQMODEL_CPU_WORKERS": "2",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(_ROOT),
    }
    base = write_base(folder, environment, tiny=tiny)
    ours, out = folder / "ours.json", folder / "lm-eval"
    commands = {
        "lm-eval": [
            "-m", "lm_eval", "run", "--model", "hf",
            "--model_args", f"pretrained={base},dtype=float32", "--tasks", "next_name",
            "--include_path", str(tasks), "--device", "cpu", "--batch_size", "8",
            "--output_path", str(out),
        ],
        "ours": ["-c", _OURS, str(base), str(tasks), str(ours)],
    }  # fmt: skip
    costs: dict[str, list[Cost]] = {who: [] for who in commands}
    for number in range(1, rounds + 1):
        for who, words in commands.items():
            log = folder / "log.txt"
            cost = run([sys.executable, *words], log=log, environment=environment)
            costs[who].append(cost)
            print(f"{number}  {who:8} {cost.cpu_s:7.1f} s CPU {cost.peak_mib:7.0f} MiB", flush=True)
    theirs = json.loads(max(out.rglob("results_*.json")).read_text())["results"]
    left, right = json.loads(ours.read_text())["next_name"], theirs["next_name"]["acc,none"]
    if left != right:
        sys.exit(f"Ours is {left} and lm-eval's {right}: the comparison is void.")
    print(f"both say {left}")
    mine, other = (statistics.median(c.cpu_s for c in costs[who]) for who in ("ours", "lm-eval"))
    ratio = mine / other
    tell(
        Figure(
            what="CPU time for the same scores",
            value=ratio,
            unit="x",
            beside="lm-eval's own command",
            at_most=_MAX_CPU_RATIO,
        )
    )
    return ratio


if __name__ == "__main__":
    typer.run(main)
