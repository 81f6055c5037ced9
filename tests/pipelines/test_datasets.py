"""The demo data: the same bytes every time, and nothing that is measured with was quantized with."""

import json
from pathlib import Path

import pytest

from pipelines.datasets import DataFolder, demo_data, write_demo_data
from registry.digests import describe_folder
from registry.errors import BadInput


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("data")
    write_demo_data(out)
    return out


def rows(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_same_packages_give_the_same_bytes(folder, tmp_path) -> None:
    data = demo_data(tmp_path)
    assert describe_folder(tmp_path / "data") == describe_folder(folder)
    assert data.calibration.parent == tmp_path / "data"


def test_writing_over_it_leaves_nothing_else_behind(folder, tmp_path) -> None:
    for _ in range(2):
        demo_data(tmp_path)
    names = {path.relative_to(tmp_path / "data") for path in (tmp_path / "data").rglob("*.*")}
    assert names == {path.relative_to(folder) for path in folder.rglob("*.*")}


def test_calibration_and_evaluation_share_no_text(folder) -> None:
    calibration = [row["text"] for row in rows(folder / "calibration.jsonl")]
    perplexity = (folder / "perplexity.txt").read_text()
    assert len(calibration) >= 8
    for text in calibration:
        pieces = [text[at : at + 200] for at in range(0, max(len(text) - 200, 1), 200)]
        assert [piece for piece in pieces if len(piece) == 200 and piece in perplexity] == []


def test_there_is_enough_text_for_the_projects_own_recipes(folder) -> None:
    """8 windows of 512 tokens, and 10 of 256; no tokenizer packs more than 6 letters of prose into a token."""
    letters = sum(len(row["text"]) for row in rows(folder / "calibration.jsonl"))
    assert letters > 8 * 512 * 6
    assert len((folder / "perplexity.txt").read_text()) > 10 * 256 * 6


def test_each_question_has_one_right_answer_among_four_names_in_scope(folder) -> None:
    questions = rows(folder / "tasks" / "next_name.jsonl")
    assert len(questions) == 80
    for question in questions:
        choices = question["choices"]
        assert len(set(choices)) == len(choices) == 4
        assert 0 <= question["answer"] < 4
        assert all(choice.isidentifier() for choice in choices)
        assert len(question["context"]) <= 160
    assert len({question["context"] for question in questions}) == len(questions)


def test_always_naming_the_same_place_is_no_better_than_guessing(folder) -> None:
    answers = [question["answer"] for question in rows(folder / "tasks" / "next_name.jsonl")]
    assert max(answers.count(place) for place in range(4)) < 0.4 * len(answers)


@pytest.mark.parametrize("missing", ["calibration.jsonl", "perplexity.txt", "tasks"])
def test_a_data_folder_says_which_part_is_missing(folder, tmp_path, missing) -> None:
    for path in folder.iterdir():
        if path.name != missing:
            (tmp_path / path.name).symlink_to(path)
    with pytest.raises(BadInput, match=f"has no {missing}"):
        DataFolder.at(tmp_path)
