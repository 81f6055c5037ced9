"""Something to learn for the tiny model, and a recipe under which it does."""

import json
from pathlib import Path

import pytest

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog"]
ADAPTER = (
    "{method: lora, rank: 4, learning_rate: 0.01, epochs: 2, batch: 4, sequence_length: 64, "
    "holdout_percent: 20, dropout: 0.1}\n"
)


def write_data(file: Path) -> Path:
    """Forty chats, no two alike, whose answers are easily learned."""
    lines = [
        {
            "messages": [
                {"role": "user", "content": f"{number} {WORDS[number % 9]}"},
                {"role": "assistant", "content": " ".join(WORDS[: 3 + number % 7])},
            ]
        }
        for number in range(40)
    ]
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return file


@pytest.fixture(scope="session")
def training_data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("training") / "chats.jsonl")


@pytest.fixture(scope="session")
def adapter(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("adapter") / "lora.yaml"
    file.write_text(ADAPTER)
    return file
