"""Pipeline commands against the real servers, and a tiny model to work on."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Command:
    """A pipeline command with its environment."""

    environment: dict[str, str]
    home: Path

    def start(self, module: str, *arguments: str, **extra: str) -> psutil.Popen:
        return psutil.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env={**os.environ, **self.environment, **extra},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, module: str, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env={**os.environ, **self.environment, **extra},
            capture_output=True,
            text=True,
            check=False,
            timeout=500,
        )


@pytest.fixture
def command(servers, tmp_path) -> Command:
    home = tmp_path / "home"
    environment = {
        **servers.environment,
        "SHIPWAY_HOME": str(home),
        "MLFLOW_EXPERIMENT_NAME": tmp_path.name,
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    return Command(environment=environment, home=home)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A bf16 checkpoint that quantization hardly changes, so that its gate passes."""
    import torch

    from tests.tiny_model import write_tiny_model

    folder = tmp_path_factory.mktemp("tiny") / "model"
    return write_tiny_model(folder, opinion=0.02, dtype=torch.bfloat16)


@pytest.fixture
def tiny_copy(tiny_model, tmp_path) -> Callable[[str], Path]:
    """A copy of the tiny model, to be spoilt."""
    import shutil

    def copy(name: str) -> Path:
        return Path(shutil.copytree(tiny_model, tmp_path / name))

    return copy
