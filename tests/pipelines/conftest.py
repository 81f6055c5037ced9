"""Pipeline commands against the real servers, and a tiny model to work on."""

import gc
import os
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from unittest.mock import patch

import pytest

from pipelines.session import run_entry_point
from registry.tracking import Tracking

RECIPE = "method: gptq\nbits: 4\ngroup_size: 32\nsamples: 4\nsequence_length: 64\n"


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


@dataclass(frozen=True, kw_only=True)
class Command:
    """A pipeline command with its environment, its state folder and a working directory of its own."""

    environment: dict[str, str]
    home: Path
    here: Path
    tracking: Tracking

    def start(self, *words: str, **extra: str) -> subprocess.Popen:
        return subprocess.Popen(
            words,
            cwd=self.here,
            env={**os.environ, **self.environment, **extra},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def call(self, main: Callable[..., None], *arguments: str, **extra: str) -> Result:
        """Runs an entry point in this process, which has the libraries loaded already: seconds less than a new one."""
        before = signal.getsignal(signal.SIGTERM)
        with (
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
            _without_what_gptqmodel_leaves(),
        ):
            try:
                with (
                    patch.dict(os.environ, {**self.environment, **extra}),
                    patch.object(sys, "argv", [main.__module__, *arguments]),
                    _written_to(out, err),
                    pytest.raises(SystemExit) as ended,
                ):
                    run_entry_point(main)
            finally:
                signal.signal(signal.SIGTERM, before)
            out.seek(0)
            err.seek(0)
            return Result(
                returncode=ended.value.code or 0,
                stdout=out.read().decode(),
                stderr=err.read().decode(),
            )

    def run(self, module: str, *arguments: str, **extra: str) -> Result:
        return self.run_words(sys.executable, "-m", module, *arguments, **extra)

    def run_words(self, *words: str, **extra: str) -> Result:
        process = self.start(*words, **extra)
        try:
            stdout, stderr = process.communicate(timeout=500)
        finally:
            process.kill()
        return Result(returncode=process.returncode, stdout=stdout, stderr=stderr)

    def runs(self, query: str = "") -> tuple[dict[str, str], ...]:
        """The MLflow runs of this command's experiment, the newest first."""
        experiment = self.tracking.experiment(self.environment["MLFLOW_EXPERIMENT_NAME"])
        return self.tracking.search(experiment, query, limit=50)

    def work(self) -> list[str]:
        """The names of the work folders."""
        work = self.home / "work"
        return sorted(p.name for p in work.iterdir() if p.is_dir()) if work.exists() else []


def a_command(servers, folder: Path) -> Command:
    here = folder / "here"
    here.mkdir(parents=True)
    environment = {
        **servers.environment,
        "SHIPWAY_HOME": str(folder / "home"),
        "MLFLOW_EXPERIMENT_NAME": folder.name,
        "OMP_NUM_THREADS": "1",
        # MLproject says `python`, as in an activated environment.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    return Command(
        environment=environment, home=folder / "home", here=here, tracking=servers.tracking
    )


@pytest.fixture
def command(servers, tmp_path) -> Command:
    return a_command(servers, tmp_path)


@contextmanager
def _without_what_gptqmodel_leaves() -> Iterator[None]:
    """Its folders are collected here, where the warning of that is expected, and not in the middle of a test."""
    with warnings.catch_warnings():
        left = "Implicitly cleaning up <TemporaryDirectory .*gptqmodel_"
        warnings.filterwarnings("ignore", left, ResourceWarning)
        yield
        gc.collect()


@contextmanager
def _written_to(out: IO[bytes], err: IO[bytes]) -> Iterator[None]:
    """All that goes to standard output and error meanwhile, from whatever library, goes to these files."""
    kept = {1: os.dup(1), 2: os.dup(2)}
    try:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        with (
            open(1, "w", closefd=False, buffering=1, encoding="utf-8") as stdout,
            open(2, "w", closefd=False, buffering=1, encoding="utf-8") as stderr,
            redirect_stdout(stdout),
            redirect_stderr(stderr),
        ):
            yield
    finally:
        for number, copy in kept.items():
            os.dup2(copy, number)
            os.close(copy)


@pytest.fixture
def call(command: Command) -> Callable[..., Result]:
    """Runs an entry point in this process."""
    return command.call


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A bf16 checkpoint that quantization hardly changes, so that its gate passes."""
    import torch

    from tests.tiny_model import write_tiny_model

    folder = tmp_path_factory.mktemp("tiny") / "model"
    return write_tiny_model(folder, opinion=0.02, dtype=torch.bfloat16)


@pytest.fixture(scope="session")
def recipe(tmp_path_factory) -> Path:
    """GPTQ that fits the tiny model."""
    file = tmp_path_factory.mktemp("recipe") / "gptq.yaml"
    file.write_text(RECIPE)
    return file


@pytest.fixture
def tiny_copy(tiny_model, tmp_path) -> Callable[[str], Path]:
    """A copy of the tiny model, to be spoilt."""
    import shutil

    def copy(name: str) -> Path:
        return Path(shutil.copytree(tiny_model, tmp_path / name))

    return copy
