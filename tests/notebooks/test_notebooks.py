"""The notebooks run from top to bottom, and are kept without what they print: it would be of another machine."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
import pytest
from nbclient import NotebookClient
from traitlets.config import Config

from tests.tiny_model import write_tiny_model

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def read(file: Path):
    return nbformat.read(file, as_version=4)


def run(name: str) -> str:
    """Runs it; all that it printed."""
    [file] = [one for one in NOTEBOOKS if one.stem == name]
    notebook = read(file)
    with TemporaryDirectory() as folder:
        # By files: a port that is free now may be another's by the time that the kernel listens.
        config = Config(KernelManager={"transport": "ipc", "ip": f"{folder}/kernel"})
        where = {"metadata": {"path": str(ROOT)}}
        NotebookClient(
            notebook, timeout=500, kernel_name="python3", resources=where, config=config
        ).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    outputs = [output for cell in cells for output in cell.outputs]
    return "".join(output.text for output in outputs if output.output_type == "stream")


@pytest.fixture
def kernel(monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PATH", os.environ["PATH"])


def test_there_are_five() -> None:
    assert [file.stem for file in NOTEBOOKS] == [
        "01_quantization_error",
        "02_reading_a_gate",
        "03_reading_a_rollout",
        "04_choosing_a_canary_policy",
        "05_cost_per_token",
    ]


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_it_is_valid_and_kept_without_outputs(file) -> None:
    notebook = read(file)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell for cell in cells if cell.outputs or cell.execution_count] == []


def test_quantization_error_is_measured_for_each_recipe(kernel, tmp_path, monkeypatch) -> None:
    model = write_tiny_model(tmp_path / "model", opinion=0.02)
    monkeypatch.setenv("SHIPWAY_NOTEBOOK_MODEL", str(model))
    lines = run("01_quantization_error").splitlines()
    rows = [line for line in lines if line.startswith(("none", "int8", "gptq, groups"))]
    assert len(rows) == 4
    assert rows[0].split()[-1] == "1.0000"


def test_a_gate_is_read_in_each_of_its_cases(kernel) -> None:
    said = run("02_reading_a_gate")
    answers = dict(
        line.rsplit(": ", 1) for line in said.splitlines() if line.endswith(("passed", "FAILED"))
    )
    assert answers == {
        "five percent worse": "passed",
        "as much worse, and noisy": "FAILED",
        "half as bad again": "FAILED",
        "behind the champion": "FAILED",
        "champion of other texts": "FAILED",
        "five windows": "FAILED",
    }


def test_a_rollout_is_read_interval_by_interval(kernel) -> None:
    lines = run("03_reading_a_rollout").splitlines()
    assert "bad: roll_back at interval 3" in lines
    assert "good: promote at interval 20" in lines
    assert [line for line in lines if "without its champion" in line] == [
        "good without its champion: hold",
        "bad without its champion: hold",
    ]


def test_a_policy_is_chosen_by_what_it_finds_and_whom_it_exposes(kernel) -> None:
    said = run("04_choosing_a_canary_policy")
    best = dict(line.split(": best share ") for line in said.splitlines() if "best share" in line)
    assert best == {
        "three times the errors": "50.0",
        "at most 1,200 exposed": "5.0",
        "half as many failures again": "None",
    }
    assert "warning: this policy does not find such a challenger" in said


def test_a_token_is_cheaper_where_requests_share_the_device(kernel) -> None:
    lines = run("05_cost_per_token").splitlines()
    alone, shared = (
        float(line.split(": ")[1].split()[0]) for line in lines if " at once: " in line
    )
    assert alone > 4 * shared
    assert "at 50% load: 500 micros an answer" in lines
