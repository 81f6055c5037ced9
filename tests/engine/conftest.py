"""A tiny real model, loaded once."""

from pathlib import Path

import pytest

from deploy_targets.engine.generation import Generator
from tests.tiny_model import write_tiny_model


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def generator(checkpoint: Path) -> Generator:
    return Generator(checkpoint, threads=1, max_context_tokens=256)
